"""The judge's own figures: captions become entries, entries become falsehoods, and a perfect judge scores so."""

from random import Random

import pytest

from model.evaluation.detections import Detection
from model.evaluation.judge_report import entry_of, falsified, real_scenes, score, score_broken, shuffled
from model.evaluation.prompts import TASKS
from model.evaluation.rules import Thresholds
from model.training.judge_scenes import BrokenScene, natural_color
from model.training.world import EmojiWorld

OBJECTS = ("apple", "car", "clock", "zebra")


@pytest.fixture(scope="module")
def scenes():
    return real_scenes(EmojiWorld(OBJECTS).scene, 0, 6, TASKS)


def truth(scene):
    """What a perfect judge sees."""
    return tuple(
        Detection(
            thing.name,
            thing.color or natural_color(thing.name) or "white",
            (thing.box[0] / 128, thing.box[1] / 128, thing.box[2] / 128, thing.box[3] / 128),
            0.9,
        )
        for thing in scene.objects
    )


def test_scenes_come_in_equal_numbers_of_every_task(scenes):
    assert {task: sum(scene.kind == task for scene in scenes) for task in TASKS} == dict.fromkeys(TASKS, 6)


def test_a_perfect_judge_confirms_every_caption_and_no_falsehood(scenes):
    entries = [entry_of(scene) for scene in scenes]
    seen = [truth(scene) for scene in scenes]
    assert score(entries, seen, Thresholds()).overall == 1.0
    for seed in range(5):
        false = [falsified(entry, Random(seed)) for entry in entries]
        assert score(false, seen, Thresholds()).overall == 0.0


def test_a_blind_judge_confirms_nothing(scenes):
    entries = [entry_of(scene) for scene in scenes]
    assert score(entries, [()] * len(entries), Thresholds()).overall == 0.0


def test_shuffled_captions_stay_in_their_task_and_leave_their_pictures(scenes):
    entries = [entry_of(scene) for scene in scenes]
    moved = shuffled(entries, Random(0))
    assert [entry.tag for entry in moved] == [entry.tag for entry in entries]
    assert sorted(map(repr, moved)) == sorted(map(repr, entries))
    assert all(one is not other for one, other in zip(entries, moved, strict=True))


def test_broken_things_that_are_taken_for_something_are_counted(scenes):
    scene = BrokenScene(scenes[0].pixels, (), (("car", "bent"), ("apple", "half")))
    seen = (Detection("car", "red", (0, 0, 1, 1), 0.8), Detection("zebra", "red", (0, 0, 1, 1), 0.7))
    figures = score_broken([scene, scene], [seen, ()], 0.5)
    assert figures.as_itself == 0.25
    assert figures.as_anything == 0.5
    assert figures.by_way == {"bent": 0.5, "half": 0.0}
