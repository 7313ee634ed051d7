"""The emoji world keeps its promises: determinism, truthful captions, room between objects, held-out combinations."""

import math
from collections import Counter

import numpy as np
import pytest

from model.training.captions import COUNT_WORDS, KINDS, RELATION_PHRASES, with_article
from model.training.recolor import COLORS
from model.training.sprites import object_names
from model.training.world import EmojiWorld, is_held_out_color, is_held_out_pair

OBJECTS = ("apple", "car", "cat", "knife", "tie", "stop sign", "teddy bear", "orange")
NUM_SCENES = 120


@pytest.fixture(scope="module")
def world():
    return EmojiWorld(OBJECTS, size=48, seed=3)


@pytest.fixture(scope="module")
def scenes(world):
    return [world.scene(index) for index in range(NUM_SCENES)]


@pytest.fixture(scope="module")
def held_out_scenes(world):
    return [world.held_out_scene(index) for index in range(40)]


def test_a_seed_and_an_index_mean_the_same_scene_in_any_order(scenes):
    again = EmojiWorld(OBJECTS, size=48, seed=3)
    for index in (17, 5, 110):
        scene = again.scene(index)
        assert scene.caption == scenes[index].caption
        assert scene.objects == scenes[index].objects
        assert np.array_equal(scene.pixels, scenes[index].pixels)


def test_another_seed_means_other_scenes(scenes):
    other = EmojiWorld(OBJECTS, size=48, seed=4)
    assert [other.scene(index).caption for index in range(5)] != [scene.caption for scene in scenes[:5]]


def test_pixels_are_bytes_of_the_asked_size(scenes):
    assert all(scene.pixels.shape == (48, 48, 3) and scene.pixels.dtype == np.uint8 for scene in scenes)


def test_every_kind_occurs_and_counting_most_often(scenes):
    counts = Counter(scene.kind for scene in scenes)
    assert set(counts) == set(KINDS)
    assert counts.most_common(1)[0][0] == "counting"


def test_captions_name_what_the_scene_shows(scenes, held_out_scenes):
    for scene in [*scenes, *held_out_scenes]:
        body = scene.caption.removeprefix("a photo of ")
        body = body.removesuffix(f" on {with_article(scene.background)} background")
        named = [f"{thing.color} {thing.name}" if thing.color else thing.name for thing in scene.objects]
        if scene.kind == "counting":
            assert len(set(named)) == 1
            start = f"{COUNT_WORDS[len(named)]} {named[0][:-2]}"  # knife, knives, knifes
            assert body.startswith(start)
            assert body.endswith("s")
        elif scene.kind == "position":
            first, second = map(with_article, named)
            assert body in {f"{first} {phrase} {second}" for phrase in RELATION_PHRASES[scene.relation]}
        else:
            assert body == " and ".join(map(with_article, named))


def test_colour_kinds_name_a_colour_for_every_object_and_others_none(scenes):
    for scene in scenes:
        colors = [thing.color for thing in scene.objects]
        if scene.kind in ("colors", "color_attr"):
            assert set(colors) <= set(COLORS)
        elif scene.kind != "counting":
            assert set(colors) == {None}
        if scene.kind == "color_attr":
            assert colors[0] != colors[1]


def test_objects_stay_inside_and_keep_a_gap_of_a_twentieth_of_the_width():
    world = EmojiWorld(("tie", "car", "cat", "bench"), size=128, seed=1)
    for index in range(40):
        boxes = [thing.box for thing in world.scene(index).objects]
        for number, (left, top, right, bottom) in enumerate(boxes):
            assert left >= 0
            assert top >= 0
            assert right <= 128
            assert bottom <= 128
            for other in boxes[:number]:
                room_x = max(left - other[2], other[0] - right)
                room_y = max(top - other[3], other[1] - bottom)
                assert max(room_x, room_y) >= 0.05 * 128


def relations_by_geneval(first, second):
    """GenEval's relative_position, written down from its description: offsets beyond a tenth of both sizes."""
    centers = np.array([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2] for box in (first, second)])
    extents = np.array([[box[2] - box[0], box[3] - box[1]] for box in (first, second)])
    offset = centers[0] - centers[1]
    revised = np.maximum(np.abs(offset) - 0.1 * extents.sum(0), 0) * np.sign(offset)
    x, y = revised / math.hypot(*offset)
    found = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in found.items() if holds}


