"""Prompts for reward tuning: of training's world only, and none that a score uses."""

import pytest

from model.evaluation.detections import Detection
from model.evaluation.prompts import TASKS, Wanted
from model.evaluation.rules import Thresholds, check
from model.training.reward_prompts import entry_of_scene, known_objects, reward_entry
from model.training.sprites import object_names
from model.training.tokenizer import known_words
from model.training.world import EmojiWorld, is_held_out_color, is_held_out_pair

OBJECTS = ("apple", "banana", "cat")


@pytest.fixture(scope="module")
def world():
    return EmojiWorld(OBJECTS, size=64)


def seen_in(scene, size):
    """What a perfect judge finds in a scene."""
    for thing in scene.objects:
        box = tuple(side / size for side in thing.box)
        yield Detection(thing.name, thing.color or "red", box, 1.0)


def test_every_scene_shows_what_its_own_prompt_asks_for(world):
    for index in range(40):
        scene = world.scene(index)
        verdict = check(entry_of_scene(scene), tuple(seen_in(scene, world.size)), Thresholds())
        assert verdict.is_correct, (scene.caption, verdict.reason)


def test_prompts_are_of_the_task_asked_for_and_the_same_every_time(world):
    for task in TASKS:
        entry = reward_entry(world, task, 3)
        assert entry.tag == task
        assert entry == reward_entry(EmojiWorld(OBJECTS, size=64), task, 3)
        assert {wanted.name for wanted in entry.include} <= set(OBJECTS)


def test_nothing_that_is_held_out_is_asked_for(world):
    for task in ("colors", "color_attr", "two_object"):
        for index in range(8):
            wanted = reward_entry(world, task, index).include
            assert not any(one.color and is_held_out_color(one.name, one.color) for one in wanted)
            assert len(wanted) < 2 or not is_held_out_pair(wanted[0].name, wanted[1].name)


def test_counting_refuses_one_more_than_asked_for(world):
    entry = reward_entry(world, "counting", 0)
    (wanted,) = entry.include
    assert entry.exclude == (Wanted(wanted.name, wanted.count + 1),)


def test_prompts_of_a_score_are_left_out_word_for_word(world):
    first = reward_entry(world, "colors", 0)
    other = reward_entry(world, "colors", 0, forbidden={first.prompt})
    assert other.tag == "colors"
    assert other.prompt != first.prompt


def test_a_world_without_scenes_of_a_task_says_so(world):
    with pytest.raises(ValueError, match=r"no scene of task 'juggling'.*apple, banana, cat"):
        reward_entry(world, "juggling", 0)


def test_objects_are_read_from_a_vocabulary_whose_colours_are_no_objects():
    assert known_objects(known_words(OBJECTS)) == ("cat", "banana", "apple")
    assert known_objects(known_words(("apple", "cat"))) == ("cat", "apple")
    assert known_objects(known_words(("apple", "orange"))) == ("apple", "orange")


def test_a_teddy_bear_does_not_make_a_bear_known_but_all_eighty_objects_do():
    assert known_objects(known_words(("apple", "teddy bear"))) == ("apple", "teddy bear")
    assert known_objects(known_words(object_names())) == object_names()
