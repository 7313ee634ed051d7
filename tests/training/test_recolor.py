"""Recolouring: colour spaces invert, targets are reached, the strict check passes what it should."""

import numpy as np
import pytest

from model.training.recolor import COLORS, PAINTS, color_shares, is_faithful, oklab_to_srgb, recolor, srgb_to_oklab
from model.training.sprites import SpriteSheet, object_names


def test_oklab_and_back_is_the_same_colour_to_one_level():
    colors = np.random.default_rng(0).integers(0, 256, (2000, 3), dtype=np.uint8)
    back = oklab_to_srgb(srgb_to_oklab(colors))
    assert np.abs(back.astype(int) - colors.astype(int)).max() <= 2


def test_oklab_of_known_colours():
    # Published by the space's author: white is (1, 0, 0), red (0.628, 0.2249, 0.1258).
    lab = srgb_to_oklab(np.array([[255, 255, 255], [255, 0, 0]], dtype=np.uint8))
    assert lab[0] == pytest.approx([1, 0, 0], abs=1e-3)
    assert lab[1] == pytest.approx([0.628, 0.2249, 0.1258], abs=1e-3)


def test_colours_outside_the_gamut_keep_lightness_and_hue():
    lab = np.array([[0.9, 0.3, 0.1]], dtype=np.float32)
    mapped = srgb_to_oklab(oklab_to_srgb(lab))[0]
    assert mapped[0] == pytest.approx(0.9, abs=0.01)
    assert np.arctan2(mapped[2], mapped[1]) == pytest.approx(np.arctan2(0.1, 0.3), abs=0.05)


@pytest.mark.parametrize("color", COLORS)
def test_every_named_paint_is_recognised_as_itself(color):
    pixels = np.full((8, 8, 4), 255, dtype=np.uint8)
    pixels[..., :3] = oklab_to_srgb(np.array([PAINTS[color].lab], dtype=np.float32))
    assert color_shares(pixels)[color] == 1.0


def test_alpha_is_kept_and_the_source_is_not_written_to():
    sprite = np.asarray(SpriteSheet(side=48).image("apple")).copy()
    before = sprite.copy()
    painted = recolor(sprite, "blue")
    assert np.array_equal(sprite, before)
    assert np.array_equal(painted[..., 3], sprite[..., 3])


def test_every_sprite_draws_something_and_is_cropped_to_it():
    sheet = SpriteSheet(side=32)
    for name in object_names():
        alpha = np.asarray(sheet.image(name))[..., 3]
        assert alpha.max() == 255
        assert all(edge.any() for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))


def test_most_pairs_of_an_object_and_a_colour_pass_the_strict_check():
    sheet = SpriteSheet(side=48)
    counts = [len(sheet.colors(name)) for name in object_names()[::8]]
    assert 0.80 <= sum(counts) / (10 * len(counts)) <= 0.97


@pytest.mark.slow
def test_most_of_the_800_object_and_colour_pairs_pass_the_strict_check():
    sheet = SpriteSheet(side=48)
    passing = {name: sheet.colors(name) for name in object_names()}
    assert 715 <= sum(map(len, passing.values())) <= 760
    assert {name for name, colors in passing.items() if not colors} <= {"bicycle", "sports ball"}


def test_a_sprite_of_two_equal_colours_fails_the_strict_check():
    pixels = np.full((8, 8, 4), 255, dtype=np.uint8)
    pixels[:4, :, :3] = oklab_to_srgb(np.array([PAINTS["red"].lab], dtype=np.float32))
    pixels[4:, :, :3] = oklab_to_srgb(np.array([PAINTS["blue"].lab], dtype=np.float32))
    assert not is_faithful(pixels, "red")
