"""GenEval's rules, each on detections written down by hand."""

import pytest

from model.evaluation.detections import Detection
from model.evaluation.prompts import PromptEntry, Wanted
from model.evaluation.rules import Thresholds, check

THRESHOLDS = Thresholds(presence=0.3, counting=0.5)


def seen(name, *, color="red", at=(0.5, 0.5), confidence=0.9, side=0.2):
    x, y = at
    return Detection(name, color, (x - side / 2, y - side / 2, x + side / 2, y + side / 2), confidence)


def entry(*include, tag="two_object", exclude=()):
    return PromptEntry(tag, "a photo", include, exclude)


def verdict(wanted, *detections):
    return check(wanted, detections, THRESHOLDS)


def test_one_object_of_the_class_is_enough_and_others_do_no_harm():
    wanted = entry(Wanted("cat", 1), tag="single_object")
    assert verdict(wanted, seen("cat")).is_correct
    assert verdict(wanted, seen("cat"), seen("cat"), seen("dog")).is_correct


def test_a_missing_object_is_named_in_the_reason():
    found = verdict(entry(Wanted("cat", 1), Wanted("dog", 1)), seen("cat"))
    assert not found.is_correct
    assert found.reason == "1 dog wanted, 0 found"


def test_a_right_picture_has_no_reason():
    assert verdict(entry(Wanted("cat", 1)), seen("cat")).reason == ""


def test_every_unmet_wish_is_a_reason():
    found = verdict(entry(Wanted("cat", 1), Wanted("dog", 1)))
    assert found.reason == "1 cat wanted, 0 found; 1 dog wanted, 0 found"


@pytest.mark.parametrize(("confidence", "is_correct"), [(0.3, False), (0.31, True)])
def test_a_detection_counts_above_the_threshold_only(confidence, is_correct):
    assert verdict(entry(Wanted("cat", 1)), seen("cat", confidence=confidence)).is_correct == is_correct


def counting(count):
    return entry(Wanted("cat", count), tag="counting", exclude=(Wanted("cat", count + 1),))


@pytest.mark.parametrize(("number", "is_correct"), [(1, False), (2, False), (3, True), (4, False)])
def test_counting_wants_the_number_and_not_one_more(number, is_correct):
    assert verdict(counting(3), *[seen("cat")] * number).is_correct == is_correct


def test_too_many_is_a_reason():
    assert verdict(counting(2), *[seen("cat")] * 3).reason == "fewer than 3 cat wanted, 3 found"


def test_counting_has_a_threshold_of_its_own():
    doubtful = seen("cat", confidence=0.4)
    assert verdict(counting(2), seen("cat"), seen("cat"), doubtful).is_correct
    assert not verdict(counting(2), seen("cat"), doubtful).is_correct
    assert verdict(entry(Wanted("cat", 2)), seen("cat"), doubtful).is_correct


def test_the_wrong_colour_is_not_enough():
    wanted = entry(Wanted("apple", 1, "green"), tag="colors")
    assert verdict(wanted, seen("apple", color="green")).is_correct
    assert verdict(wanted, seen("apple", color="red")).reason == "1 green apple wanted, 1 red found"


def test_only_the_most_confident_object_is_asked_for_its_colour():
    wanted = entry(Wanted("apple", 1, "green"), tag="colors")
    green, red = seen("apple", color="green", confidence=0.8), seen("apple", color="red", confidence=0.9)
    assert not verdict(wanted, green, red).is_correct
    assert verdict(wanted, green, seen("apple", color="red", confidence=0.7)).is_correct


def test_swapped_colours_are_wrong():
    wanted = entry(Wanted("apple", 1, "red"), Wanted("clock", 1, "green"), tag="color_attr")
    assert verdict(wanted, seen("apple", color="red"), seen("clock", color="green")).is_correct
    assert not verdict(wanted, seen("apple", color="green"), seen("clock", color="red")).is_correct


def placed(relation):
    """GenEval's order: the target first, then what stands beside it."""
    return entry(Wanted("cat", 1), Wanted("dog", 1, position=(relation, 0)), tag="position")


@pytest.mark.parametrize(
    ("relation", "at"),
    [("left of", (0.2, 0.5)), ("right of", (0.8, 0.5)), ("above", (0.5, 0.2)), ("below", (0.5, 0.8))],
)
def test_an_object_stands_where_it_was_asked_to_and_nowhere_else(relation, at):
    dog = seen("dog", at=at)
    others = {"left of", "right of", "above", "below"} - {relation}
    assert verdict(placed(relation), seen("cat"), dog).is_correct
    for other in others:
        assert verdict(placed(other), seen("cat"), dog).reason == f"dog wanted {other} cat, {relation} it found"


def test_between_two_directions_both_hold():
    dog = seen("dog", at=(0.1, 0.1))
    assert verdict(placed("left of"), seen("cat"), dog).is_correct
    assert verdict(placed("above"), seen("cat"), dog).is_correct


def test_an_offset_within_a_tenth_of_both_sizes_is_no_relation():
    # Sizes 0.4 and 0.4: offsets up to 0.08 count as none.
    cat = seen("cat", side=0.4)
    assert not verdict(placed("right of"), cat, seen("dog", at=(0.57, 0.5), side=0.4)).is_correct
    assert verdict(placed("right of"), cat, seen("dog", at=(0.67, 0.5), side=0.4)).is_correct
    assert "nowhere clear of it" in verdict(placed("right of"), cat, seen("dog", side=0.4)).reason


def test_the_place_is_not_asked_of_what_is_not_there_nor_beside_it():
    assert verdict(placed("left of"), seen("cat")).reason == "1 dog wanted, 0 found"
    found = verdict(placed("left of"), seen("dog"))
    assert found.reason == "1 cat wanted, 0 found; dog wanted left of something that is not there"


def test_of_many_targets_the_most_confident_counts():
    cats = seen("cat", at=(0.5, 0.5), confidence=0.9), seen("cat", at=(0.1, 0.5), confidence=0.8)
    assert verdict(placed("left of"), *cats, seen("dog", at=(0.3, 0.5))).is_correct
    assert not verdict(placed("right of"), *cats, seen("dog", at=(0.3, 0.5))).is_correct
