"""Captions: GenEval's templates, articles, plurals, and a bound on their length."""

import itertools
from random import Random

import pytest

from model.training.backgrounds import BACKGROUNDS
from model.training.captions import (
    MAX_CAPTION_WORDS,
    NAIVE_PLURAL_RATE,
    RELATION_PHRASES,
    plural,
    with_article,
    write_caption,
)
from model.training.recolor import COLORS
from model.training.sprites import object_names


@pytest.mark.parametrize(
    ("words", "expected"),
    [("apple", "an apple"), ("car", "a car"), ("orange car", "an orange car"), ("red apple", "a red apple")],
)
def test_articles_follow_the_first_word(words, expected):
    assert with_article(words) == expected


@pytest.mark.parametrize(
    ("name", "naive", "proper"),
    [("knife", "knifes", "knives"), ("bus", "buss", "buses"), ("car", "cars", "cars"), ("sheep", "sheeps", "sheep")],
)
def test_plurals_are_proper_or_genevals_own(name, naive, proper):
    assert plural(name, is_naive=True) == naive
    assert plural(name, is_naive=False) == proper


def test_about_a_third_of_the_plurals_are_naive():
    knives = (("knife", None),) * 3
    captions = [write_caption(Random(seed), "counting", knives, None, "red") for seed in range(2000)]
    assert sum("knifes" in caption for caption in captions) / 2000 == pytest.approx(NAIVE_PLURAL_RATE, abs=0.04)


def test_the_photo_prefix_and_the_background_come_and_go():
    captions = {write_caption(Random(seed), "single_object", (("car", None),), None, "orange") for seed in range(100)}
    assert captions == {
        "a car",
        "a photo of a car",
        "a car on an orange background",
        "a photo of a car on an orange background",
    }


def test_no_caption_is_longer_than_promised():
    longest = sorted(object_names(), key=lambda name: -len(name.split()))[:12]
    for first, second in itertools.permutations(longest, 2):
        plain, colored = ((first, None), (second, None)), ((first, "orange"), (second, "orange"))
        for seed in range(4):
            for relation in RELATION_PHRASES:
                caption = write_caption(Random(seed), "position", plain, relation, "orange")
                assert len(caption.split()) <= MAX_CAPTION_WORDS
            assert len(write_caption(Random(seed), "color_attr", colored, None, "gray").split()) <= MAX_CAPTION_WORDS


def test_backgrounds_are_the_ten_colours_and_gray():
    assert set(BACKGROUNDS) == {*COLORS, "gray"}
