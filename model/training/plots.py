"""Curves of training runs as a PNG, drawn from their curve.jsonl with PIL: one line a run, over steps or minutes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from model.training.tracking import CURVE_NAME, CurvePoint, read_curve

VALUES = tuple(field.name for field in fields(CurvePoint) if field.name not in ("step", "elapsed_s"))
AXES = ("step", "minutes")
WIDTH_PX, HEIGHT_PX = 960, 540
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 70, 20, 40, 50
SCALE = 2  # drawn twice as large and shrunk: PIL's lines have hard edges
FONT_PX = 14
NUM_TICKS = 6
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: `xs` rise, `ys` are finite."""

    label: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


def read_run(run: Path, value: str, axis: str) -> Curve:
    """A run's curve, from its folder or its curve.jsonl, named after the folder.

    Raises ValueError for an unknown value or axis or an empty curve, FileNotFoundError where there is none.
    """
    if value not in VALUES:
        raise ValueError(f"unknown value {value!r}; known: {', '.join(VALUES)}")
    if axis not in AXES:
        raise ValueError(f"unknown axis {axis!r}; known: {', '.join(AXES)}")
    path = run / CURVE_NAME if run.is_dir() else run
    pairs = [
        (point.step if axis == "step" else point.elapsed_s / 60, float(getattr(point, value)))
        for point in read_curve(path)
    ]
    finite = [(x, y) for x, y in pairs if math.isfinite(y)]
    if not finite:
        raise ValueError(f"{path} holds no report yet")
    return Curve(path.resolve().parent.name, tuple(x for x, _ in finite), tuple(y for _, y in finite))


def draw_curves(curves: Sequence[Curve], title: str, axis: str) -> Image.Image:
    """The plot of at least one curve."""
    x_ticks = _ticks(0.0, max(curve.xs[-1] for curve in curves))
    y_ticks = _ticks(min(min(curve.ys) for curve in curves), max(max(curve.ys) for curve in curves))
    plot = _Plot(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    for x in x_ticks:
        plot.line([(x, y_ticks[0]), (x, y_ticks[-1])], "#e4e4e4", 1)
        plot.text((plot.x(x), HEIGHT_PX - BOTTOM_PX + 8), _number(x), "ma")
    for y in y_ticks:
        plot.line([(x_ticks[0], y), (x_ticks[-1], y)], "#e4e4e4", 1)
        plot.text((LEFT_PX - 8, plot.y(y)), _number(y), "rm")
    for index, curve in enumerate(curves):
        color = COLORS[index % len(COLORS)]
        plot.line(list(zip(curve.xs, curve.ys, strict=True)), color, 2)
        plot.text((WIDTH_PX - RIGHT_PX - 10, TOP_PX + 8 + 20 * index), curve.label, "ra", color)
    plot.text((LEFT_PX, 12), title, "la")
    plot.text((WIDTH_PX - RIGHT_PX, HEIGHT_PX - 22), axis, "ra")
    return plot.image.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS)


def write_plot(runs: Sequence[Path], target: Path, *, value: str = "loss", axis: str = "step") -> None:
    """Draw the curves of `runs` (see `read_run`) and write them as PNG."""
    curves = [read_run(run, value, axis) for run in runs]
    target.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(curves, value.replace("_", " "), axis).save(target)


class _Plot:
    """A canvas whose lines are in the curves' own units and whose text is in pixels of the finished plot."""

    def __init__(self, left: float, right: float, bottom: float, top: float) -> None:
        self._left, self._bottom = left, bottom
        self._per_x = (WIDTH_PX - LEFT_PX - RIGHT_PX) / (right - left)
        self._per_y = (HEIGHT_PX - TOP_PX - BOTTOM_PX) / (top - bottom)
        self.image = Image.new("RGB", (WIDTH_PX * SCALE, HEIGHT_PX * SCALE), "white")
        self._canvas = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(FONT_PX * SCALE)

    def x(self, value: float) -> float:
        return LEFT_PX + (value - self._left) * self._per_x

    def y(self, value: float) -> float:
        return HEIGHT_PX - BOTTOM_PX - (value - self._bottom) * self._per_y

    def line(self, points: Sequence[tuple[float, float]], color: str, width_px: int) -> None:
        scaled = [(self.x(x) * SCALE, self.y(y) * SCALE) for x, y in points]
        self._canvas.line(scaled, color, width_px * SCALE, joint="curve")

    def text(self, place: tuple[float, float], words: str, anchor: str, color: str = "black") -> None:
        self._canvas.text((place[0] * SCALE, place[1] * SCALE), words, color, self._font, anchor)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, at most a step beyond `low` and `high`: 1, 2 or 5 times a power of ten apart."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / NUM_TICKS))
    stride = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= NUM_TICKS)
    first, last = math.floor(low / stride), max(math.ceil(high / stride), math.floor(low / stride) + 1)
    return [index * stride for index in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
