"""The shipped demo model: small, licensed, and able to do what the README shows."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest

from model.catalog import SHIPPED_FOLDER, SHIPPED_NAMES, resolve_bundle
from model.drawing import draw_prompts
from model.engine import Engine
from model.params import GenerationParams
from model.weights import verify_bundle

MAX_BYTES = 40 * 10**6  # of all shipped models together
HUES = {"red": 0.0, "yellow": 0.14, "green": 0.36, "blue": 0.6, "purple": 0.72}
NUM_SEEDS = 3
MIN_PREVIEW_PSNR_DB = 19  # halfway, against the finished picture; docs/decisions/previews.md has 21 on average


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Engine.load(resolve_bundle("demo", tmp_path_factory.mktemp("models")), "cpu")


def test_the_demos_are_small_together():
    files = [path for path in SHIPPED_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


def test_a_demos_previews_look_like_its_pictures(engine, tmp_path):
    (sample,) = engine.begin([replace(_recipe("a red apple"), num_inference_steps=20)])
    for _ in range(10):
        engine.step([sample])
    preview = engine.preview([sample])[0].astype(float)
    while not sample.is_finished:
        engine.step([sample])
    small = engine.decode([sample])[0].reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert 10 * np.log10(255**2 / np.square(preview - small).mean()) > MIN_PREVIEW_PSNR_DB
    assert len({resolve_bundle(name, tmp_path).parts.preview for name in SHIPPED_NAMES}) == 1


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_a_demo_is_sound_and_brings_its_licence(name, tmp_path):
    bundle = resolve_bundle(name, tmp_path)
    verify_bundle(bundle, lambda line: None)
    assert bundle.card.name == name
    assert {"NOTICE", "LICENSE-Apache-2.0.txt"} <= {path.name for path in bundle.folder.iterdir()}
    assert "Noto Emoji" in bundle.card.license
    assert bundle.card.sizes == ("128x128",)


@pytest.mark.parametrize("color", HUES)
def test_an_apple_of_a_colour_has_that_colour(engine, color):
    pictures = draw_prompts(
        engine, [f"a photo of a {color} apple on a white background"] * NUM_SEEDS, steps=20, guidance=4.0, seed=11
    )
    right = sum(hue_distance(object_hue(picture), HUES[color]) < 0.1 for picture in pictures)
    assert right >= 2, [object_hue(picture) for picture in pictures]


def test_the_example_prompts_use_only_words_that_the_demo_knows(engine):
    assert engine.card.example_prompts
    for sample in engine.begin([_recipe(prompt) for prompt in engine.card.example_prompts]):
        assert sample.unknown_words == ()


def test_a_word_that_the_demo_does_not_know_is_named(engine):
    (sample,) = engine.begin([_recipe("a photo of a red dragon")])
    assert sample.unknown_words == ("dragon",)


def object_hue(picture):
    """Hue (0..1) of the picture's most saturated quarter: the object, where the background is white."""
    pixels = picture.reshape(-1, 3) / 255
    saturation = pixels.max(1) - pixels.min(1)
    mean = pixels[saturation >= np.quantile(saturation, 0.75)].mean(0)
    return colorsys.rgb_to_hsv(*mean)[0]


def hue_distance(one, other):
    return min(abs(one - other), 1 - abs(one - other))


def _recipe(prompt):
    return GenerationParams(prompt, 128, 128, 1, 0.0, seed=0)