def test_position_scenes_satisfy_genevals_rule_for_their_relation_alone(scenes):
    positions = [scene for scene in scenes if scene.kind == "position"]
    assert {scene.relation for scene in positions} == set(RELATION_PHRASES)
    for scene in positions:
        first, second = scene.objects
        assert relations_by_geneval(first.box, second.box) == {scene.relation}


def test_held_out_combinations_never_appear_in_training_and_always_in_held_out_scenes(scenes, held_out_scenes):
    def shows_held_out(scene):
        names = [thing.name for thing in scene.objects]
        return any(thing.color and is_held_out_color(thing.name, thing.color) for thing in scene.objects) or (
            len(set(names)) == 2 and is_held_out_pair(*names)
        )

    assert not any(shows_held_out(scene) or scene.is_held_out for scene in scenes)
    assert all(shows_held_out(scene) and scene.is_held_out for scene in held_out_scenes)


def test_a_twentieth_to_a_tenth_of_all_combinations_is_held_out():
    names = object_names()
    colors = [is_held_out_color(name, color) for name in names for color in COLORS]
    pairs = [is_held_out_pair(first, second) for first in names for second in names if first < second]
    assert 0.05 <= sum(colors) / len(colors) <= 0.10
    assert 0.05 <= sum(pairs) / len(pairs) <= 0.10
    assert is_held_out_pair("cat", "dog") == is_held_out_pair("dog", "cat")


def test_backgrounds_differ_from_the_objects_in_front_of_them(scenes):
    for scene in scenes:
        assert all(thing.color != scene.background for thing in scene.objects)
        for thing in scene.objects:
            left, top, right, bottom = thing.box
            corner = scene.pixels[0, 0].astype(int)
            inside = scene.pixels[top:bottom, left:right].astype(int)
            assert (np.abs(inside - corner).max(-1) > 30).mean() > 0.2


def test_every_word_of_every_caption_is_in_the_vocabulary(world, scenes, held_out_scenes):
    words = {word for scene in [*scenes, *held_out_scenes] for word in scene.caption.split()}
    assert words <= set(world.vocabulary)


def test_unknown_objects_are_refused_with_the_known_ones_named():
    with pytest.raises(ValueError, match=r"unknown objects \['dragon'\]; known: person, bicycle"):
        EmojiWorld(("apple", "dragon"))


@pytest.mark.parametrize("objects", [("apple",), ("apple", "apple")])
def test_a_world_needs_two_different_objects(objects):
    with pytest.raises(ValueError, match="at least two objects"):
        EmojiWorld(objects)


def test_a_world_without_held_out_combinations_says_so():
    pair = next(
        (first, second)
        for first in OBJECTS
        for second in OBJECTS
        if first != second
        and not is_held_out_pair(first, second)
        and not any(is_held_out_color(name, color) for name in (first, second) for color in COLORS)
    )
    with pytest.raises(ValueError, match="no held-out combinations"):
        EmojiWorld(pair, size=16).held_out_scene(0)


def test_a_world_knows_all_eighty_objects_when_none_are_named():
    world = EmojiWorld(size=32, seed=0)
    assert world.objects == object_names()
    assert len(world.objects) == 80
    assert world.scene(0).pixels.shape == (32, 32, 3)


def test_on_a_grid_objects_stand_on_cell_corners_and_measure_whole_cells():
    world = EmojiWorld(OBJECTS, size=128, cell_px=16)
    for index in range(30):
        for thing in world.scene(index).objects:
            left, top, right, bottom = thing.box
            assert max(right - left, bottom - top) % 16 == 0
            for center_px in ((left + right) / 2, (top + bottom) / 2):
                assert abs(center_px / 16 - round(center_px / 16)) <= 1 / 16  # boxes are rounded to pixels


def test_a_grid_that_does_not_fit_the_picture_is_refused():
    for cell_px in (24, 32):
        with pytest.raises(ValueError, match="at least 8 cells"):
            EmojiWorld(OBJECTS, size=128, cell_px=cell_px)
