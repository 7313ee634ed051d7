"""What a judge sees in a picture. Every judge gives this, so that rules and rewards know no judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Detection:
    """One object seen: its class, its best colour of GenEval's ten, its box and the judge's confidence.

    `box` is (left, top, right, bottom) as fractions of the picture's sides; `confidence` lies in 0..1.
    """

    name: str
    color: str
    box: tuple[float, float, float, float]
    confidence: float


class Judge(Protocol):
    """Anything that finds objects in pictures. The same pictures always give the same detections."""

    def look(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[Detection, ...]]:
        """Detections of each picture (H, W, 3), the most confident first. Pictures may be of any one size."""
        ...
