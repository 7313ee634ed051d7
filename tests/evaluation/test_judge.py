"""The shipped judge: it sees what is there, in any size of picture, the same every time, and nothing in mush."""

import json

import numpy as np
import pytest
from PIL import Image

from model.errors import TensorFileError
from model.evaluation.judge import SHIPPED_WEIGHTS, load_judge
from model.evaluation.judge_report import entry_of
from model.evaluation.rules import check
from model.training.judge_scenes import broken_scene
from model.training.recolor import COLORS
from model.training.sprites import object_names
from model.training.world import EmojiWorld

OBJECTS = ("apple", "car", "clock", "zebra")


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture(scope="module")
def scenes():
    world = EmojiWorld(OBJECTS)
    return [world.scene(4 * 10**9 + index) for index in range(24)]


def test_the_shipped_judge_knows_every_object_and_colour_and_is_small(judge):
    assert judge.classes == object_names()
    assert judge.colors == COLORS
    assert SHIPPED_WEIGHTS.stat().st_size < 1.6e6


def test_it_confirms_renderings_it_never_saw(judge, scenes):
    seen = judge.look([scene.pixels for scene in scenes])
    correct = [
        check(entry_of(scene), found, judge.thresholds).is_correct for scene, found in zip(scenes, seen, strict=True)
    ]
    assert sum(correct) >= 23


def test_its_boxes_lie_where_the_objects_are(judge, scenes):
    seen = judge.look([scene.pixels for scene in scenes])
    for scene, found in zip(scenes, seen, strict=True):
        expected = sorted(np.array(thing.box) / 128 for thing in scene.objects) if len(scene.objects) == 1 else []
        for box in expected:
            assert found[0].box == pytest.approx(box, abs=0.06)


def test_it_sees_the_same_twice_and_whatever_stands_beside_a_picture_in_the_batch(judge, scenes):
    pictures = [scene.pixels for scene in scenes[:6]]
    together = judge.look(pictures)
    assert judge.look(pictures) == together
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = judge.look([picture])
        assert [one.name for one in alone] == [one.name for one in found]
        assert [one.confidence for one in alone] == pytest.approx([one.confidence for one in found], abs=1e-4)


def test_a_larger_picture_shows_the_same(judge, scenes):
    picture = scenes[0].pixels
    large = np.asarray(Image.fromarray(picture).resize((256, 256), Image.Resampling.NEAREST))
    (small_seen,), (large_seen,) = judge.look([picture]), judge.look([large])
    assert [one.name for one in small_seen] == [one.name for one in large_seen]


def test_it_sees_little_in_broken_things(judge):
    broken = [broken_scene(f"test/{index}", intact_share=0.0, objects=OBJECTS) for index in range(20)]
    seen = judge.look([scene.pixels for scene in broken])
    num_seen = sum(one.confidence > judge.thresholds.presence for found in seen for one in found)
    assert num_seen <= 0.15 * sum(len(scene.broken) for scene in broken)


def test_pictures_of_different_sizes_or_types_are_refused(judge):
    with pytest.raises(ValueError, match="same shape"):
        judge.look([np.zeros((128, 128, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)])
    with pytest.raises(ValueError, match="float32"):
        judge.look([np.zeros((128, 128, 3), np.float32)])
    assert judge.look([]) == []


def test_a_truncated_weights_file_is_refused(tmp_path):
    path = tmp_path / "judge.safetensors"
    path.write_bytes(SHIPPED_WEIGHTS.read_bytes()[:1000])
    with pytest.raises(TensorFileError, match="truncated"):
        load_judge(path)


def test_its_report_was_made_for_the_weights_that_are_shipped():
    import hashlib

    report = json.loads(SHIPPED_WEIGHTS.with_name("judge_report.json").read_text("utf-8"))
    assert report["weights_sha256"] == hashlib.sha256(SHIPPED_WEIGHTS.read_bytes()).hexdigest()
    assert report["real"]["overall"] >= 0.97
    assert report["hard_negatives"]["overall"] <= 0.01
