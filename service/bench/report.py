"""From single outcomes to the figures of a run. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from service.bench.batches import Batches
from service.bench.load import Outcome


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of one kind of time, in seconds."""

    num: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Quantiles | None:
        """None where there is nothing to measure."""
        if not seconds:
            return None
        cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 99
        return cls(len(seconds), statistics.fmean(seconds), cuts[49], cuts[94], cuts[98], max(seconds))


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One run against one address. Rates count from when the first request was due to the last answer.

    `latency`, `queue`, `inference` and `first_preview` are of requests that got their picture; `errors` counts the
    others by code. `goodput_per_s` are pictures within `objective_s`. `send_lag` is how late this load was sent:
    where it is not small against the latency, the machine that sends is the bottleneck.
    """

    num_requests: int
    num_pictures: int
    offered_per_s: float
    duration_s: float
    throughput_per_s: float
    latency: Quantiles | None
    queue: Quantiles | None
    inference: Quantiles | None
    first_preview: Quantiles | None
    latency_by_steps: dict[str, Quantiles]
    objective_s: float
    goodput_per_s: float
    share_within_objective: float
    errors: dict[str, int]
    batches: Batches | None
    send_lag: Quantiles | None


def summarize(outcomes: Sequence[Outcome], *, objective_s: float, batches: Batches | None = None) -> LoadReport:
    """The figures of a run of at least one request."""
    drawn = [outcome for outcome in outcomes if outcome.error is None]
    within = sum(outcome.latency_s <= objective_s for outcome in drawn)
    due_s = [outcome.request.at_s for outcome in outcomes]
    duration_s = max(outcome.ended_s for outcome in outcomes) - min(due_s)
    span_s = max(due_s) - min(due_s)
    by_steps: dict[str, list[float]] = {}
    for outcome in drawn:
        by_steps.setdefault(str(outcome.request.num_inference_steps or "default"), []).append(outcome.latency_s)
    return LoadReport(
        num_requests=len(outcomes),
        num_pictures=len(drawn),
        offered_per_s=(len(outcomes) - 1) / span_s if span_s else 0.0,
        duration_s=duration_s,
        throughput_per_s=len(drawn) / duration_s,
        latency=Quantiles.of([outcome.latency_s for outcome in drawn]),
        queue=Quantiles.of([outcome.queue_s for outcome in drawn if outcome.queue_s is not None]),
        inference=Quantiles.of([outcome.inference_s for outcome in drawn if outcome.inference_s is not None]),
        first_preview=Quantiles.of([one.first_preview_s for one in drawn if one.first_preview_s is not None]),
        latency_by_steps={
            steps: found for steps, seconds in sorted(by_steps.items()) if (found := Quantiles.of(seconds)) is not None
        },
        objective_s=objective_s,
        goodput_per_s=within / duration_s,
        share_within_objective=within / len(outcomes),
        errors=dict(Counter(outcome.error for outcome in outcomes if outcome.error is not None)),
        batches=batches,
        send_lag=Quantiles.of([outcome.send_lag_s for outcome in outcomes]),
    )


def describe(report: LoadReport) -> str:
    """The report for a terminal."""
    lines = [
        f"{report.num_pictures} of {report.num_requests} pictures in {report.duration_s:.1f} s: "
        f"{report.throughput_per_s:.3f}/s, {report.offered_per_s:.3f}/s offered",
        f"within {report.objective_s:g} s: {report.share_within_objective:.1%}, goodput {report.goodput_per_s:.3f}/s",
    ]
    for name, found in (
        ("latency", report.latency),
        ("queue", report.queue),
        ("inference", report.inference),
        ("first preview", report.first_preview),
        ("sent late by", report.send_lag),
    ):
        if found is not None:
            figures = (
                f"p50 {found.p50_s:8.3f} s  p95 {found.p95_s:8.3f}  p99 {found.p99_s:8.3f}  max {found.max_s:8.3f}"
            )
            lines.append(f"{name:14} {figures}")
    if report.batches is not None:
        occupancy = "" if report.batches.occupancy is None else f", {report.batches.occupancy:.0%} of the rows"
        lines.append(
            f"batches        {report.batches.num_forwards} forwards of {report.batches.mean_rows:.2f} rows{occupancy}"
        )
    if report.errors:
        lines.append("errors         " + ", ".join(f"{code} {num}" for code, num in sorted(report.errors.items())))
    return "\n".join(lines)
