"""The reward of reward tuning: how well a picture shows what its prompt asks for, in 0..1, with a slope everywhere.

Judged by templates (model/evaluation/template_judge.py), never by the network that scores. Every object that is asked
for takes the component that suits it best; class, colour, number, place and tidiness each take their share, so that
one flaw less is always worth something. 1 is reached only by pictures that pass GenEval's own rules as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import permutations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.evaluation.prompts import PromptEntry, Wanted
from model.evaluation.rules import check
from model.evaluation.template_judge import THRESHOLDS, CloseLook, Component, TemplateJudge
from model.training.layouts import CLEAR_RELATION, relation_strength
from model.training.recolor import COLORS

Floats = NDArray[np.float64]
Choices = NDArray[np.intp]
Slots = Sequence[tuple[int, Wanted]]  # one for every object that is asked for, with its entry's index
Graded = TypeVar("Graded", float, Floats)


# A component's match with the class: worthless up to the first, perfect from the second.
_MATCH_RANGE = (0.15, 0.85)
_RIVAL_SCALE = 0.15  # of match: a component that looks more like another class by so much is worth 1/e
_WRONG_COLOR = 0.35  # what is left of an object in an entirely wrong colour
_CLEAR_COLOR = 0.375  # own share less half the runner-up's, where the strict check of sprites begins: 0.5 and 0.25
_WRONG_PLACE = 0.35  # what is left of a picture whose objects stand the wrong way round
_STRENGTHS = (-0.4, CLEAR_RELATION)  # of the relation: entirely wrong, entirely right
_EXTRA = 0.75  # for every object too many
_EXTRA_WHERE_COUNTED = 0.5  # the same where the prompt gives a number
_FULL_EXTRA = 0.3  # of the largest component: what is smaller is only part of an object too many
_MESS_SHARE = 0.03  # share of the picture that specks cover, at which half is left
_SIDES = (0.08, 0.18, 0.9, 1.0)  # longest side of an object: worth nothing up to, all from, all up to, nothing from
_REFUSED = 0.8  # what is left of a picture that the rules refuse
_MAX_OBJECTS = 6  # of a prompt; and of the components, the largest may stand for them


class TemplateReward:
    """Rewards for pictures of `classes` (all eighty where none are named), which prompts must not go beyond."""

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self._judge = TemplateJudge(classes)
        self._places = {name: index for index, name in enumerate(self._judge.classes)}

    def score(self, entry: PromptEntry, picture: NDArray[np.uint8]) -> float:
        """The reward of one picture (H, W, 3). Raises ValueError for a prompt that this reward can't judge."""
        return float(self.score_batch([entry], [picture])[0])

    def score_batch(self, entries: Sequence[PromptEntry], pictures: Sequence[NDArray[np.uint8]]) -> Floats:
        """The reward of each picture, (n,): the same as one by one, and faster."""
        for entry in entries:
            if unknown := sorted({wanted.name for wanted in entry.include} - set(self._places)):
                raise ValueError(
                    f"{entry.prompt!r} asks for {', '.join(unknown)}, which this reward has no template of"
                )
            if (number := sum(wanted.count for wanted in entry.include)) > _MAX_OBJECTS:
                raise ValueError(f"{entry.prompt!r} asks for {number} objects, at most {_MAX_OBJECTS} can be judged")
        looks = self._judge.look_closely_at_all(pictures)
        return np.array([self._reward(entry, look) for entry, look in zip(entries, looks, strict=True)])

    def _reward(self, entry: PromptEntry, look: CloseLook) -> float:
        """Of the best choice of components, the product of what each kind of flaw leaves."""
        if not look.components:
            return 0.0
        slots = [(index, wanted) for index, wanted in enumerate(entry.include) for _ in range(wanted.count)]
        components = look.components[: max(_MAX_OBJECTS, len(slots))]
        choices = _choices(len(slots), max(len(components), len(slots)))
        left = self._object_grades(slots, components, choices)
        left *= _place_grades(slots, components, choices)
        left *= _number_grades(entry, look.components, choices)
        left /= 1 + look.speck_share / _MESS_SHARE
        is_right = check(entry, self._judge.detections(look), THRESHOLDS).is_correct
        return float(left.max()) * (1.0 if is_right else _REFUSED)

    def _object_grades(self, slots: Slots, components: Sequence[Component], choices: Choices) -> Floats:
        """How well the chosen components are the objects that are asked for, (choices,)."""
        worths = np.zeros((len(slots), choices.max() + 1))  # what there is no component for is worth nothing
        for row, (_, wanted) in enumerate(slots):
            worths[row, : len(components)] = [self._worth(wanted, component) for component in components]
        chosen = worths[np.arange(len(slots)), choices]  # (choices, slots)
        # The mean has a slope while an object is missing; the least keeps many half-right ones below all but one right.
        return np.asarray(chosen.mean(1) * (0.6 + 0.4 * chosen.min(1)))

    def _worth(self, wanted: Wanted, component: Component) -> float:
        """How much one component is one of these, 0..1."""
        match = float(component.class_matches[self._places[wanted.name]])
        lead_of_rivals = float(component.class_matches.max()) - match
        worth = _ramp(match, *_MATCH_RANGE) * math.exp(-lead_of_rivals / _RIVAL_SCALE)
        if wanted.color is not None:
            shares = component.color_shares
            own = COLORS.index(wanted.color)
            runner_up = float(np.delete(shares, own).max())
            worth *= _left_by(_WRONG_COLOR, _ramp(float(shares[own]) - runner_up / 2, 0, _CLEAR_COLOR))
        left, top, right, bottom = component.box
        side = max(right - left, bottom - top)
        return worth * _ramp(side, *_SIDES[:2]) * (1 - _ramp(side, *_SIDES[2:]))


def _place_grades(slots: Slots, components: Sequence[Component], choices: Choices) -> Floats:
    """What is left for where the chosen components stand, (choices,): every object against every one of its targets."""
    left = np.ones(len(choices))
    for place, (_, wanted) in enumerate(slots):
        if wanted.position is None:
            continue
        relation, target = wanted.position
        grades = np.zeros((choices.max() + 1, choices.max() + 1))
        for first, second in permutations(range(len(components)), 2):
            strength = relation_strength(components[first].box, components[second].box)[relation]
            grades[first, second] = _ramp(strength, *_STRENGTHS)
        for other, (index, _) in enumerate(slots):
            if index == target:
                left *= _left_by(_WRONG_PLACE, grades[choices[:, place], choices[:, other]])
    return left


def _number_grades(entry: PromptEntry, components: Sequence[Component], choices: Choices) -> Floats:
    """What is left for the components that were not chosen, (choices,)."""
    sizes = np.array([component.share for component in components])
    weights = np.zeros(max(len(components), choices.max() + 1))
    weights[: len(components)] = np.minimum(sizes / (_FULL_EXTRA * sizes.max()), 1)
    num_extra = weights.sum() - weights[choices].sum(1)
    return np.asarray((_EXTRA_WHERE_COUNTED if entry.exclude else _EXTRA) ** num_extra)


@cache
def _choices(num_slots: int, num_components: int) -> Choices:
    """Every way to give each slot a component of its own, (ways, slots)."""
    return np.array(list(permutations(range(num_components), num_slots)), dtype=np.intp)


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high`."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _left_by(floor: float, grade: Graded) -> Graded:
    return floor + (1 - floor) * grade
