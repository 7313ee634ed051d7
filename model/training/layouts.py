"""Where objects stand: boxes that keep apart, relations that GenEval's rule confirms with room to spare. Pure.

Boxes are (left, top, right, bottom) as fractions of the picture's side.
"""

from __future__ import annotations

import math
from random import Random

Box = tuple[float, float, float, float]

RELATIONS = ("left of", "right of", "above", "below")
MIN_GAP = 0.055  # a little over the promised 5% of the width: rounding to pixels may take half a pixel at each end
MARGIN = 0.03
POSITION_THRESHOLD = 0.1  # GenEval's: share of both objects' sizes that an offset must exceed
CLEAR_RELATION = 0.6  # GenEval asks for 0.5
MAX_OTHER_AXIS = 0.45
_SHRINK = 0.94
_TRIES = 40


def relation_strength(first: Box, second: Box) -> dict[str, float]:
    """How strongly GenEval's rule sees `first` left of, right of, above, below `second`: over 0.5 counts."""
    offset_x = (first[0] + first[2] - second[0] - second[2]) / 2
    offset_y = (first[1] + first[3] - second[1] - second[3]) / 2
    width = first[2] - first[0] + second[2] - second[0]
    height = first[3] - first[1] + second[3] - second[1]
    revised_x = math.copysign(max(abs(offset_x) - POSITION_THRESHOLD * width, 0.0), offset_x)
    revised_y = math.copysign(max(abs(offset_y) - POSITION_THRESHOLD * height, 0.0), offset_y)
    length = math.hypot(offset_x, offset_y) or 1.0
    return {
        "left of": -revised_x / length,
        "right of": revised_x / length,
        "above": -revised_y / length,
        "below": revised_y / length,
    }


def gap(first: Box, second: Box) -> float:
    """Free room between two boxes along the axis where there is more of it; negative where they overlap."""
    gap_x = max(first[0] - second[2], second[0] - first[2])
    gap_y = max(first[1] - second[3], second[1] - first[3])
    return max(gap_x, gap_y)


def is_clear(first: Box, second: Box, relation: str) -> bool:
    """Whether `relation` holds clearly, and no relation along the other axis does."""
    strength = relation_strength(first, second)
    others = ("above", "below") if relation in ("left of", "right of") else ("left of", "right of")
    return strength[relation] >= CLEAR_RELATION and all(strength[other] <= MAX_OTHER_AXIS for other in others)


def place(
    rng: Random, sizes: tuple[tuple[float, float], ...], relation: str | None = None, cell: float | None = None
) -> tuple[Box, ...]:
    """Boxes for objects of these (width, height) in this order. Crowded scenes shrink until everything fits.

    With `cell`, centres lie on the corners of a grid of cells of that size.
    """
    scale = 1.0
    while True:
        for _ in range(_TRIES):
            boxes = _try_place(rng, tuple((w * scale, h * scale) for w, h in sizes), cell)
            if boxes and (relation is None or is_clear(boxes[0], boxes[1], relation)):
                return boxes
        scale *= _SHRINK


def _try_place(rng: Random, sizes: tuple[tuple[float, float], ...], cell: float | None) -> tuple[Box, ...] | None:
    boxes: list[Box] = []
    for width, height in sizes:
        for _ in range(8):
            left, top = _draw_start(rng, width, cell), _draw_start(rng, height, cell)
            box = (left, top, left + width, top + height)
            if all(gap(box, other) >= MIN_GAP for other in boxes):
                boxes.append(box)
                break
        else:
            return None
    return tuple(boxes)


def _draw_start(rng: Random, extent: float, cell: float | None) -> float:
    """Where an object of this extent begins on one axis, inside the margins."""
    if cell is None:
        return rng.uniform(MARGIN, 1 - MARGIN - extent)
    first, last = math.ceil((MARGIN + extent / 2) / cell), math.floor((1 - MARGIN - extent / 2) / cell)
    return rng.randint(first, max(first, last)) * cell - extent / 2
