"""What a run leaves to be looked at, beside its checkpoint: curve.jsonl, a line a report, and TensorBoard's logs/.

A run that goes on from a checkpoint first takes back what was written after it, so that every step is told once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CURVE_NAME = "curve.jsonl"
LOGS_NAME = "logs"


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One step: the shown loss, what was minimised, and the gradient's norm before clipping. Not finite if skipped."""

    loss: float
    minimised: float
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether the step counted."""
        return math.isfinite(self.minimised) and math.isfinite(self.grad_norm)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One report: means over the steps since the last one that were not skipped (NaN if all were)."""

    step: int
    loss: float
    minimised: float
    grad_norm: float
    learning_rate: float
    samples_per_s: float
    num_skipped: int
    elapsed_s: float


def mean_figures(window: list[StepFigures]) -> StepFigures:
    """Means over the finite steps of `window`; NaN where there is none."""
    finite = [figures for figures in window if figures.is_finite]
    if not finite:
        return StepFigures(math.nan, math.nan, math.nan)
    return StepFigures(
        float(np.mean([figures.loss for figures in finite])),
        float(np.mean([figures.minimised for figures in finite])),
        float(np.mean([figures.grad_norm for figures in finite])),
    )


class RunLog:
    """The curve and TensorBoard events of one run in `folder`, which goes on from `step`. Needs the train extra."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds to import: only runs pay for it

        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / CURVE_NAME
        kept = [point for point in read_curve(self._path) if point.step <= step] if self._path.exists() else []
        draft = self._path.with_suffix(".partial")
        draft.write_text("".join(map(_line, kept)), "utf-8")
        draft.replace(self._path)
        self._curve = self._path.open("a", encoding="utf-8")
        self._writer = SummaryWriter(folder / LOGS_NAME, purge_step=step + 1)

    def add(self, point: CurvePoint) -> None:
        """Write a report to both."""
        self._curve.write(_line(point))
        self._curve.flush()
        values = asdict(point)
        step = values.pop("step")
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Show a figure of the run's own in TensorBoard."""
        self._writer.add_scalar(name, value, step)

    def add_picture(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Show a picture (H, W, 3) in TensorBoard."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._curve.close()
        self._writer.close()


def read_curve(path: Path) -> Iterator[CurvePoint]:
    """The points of a curve.jsonl, in order; a last line that a killed run left unfinished is not one."""
    for line in path.read_text("utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            values: dict[str, Any] = json.loads(line)
            values.update({key: math.nan for key, value in values.items() if value is None})
            yield CurvePoint(**values)


def _line(point: CurvePoint) -> str:
    """JSON knows no NaN: null stands for it."""
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(point).items()
    }
    return json.dumps(values) + "\n"
