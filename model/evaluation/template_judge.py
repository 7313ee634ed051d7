"""A judge built from the sprites themselves, with nothing trained: the one that rewards are computed with.

It shares nothing with the judge that scores, so that a model tuned on it can't have learned the scoring judge's faults.
Beyond detections it gives the match of every piece with every class and colour: a soft picture that passes no test is
still better or worse than another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.evaluation.detections import Detection
from model.evaluation.foreground import SIDE_PX, Foreground, Piece, find_foreground
from model.evaluation.rules import Thresholds
from model.evaluation.templates import Templates, describe
from model.training.recolor import COLORS, FloatArray, color_shares

THRESHOLDS = Thresholds(presence=0.2, counting=0.2)
# A match of sprites with other things is at most about the first; real renderings reach about the second.
_NO_MATCH, _SURE_MATCH = 0.4, 0.75
_CLEAR_LEAD = 0.08  # over the second best class
_MAX_COLOR_PIXELS = 400  # enough to name a colour
_CHUNK = 32  # pictures whose pieces are compared together: the templates pass through the cache once


@dataclass(frozen=True, slots=True)
class Component:
    """One thing in a picture: its box in fractions, the share of the picture that it covers, and what it looks like.

    `class_matches` (c,) in 0..1 are in the order of the judge's classes; `color_shares` (11,) of COLORS and then gray.
    """

    box: tuple[float, float, float, float]
    share: float
    class_matches: FloatArray
    color_shares: FloatArray

    @property
    def color(self) -> str:
        """The colour of GenEval's ten that covers most of it."""
        return COLORS[int(np.argmax(self.color_shares[:-1]))]


@dataclass(frozen=True, slots=True)
class CloseLook:
    """All components of a picture, the largest first, and the share of it that specks cover."""

    components: tuple[Component, ...]
    speck_share: float


class TemplateJudge:
    """Finds the sprites of `classes` (all eighty where none are named) in front of plain backgrounds."""

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self._templates = Templates(classes)
        self.classes = self._templates.classes

    def look(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[Detection, ...]]:
        """Detections of each picture (H, W, 3), the most confident first: one for every component."""
        return [self.detections(look) for look in self.look_closely_at_all(pictures)]

    def detections(self, look: CloseLook) -> tuple[Detection, ...]:
        """What a close look comes down to."""
        found = [self._detection(component) for component in look.components]
        return tuple(sorted(found, key=lambda detection: -detection.confidence))

    def look_closely(self, picture: NDArray[np.uint8]) -> CloseLook:
        """The components of one picture (H, W, 3)."""
        return self.look_closely_at_all([picture])[0]

    def look_closely_at_all(self, pictures: Sequence[NDArray[np.uint8]]) -> list[CloseLook]:
        """The components of each picture: the same as one by one, and faster."""
        looks: list[CloseLook] = []
        for start in range(0, len(pictures), _CHUNK):
            looks += self._look(pictures[start : start + _CHUNK])
        return looks

    def _look(self, pictures: Sequence[NDArray[np.uint8]]) -> list[CloseLook]:
        foregrounds = [find_foreground(picture) for picture in pictures]
        described = [
            describe(_inside(foreground.lab, piece), piece.mask)
            for foreground in foregrounds
            for piece in foreground.pieces
        ]
        if not described:
            return [CloseLook((), foreground.speck_share) for foreground in foregrounds]
        shapes, patterns = (np.stack([row[index] for row in described]) for index in (0, 1))
        aspects = np.array([aspect for _, _, aspect in described], dtype=np.float32)
        matches = iter(self._templates.compare(shapes, patterns, aspects))
        return [
            CloseLook(
                tuple(_component(foreground, piece, next(matches)) for piece in foreground.pieces),
                foreground.speck_share,
            )
            for foreground in foregrounds
        ]

    def _detection(self, component: Component) -> Detection:
        best = int(np.argmax(component.class_matches))
        match = float(component.class_matches[best])
        second = float(np.max(np.delete(component.class_matches, best), initial=0.0))
        sureness = (match - _NO_MATCH) / (_SURE_MATCH - _NO_MATCH)
        # Halfway between two classes a thing is as good as none of them.
        sureness *= 0.5 + 0.5 * min((match - second) / _CLEAR_LEAD, 1.0)
        return Detection(self.classes[best], component.color, component.box, min(max(sureness, 0.0), 1.0))


def _inside(lab: FloatArray, piece: Piece) -> FloatArray:
    left, top, right, bottom = piece.box
    return lab[top:bottom, left:right]


def _component(foreground: Foreground, piece: Piece, matches: FloatArray) -> Component:
    left, top, right, bottom = piece.box
    mask = _eroded(piece.mask)
    rows, columns = np.nonzero(mask if mask.sum() * 4 >= piece.num_pixels else piece.mask)
    step = max(1, len(rows) // _MAX_COLOR_PIXELS)
    colors = foreground.pixels[top + rows[::step], left + columns[::step]]
    opaque = np.full((len(colors), 1), 255, dtype=np.uint8)
    shares = color_shares(np.concatenate([colors, opaque], axis=1))
    return Component(
        box=(left / SIDE_PX, top / SIDE_PX, right / SIDE_PX, bottom / SIDE_PX),
        share=piece.num_pixels / SIDE_PX**2,
        class_matches=matches,
        color_shares=np.array([shares[color] for color in (*COLORS, "gray")], dtype=np.float32),
    )


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without its outermost pixels, whose colours are half the background's."""
    padded = np.pad(mask, 1)
    return np.asarray(mask & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2])
