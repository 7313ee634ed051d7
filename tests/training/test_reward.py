"""The reward has a slope towards right pictures, reaches 1 only there, and can't be had by cheating."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from model.evaluation.prompts import PromptEntry, Wanted
from model.training.reward import TemplateReward
from model.training.reward_prompts import entry_of_scene
from model.training.world import EmojiWorld
from tests.support.staged import GRAY, stage

CLASSES = ("apple", "car", "cat", "clock", "banana", "umbrella")
RED_CAR = PromptEntry("colors", "a red car", (Wanted("car", 1, "red"),))
CAT = PromptEntry("single_object", "a cat", (Wanted("cat", 1),))
THREE_APPLES = PromptEntry("counting", "three apples", (Wanted("apple", 3),), (Wanted("apple", 4),))
BOTH = PromptEntry("two_object", "a cat and a clock", (Wanted("cat", 1), Wanted("clock", 1)))
COLORED = PromptEntry(
    "color_attr", "a red car and a blue umbrella", (Wanted("car", 1, "red"), Wanted("umbrella", 1, "blue"))
)
LEFT_OF = PromptEntry(
    "position", "a cat left of a clock", (Wanted("clock", 1), Wanted("cat", 1, position=("left of", 0)))
)
CORNERS = ((8, 8), (74, 10), (10, 74), (76, 76))


@pytest.fixture(scope="module")
def reward():
    return TemplateReward(CLASSES)


def apples(number):
    return stage(*(("apple", "red", corner, 40) for corner in CORNERS[:number]))


def blurred(picture, sigma_px):
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma_px)))


def blot(color):
    canvas = Image.new("RGB", (128, 128), GRAY)
    ImageDraw.Draw(canvas).ellipse((30, 40, 98, 86), fill=color)
    return np.asarray(canvas)


def test_right_pictures_are_worth_about_one_and_pictures_of_other_prompts_next_to_nothing(reward):
    world = EmojiWorld(CLASSES, size=128, seed=9)
    scenes = [world.scene(index) for index in range(40)]
    entries, pictures = [entry_of_scene(scene) for scene in scenes], [scene.pixels for scene in scenes]
    right = reward.score_batch(entries, pictures)
    assert right.shape == (40,)
    assert right.mean() > 0.85
    assert right.max() <= 1
    assert reward.score_batch(entries[1:] + entries[:1], pictures).mean() < 0.15


def test_a_batch_is_worth_what_its_pictures_are_worth(reward):
    pictures = [apples(3), apples(2), stage(("cat", None, (20, 20), 80))]
    entries = [THREE_APPLES, THREE_APPLES, CAT]
    alone = [reward.score(entry, picture) for entry, picture in zip(entries, pictures, strict=True)]
    assert reward.score_batch(entries, pictures) == pytest.approx(alone, abs=1e-4)


def test_no_pictures_are_worth_nothing_at_all(reward):
    assert reward.score_batch([], []).shape == (0,)


def test_the_sharper_the_better(reward):
    car = stage(("car", "red", (24, 24), 80))
    worth = [reward.score(RED_CAR, blurred(car, sigma_px)) for sigma_px in (0, 2, 4, 8)]
    assert worth[0] > 0.95
    assert worth == sorted(worth, reverse=True)
    assert worth[0] > worth[1] + 0.02 > worth[2] + 0.04 > worth[3] + 0.06


def test_the_wrong_colour_leaves_something_and_the_wrong_thing_nothing(reward):
    right, recolored, other = (
        reward.score(RED_CAR, stage((name, color, (24, 24), 80)))
        for name, color in (("car", "red"), ("car", "green"), ("cat", "red"))
    )
    assert right > 0.95
    assert 0.1 < recolored < 0.4
    assert other < 0.05


def test_the_nearer_to_the_number_the_better(reward):
    one, two, three, four = (reward.score(THREE_APPLES, apples(number)) for number in (1, 2, 3, 4))
    assert three == 1
    assert 0 < one < two < 0.6
    assert four < 0.6


def test_one_of_two_things_is_worth_less_than_half(reward):
    cat, clock = ("cat", None, (8, 40), 50), ("clock", None, (70, 40), 50)
    assert reward.score(BOTH, stage(cat, clock)) > 0.95
    assert 0.1 < reward.score(BOTH, stage(cat)) < 0.5


def test_colours_on_the_wrong_things_are_worth_little(reward):
    def painted(car, umbrella):
        return stage(("car", car, (6, 40), 52), ("umbrella", umbrella, (70, 40), 52))

    assert reward.score(COLORED, painted("red", "blue")) > 0.9
    assert reward.score(COLORED, painted("blue", "red")) < 0.35
    assert 0.35 < reward.score(COLORED, painted("red", "red")) < 0.7


def test_a_place_is_worth_more_the_nearer_it_is_to_the_right_one(reward):
    def cat_at(corner):
        return reward.score(LEFT_OF, stage(("clock", None, (66, 44), 44), ("cat", None, corner, 40)))

    left, upper_left, above, right_above = cat_at((6, 46)), cat_at((26, 2)), cat_at((60, 2)), cat_at((86, 2))
    assert left > 0.9
    assert left > upper_left > above > right_above
    assert right_above < 0.5


def test_things_that_nobody_asked_for_cost_something(reward):
    cat = ("cat", None, (6, 6), 60)
    alone = reward.score(CAT, stage(cat))
    in_company = reward.score(CAT, stage(cat, ("clock", None, (74, 74), 45)))
    assert alone == 1
    assert 0.5 < in_company < 0.9


@pytest.mark.parametrize("sigma_px", [0, 2])
def test_patches_of_the_right_colour_are_worth_little(reward, sigma_px):
    assert reward.score(RED_CAR, blurred(blot((215, 40, 40)), sigma_px)) < 0.15


def test_cheating_does_not_pay(reward):
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 2, (16, 16, 3), dtype=np.uint8) * 255
    places = [(left, top) for left in range(4, 120, 16) for top in range(4, 120, 16)]
    tricks = {
        "nothing": stage(),
        "noise": generator.integers(0, 256, (128, 128, 3), dtype=np.uint8),
        "garish squares": np.asarray(Image.fromarray(coarse).resize((128, 128), Image.Resampling.NEAREST)),
        "all one colour": np.full((128, 128, 3), (215, 40, 40), dtype=np.uint8),
        "many tiny ones": stage(*(("car", "red", place, 10) for place in places)),
        "nine small ones": stage(*(("car", "red", (x, y), 30) for x in (5, 48, 90) for y in (5, 48, 90))),
        "larger than the picture": stage(("car", "red", (-20, -10), 170)),
        "half of one": stage(("car", "red", (-40, 24), 80)),
    }
    worth = {trick: reward.score(RED_CAR, picture) for trick, picture in tricks.items()}
    assert max(worth.values()) < 0.2, worth
    assert worth["nothing"] == worth["noise"] == worth["all one colour"] == 0


def test_prompts_that_it_can_not_judge_are_refused(reward):
    with pytest.raises(ValueError, match="'a dog' asks for dog, which this reward has no template of"):
        reward.score(PromptEntry("single_object", "a dog", (Wanted("dog", 1),)), stage())
    with pytest.raises(ValueError, match="asks for 9 objects, at most 6 can be judged"):
        reward.score(PromptEntry("counting", "nine cats", (Wanted("cat", 9),)), stage())
