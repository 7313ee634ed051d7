"""The template judge finds what the emoji world draws, and nothing where nothing is."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from model.evaluation.prompts import Wanted
from model.evaluation.rules import check
from model.evaluation.template_judge import THRESHOLDS, TemplateJudge
from model.training.backgrounds import BACKGROUNDS
from model.training.reward_prompts import entry_of_scene
from model.training.world import EmojiWorld
from tests.support.staged import GRAY, stage

CLASSES = ("apple", "banana", "car", "cat", "umbrella", "tennis racket", "fork")
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@pytest.fixture(scope="module")
def judge():
    return TemplateJudge(CLASSES)


@pytest.fixture(scope="module")
def scenes():
    world = EmojiWorld(CLASSES, size=128, seed=21)
    return [world.scene(index) for index in range(40)]


@pytest.fixture(scope="module")
def seen(judge, scenes):
    return judge.look([scene.pixels for scene in scenes])


def share_in_common(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0) * max(height, 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return common / (area - common)


def shares_passed(entries, seen):
    return [check(entry, found, THRESHOLDS).is_correct for entry, found in zip(entries, seen, strict=True)]


def test_scenes_pass_the_rules_for_their_own_captions(scenes, seen):
    passed = shares_passed([entry_of_scene(scene) for scene in scenes], seen)
    assert np.mean(passed) >= 0.95


def test_every_object_is_seen_with_its_name_its_colour_and_its_box_without_the_shadow(scenes, seen):
    found_right = []
    for scene, detections in zip(scenes, seen, strict=True):
        for thing in scene.objects:
            box = tuple(edge / 128 for edge in thing.box)
            found = max(detections, key=lambda detection: share_in_common(detection.box, box))
            same_color = thing.color is None or found.color == thing.color
            found_right.append(found.name == thing.name and same_color and share_in_common(found.box, box) > 0.85)
    assert np.mean(found_right) >= 0.97


def almost_right(scene):
    """What the scene's caption says, changed so that the picture is wrong."""
    entry = entry_of_scene(scene)
    first, *others = entry.include
    if entry.tag == "color_attr":
        yield replace(entry, include=(replace(first, color=others[0].color), replace(others[0], color=first.color)))
    elif entry.tag == "position":
        relation = OPPOSITES[others[0].position[0]]
        yield replace(entry, include=(first, replace(others[0], position=(relation, 0))))
    elif entry.tag == "counting":
        for count in (first.count - 1, first.count + 1):
            one_more = (Wanted(first.name, count + 1),)
            yield replace(entry, include=(replace(first, count=count),), exclude=one_more)
    else:
        shown = {thing.name for thing in scene.objects}
        other = next(name for name in CLASSES if name not in shown)
        yield replace(entry, include=(replace(first, name=other), *others))


def test_captions_that_are_wrong_in_one_thing_are_refused(scenes, seen):
    accepted = [
        check(entry, found, THRESHOLDS).is_correct
        for scene, found in zip(scenes, seen, strict=True)
        for entry in almost_right(scene)
    ]
    assert np.mean(accepted) <= 0.02


def test_slightly_soft_pictures_still_show_what_they_show(judge, scenes):
    soft = [np.asarray(Image.fromarray(scene.pixels).filter(ImageFilter.GaussianBlur(1))) for scene in scenes]
    passed = shares_passed([entry_of_scene(scene) for scene in scenes], judge.look(soft))
    assert np.mean(passed) >= 0.85


def test_the_same_pictures_always_give_the_same_detections(judge, scenes, seen):
    assert judge.look([scene.pixels for scene in scenes]) == seen


def test_one_picture_alone_is_seen_as_it_is_among_others(judge, scenes, seen):
    for scene, detections in list(zip(scenes, seen, strict=True))[:5]:
        alone = judge.detections(judge.look_closely(scene.pixels))
        assert [(one.name, one.color, one.box) for one in alone] == [
            (one.name, one.color, one.box) for one in detections
        ]
        assert [one.confidence for one in alone] == pytest.approx([one.confidence for one in detections], abs=1e-4)


def test_a_close_look_knows_every_class_and_every_colour(judge):
    look = judge.look_closely(stage(("car", "red", (30, 30), 70)))
    (component,) = look.components
    assert component.class_matches.shape == (len(CLASSES),)
    assert judge.classes[int(component.class_matches.argmax())] == "car"
    assert component.color == "red"
    assert component.color_shares.sum() == pytest.approx(1, abs=1e-4)
    assert look.speck_share == 0


@pytest.mark.parametrize("background", [*BACKGROUNDS.values(), (0, 0, 0), (255, 255, 255)])
def test_a_plain_picture_shows_nothing(judge, background):
    assert judge.look([stage(background=background)]) == [()]


def test_noise_shows_nothing(judge):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert judge.look([noise]) == [()]
    assert judge.look_closely(noise).speck_share > 0.5


@pytest.mark.parametrize("side_px", [96, 256])
def test_pictures_of_other_sizes_are_seen_in_fractions_of_their_sides(judge, side_px):
    picture = stage(("umbrella", "blue", (side_px // 4, side_px // 4), side_px // 2), side_px=side_px)
    ((found,),) = judge.look([picture])
    assert (found.name, found.color) == ("umbrella", "blue")
    assert found.box[:2] == pytest.approx((0.25, 0.25), abs=0.03)


def test_a_part_that_stands_apart_belongs_to_its_object(judge):
    ((found,),) = judge.look([stage(("tennis racket", "green", (30, 30), 70))])
    assert found.name == "tennis racket"


def test_gray_things_on_white_are_not_taken_for_shadows(judge):
    ((found,),) = judge.look([stage(("fork", None, (30, 30), 70), background=(249, 249, 250))])
    assert found.name == "fork"


def test_a_blot_is_no_object(judge):
    canvas = Image.new("RGB", (128, 128), GRAY)
    ImageDraw.Draw(canvas).rounded_rectangle((30, 40, 95, 85), 15, fill=(215, 40, 40))
    ((found,),) = judge.look([np.asarray(canvas)])
    assert found.confidence < THRESHOLDS.presence


def test_unknown_classes_are_refused_with_the_known_ones_named():
    with pytest.raises(ValueError, match=r"unknown classes \['dragon'\]; known: person, bicycle"):
        TemplateJudge(("cat", "dragon"))
