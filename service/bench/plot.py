"""A run's latencies as a PNG: how many percent of the requests took no longer than so many seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model.training.plots import Curve, draw_curves
from service.bench.load import Outcome


def write_plot(outcomes: Sequence[Outcome], target: Path, title: str) -> None:
    """One line each for latency, queue and inference, where known. Raises ValueError where no picture came."""
    drawn = [outcome for outcome in outcomes if outcome.error is None]
    curves = [
        curve
        for name, seconds in (
            ("latency", [outcome.latency_s for outcome in drawn]),
            ("queue", [outcome.queue_s for outcome in drawn if outcome.queue_s is not None]),
            ("inference", [outcome.inference_s for outcome in drawn if outcome.inference_s is not None]),
            ("first preview", [one.first_preview_s for one in drawn if one.first_preview_s is not None]),
        )
        if (curve := _quantile_curve(name, seconds)) is not None
    ]
    if not curves:
        raise ValueError("no picture came: there is nothing to plot")
    target.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(curves, title, "% of requests").save(target, format="PNG")


def _quantile_curve(name: str, seconds: Sequence[float]) -> Curve | None:
    if not seconds:
        return None
    ranked = sorted(seconds)
    return Curve(name, tuple(100 * (index + 1) / len(ranked) for index in range(len(ranked))), tuple(ranked))
