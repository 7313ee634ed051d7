"""How long a job will take, from what its workers tell of their speed. Pure and small: the gateway asks it.

A worker publishes a `CostSummary` with its heartbeat. Everything is an estimate: None where nobody has measured
anything yet, and a job is refused for its deadline only where it could not be met by the fastest worker all alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from service.scheduler import Group

# A worker's line may be off, and a refusal cannot be taken back: so much of the shortest estimate must not fit.
SURE_SHARE = 0.8
Duration = TypeVar("Duration", bound=Callable[[int], float])


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds that a batch takes: `base_s` whatever its size and `per_item_s` for each item. Neither is negative."""

    base_s: float = 0.0
    per_item_s: float = 0.0

    def __call__(self, num_items: float) -> float:
        """Seconds for a batch of so many."""
        return self.base_s + self.per_item_s * num_items


@dataclass(frozen=True, slots=True)
class Work:
    """What a job's duration depends on. `num_steps` and `rows_per_picture` (2 with guidance) are of one picture."""

    group: Group
    num_steps: int
    rows_per_picture: int = 1
    num_pictures: int = 1

    @property
    def num_rows(self) -> int:
        """Rows of a forward that all its pictures take."""
        return self.num_pictures * self.rows_per_picture


@dataclass(frozen=True, slots=True)
class CostSummary:
    """A worker's speed in brief, as `CostModel.summary` draws it up.

    Of one model, on a worker that may have several: `share` is the part of its device that the model gets just now.
    `rate_cost_per_s` is what it draws with all of the device, in megapixel-steps per second, 0 while unknown. A forward
    takes `max_rows`, and the model's pictures under way need `num_rows_held`. `steps` are seconds by rows of a forward,
    `decodes` by pictures, `text` by prompts; those of the worker's other models stand in for what is not yet measured.
    """

    rate_cost_per_s: float = 0.0
    max_rows: int = 1
    num_rows_held: int = 0
    steps: Mapping[Group, Line] = field(default_factory=dict)
    decodes: Mapping[Group, Line] = field(default_factory=dict)
    text: Line = Line()
    share: float = 1.0

    @property
    def rate_shared_cost_per_s(self) -> float:
        """Megapixel-steps per second that the model gets while the others take theirs."""
        return self.rate_cost_per_s * self.share

    def job_s(self, work: Work, num_rows_beside: int = 0) -> float | None:
        """Seconds for this work, the worker's forwards being shared with so many other rows. None while unknown."""
        if not self.steps:
            return None
        line, factor = nearest(self.steps, work.group)
        num_rows = work.num_rows + num_rows_beside
        num_forwards = work.num_steps * max(1.0, num_rows / self.max_rows)  # each picture takes its turn
        seconds = num_forwards * factor * line(min(num_rows, self.max_rows))
        if self.decodes:
            line, factor = nearest(self.decodes, work.group)
            seconds += factor * line(work.num_pictures)
        return seconds

    def to_dict(self) -> dict[str, Any]:
        """For JSON; about 50 bytes a group."""
        return {
            "rate": self.rate_cost_per_s,
            "max_rows": self.max_rows,
            "num_rows_held": self.num_rows_held,
            "share": self.share,
            "steps": [[*group, line.base_s, line.per_item_s] for group, line in self.steps.items()],
            "decodes": [[*group, line.base_s, line.per_item_s] for group, line in self.decodes.items()],
            "text": [self.text.base_s, self.text.per_item_s],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CostSummary:
        """The inverse of `to_dict`. Raises ValueError for anything else."""
        try:
            steps, decodes = (
                {
                    (str(variant), int(width), int(height)): _line(*line)
                    for variant, width, height, *line in values[name]
                }
                for name in ("steps", "decodes")
            )
            return cls(
                rate_cost_per_s=float(values["rate"]),
                max_rows=max(int(values["max_rows"]), 1),
                num_rows_held=int(values["num_rows_held"]),
                steps=steps,
                decodes=decodes,
                text=_line(*values["text"]),
                share=min(max(float(values["share"]), 0.01), 1.0),
            )
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"not a summary of costs: {error}") from error


def seconds_left(work: Work, workers: Sequence[CostSummary], *, cost_ahead: float | None) -> float | None:
    """Expected seconds until the job is done, on average over the workers; None where nothing is known.

    `work` is what is left of it. `cost_ahead` is the backlog before it in megapixel-steps while it waits, and None
    once it runs (its rows are then among those that its worker holds).
    """
    known = [worker for worker in workers if worker.steps]
    if not known:
        return None
    is_waiting = cost_ahead is not None
    totals = []
    for worker in known:
        num_rows_beside = worker.num_rows_held if is_waiting else max(worker.num_rows_held - work.num_rows, 0)
        drawing_s = (worker.job_s(work, num_rows_beside) or 0.0) / worker.share
        totals.append(drawing_s + (worker.text(1) if is_waiting else 0.0))
    backlog_s = _backlog_s(cost_ahead or 0.0, [worker.rate_shared_cost_per_s for worker in workers])
    return math.fsum(totals) / len(totals) + backlog_s


def can_finish_by(work: Work, workers: Sequence[CostSummary], seconds: float, *, cost_ahead: float = 0.0) -> bool:
    """Whether the job could be done within `seconds`: by the fastest worker with nobody beside it, after the backlog.

    False is sure enough to refuse the job; True promises nothing. Always True where nothing was measured yet.
    """
    alone_s = [alone + worker.text(1) for worker in workers if (alone := worker.job_s(work)) is not None]
    if not alone_s:
        return True
    backlog_s = _backlog_s(cost_ahead, [worker.rate_cost_per_s for worker in workers])
    return SURE_SHARE * (min(alone_s) + backlog_s) <= seconds


def nearest(known: Mapping[Group, Duration], group: Group) -> tuple[Duration, float]:
    """What is known of this group, or of the one most like it (its variant before others, then its number of pixels),
    and the factor that its durations have to be multiplied by: time goes with pixels. `known` must not be empty."""

    def unlikeness(other: Group) -> tuple[bool, float, Group]:
        return (other[0] != group[0], abs(math.log(_num_pixels(group) / _num_pixels(other))), other)

    if group in known:
        return known[group], 1.0
    like = min(known, key=unlikeness)
    return known[like], _num_pixels(group) / _num_pixels(like)


def _backlog_s(cost: float, rates: Sequence[float]) -> float:
    rate = math.fsum(rates)
    return cost / rate if rate > 0 else 0.0


def _line(base_s: float, per_item_s: float) -> Line:
    return Line(float(base_s), float(per_item_s))


def _num_pixels(group: Group) -> int:
    return group[1] * group[2]
