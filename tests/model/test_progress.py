"""A picture that goes on elsewhere is the same picture; what is not its own progress is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.engine import Engine
from model.params import GenerationParams
from tests.support.tiny_bundle import write_tiny_bundle

PARAMS = GenerationParams("a red apple", 64, 64, num_inference_steps=8, guidance_scale=3.0, seed=11)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"), name="tiny", vocabulary=("a", "red", "apple"))


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine.load(bundle, "cpu", "float32")


def draw(engine, samples):
    while not samples[0].is_finished:
        engine.step(samples)
    return engine.decode(samples)[0]


def progress_of(engine, params, num_steps):
    samples = engine.begin([params])
    for _ in range(num_steps):
        engine.step(samples)
    return engine.export(samples)[0].to_bytes()


@pytest.mark.parametrize("exact_rows", [0, 4])
@pytest.mark.parametrize("num_steps", [1, 6])
def test_a_picture_that_goes_on_in_another_engine_is_the_same_to_the_bit(bundle, exact_rows, num_steps):
    first, second = (Engine.load(bundle, "cpu", "float32", exact_rows=exact_rows) for _ in range(2))
    undisturbed = draw(first, first.begin([PARAMS]))
    samples = second.begin([PARAMS])
    second.resume(samples[0], progress_of(first, PARAMS, num_steps))
    assert samples[0].step == num_steps
    np.testing.assert_array_equal(draw(second, samples), undisturbed)


def test_a_picture_that_goes_on_in_company_is_the_same_within_rounding(engine):
    undisturbed = draw(engine, engine.begin([PARAMS])).astype(int)
    samples = engine.begin([PARAMS, replace(PARAMS, seed=12), replace(PARAMS, prompt="a")])
    engine.resume(samples[0], progress_of(engine, PARAMS, 3))
    while not samples[0].is_finished:
        engine.step(samples)
    assert np.abs(engine.decode(samples[:1])[0].astype(int) - undisturbed).max() <= 2


@pytest.mark.parametrize(
    "other",
    [
        replace(PARAMS, seed=12),
        replace(PARAMS, prompt="a green apple"),
        replace(PARAMS, guidance_scale=3.5),
        replace(PARAMS, num_inference_steps=9),
        replace(PARAMS, exact_schedule=True),
    ],
)
def test_the_progress_of_another_recipe_is_refused(engine, other):
    (sample,) = engine.begin([PARAMS])
    before = sample.latents.clone()
    with pytest.raises(ValueError, match="another model, version or recipe"):
        engine.resume(sample, progress_of(engine, other, 2))
    assert sample.step == 0
    assert torch.equal(sample.latents, before)


def test_the_progress_of_another_version_of_the_model_is_refused(engine, bundle):
    other = Engine.load(bundle, "cpu", "float32")
    other.card = replace(other.card, version="other")
    (sample,) = engine.begin([PARAMS])
    with pytest.raises(ValueError, match="another model, version or recipe"):
        engine.resume(sample, progress_of(other, PARAMS, 2))


def test_damaged_progress_is_refused_and_never_drawn(engine):
    state = progress_of(engine, PARAMS, 2)
    (sample,) = engine.begin([PARAMS])
    for damaged in (b"", state[:-1], state[:40], b"\xff" * len(state), state[:8] + b"[" + state[9:]):
        with pytest.raises(ValueError, match="progress that was kept"):
            engine.resume(sample, damaged)


def test_latents_that_overflowed_are_not_taken_up_again(engine):
    samples = engine.begin([PARAMS])
    engine.step(samples)
    samples[0].latents = samples[0].latents * torch.inf
    (progress,) = engine.export(samples)
    (sample,) = engine.begin([PARAMS])
    with pytest.raises(ValueError, match="not finite"):
        engine.resume(sample, progress.to_bytes())


def test_progress_says_nothing_of_the_prompt(engine):
    assert b"apple" not in progress_of(engine, PARAMS, 2)
