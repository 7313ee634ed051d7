"""What steps, decoding and text cost on this worker, kept up to date while it runs. Pure: durations are handed in.

Surprising: a duration is the median of the last few measured and no mean, so that a call that compiled, or waited
for somebody else's work, changes nothing; and a smaller batch is never thought dearer than a larger one was.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence

from service.estimates import CostSummary, Line, nearest
from service.scheduler import Group

WINDOW = 9  # measurements that a median is taken of: five of them in a row move it
MAX_CURVES = 32  # sizes remembered, the latest used
RATE_TIME_CONSTANT_S = 10.0
# Before anything was measured only proportions matter: the scheduler compares, and no estimate is given to clients.
PRIOR = Line(0.5, 0.5)  # seconds by rows, or by pictures to decode, of a megapixel each
PRIOR_TEXT = Line(0.05, 0.05)
PRIOR_OVERHEAD_ITEMS = 1.0  # where one batch size was measured: every batch costs as much as it and one item more


class Curve:
    """Measured seconds of a batch by its number of items."""

    def __init__(self) -> None:
        self._recent: dict[int, deque[float]] = {}
        self._knots: list[tuple[int, float]] = []
        self.line = Line()

    @property
    def is_known(self) -> bool:
        """Whether anything was measured. Only then may it be called."""
        return bool(self._knots)

    def observe(self, num_items: int, duration_s: float) -> None:
        """Take note of a measurement. One that is not positive and finite is ignored."""
        if not 0 < duration_s < math.inf:
            return
        recent = self._recent.setdefault(num_items, deque(maxlen=WINDOW))
        before_s = _median(recent) if len(recent) == WINDOW else None
        recent.append(duration_s)
        now_s = _median(recent)
        if before_s is not None and not before_s / 2 < now_s < before_s * 2:
            self._recent = {num_items: recent}  # another machine, by its speed: what the others took is history
        self._fit()

    def __call__(self, num_items: int) -> float:
        """Seconds for a batch of so many: measured; between two that were, in proportion; beyond, as the line goes."""
        place = bisect_left(self._knots, (num_items, 0.0))
        if 0 < place < len(self._knots):
            (left, left_s), (right, right_s) = self._knots[place - 1 : place + 1]
            return left_s + (right_s - left_s) * (num_items - left) / (right - left)
        near, near_s = self._knots[min(place, len(self._knots) - 1)]
        return near_s * self.line(num_items) / self.line(near)

    def _fit(self) -> None:
        ceiling_s = math.inf
        knots = []
        for num_items in sorted(self._recent, reverse=True):
            ceiling_s = min(ceiling_s, _median(self._recent[num_items]))
            knots.append((num_items, ceiling_s))
        self._knots = knots[::-1]
        self.line = _fitted_line(self._knots)


class CostModel:
    """One worker's durations. Feed it from the worker's loop; ask it before every forward.

    `buckets` are the sizes to which the engine pads a forward's rows, empty where it does not. What a size or a model
    costs that was never seen is concluded from the others by pixels, or guessed where there are none (`has_measured`).
    """

    def __init__(self, buckets: Sequence[int] = ()) -> None:
        self._buckets = tuple(sorted(buckets))
        self._steps: dict[Group, Curve] = {}
        self._decodes: dict[Group, Curve] = {}
        self._text = Curve()
        self._rates: dict[str, float] = {}

    def observe_step(self, group: Group, num_rows: int, duration_s: float) -> None:
        """A forward of the network with so many rows, before padding."""
        _curve_to_update(self._steps, group).observe(self._padded(num_rows), duration_s)

    def observe_decode(self, group: Group, num_pictures: int, duration_s: float) -> None:
        """Latents of one group turned into pixels, together."""
        _curve_to_update(self._decodes, group).observe(num_pictures, duration_s)

    def observe_text(self, num_prompts: int, duration_s: float) -> None:
        """Prompts encoded together, those that were cached not counted; no prompts are ignored."""
        if num_prompts > 0:
            self._text.observe(num_prompts, duration_s)

    def observe_work(self, model: str, cost: float, duration_s: float) -> None:
        """What all stages worked off of one model in a stretch of time that it had the device to itself.

        In megapixel-steps, as the queue counts them.
        """
        self._rates[model] = smoothed_rate(self._rates.get(model, 0.0), cost, duration_s)

    @property
    def has_measured(self) -> bool:
        """Whether a step was measured, so that durations are more than guesses."""
        return any(curve.is_known for curve in self._steps.values())

    def rate_cost_per_s(self, model: str) -> float:
        """Smoothed speed in megapixel-steps per second while only this model is drawn with; 0 while unknown."""
        return self._rates.get(model, 0.0)

    def step_s(self, group: Group, num_rows: int) -> float:
        """Seconds of a forward with so many rows. Positive, and never less for more rows."""
        return _duration_s(self._steps, group, self._padded(num_rows))

    def decode_s(self, group: Group, num_pictures: int = 1) -> float:
        """Seconds until so many finished pictures of one group are pixels."""
        return _duration_s(self._decodes, group, num_pictures)

    def text_s(self, num_prompts: int = 1) -> float:
        """Seconds to encode so many prompts together; 0 for none."""
        if num_prompts <= 0:
            return 0.0
        return self._text(num_prompts) if self._text.is_known else PRIOR_TEXT(num_prompts)

    def picture_s(self, group: Group, num_steps: int, num_rows: int, num_rows_shared: int = 0) -> float:
        """Seconds from prompt to pixels of a picture of `num_rows` rows, its forwards having `num_rows_shared`."""
        steps_s = num_steps * self.step_s(group, max(num_rows, num_rows_shared))
        return self.text_s() + steps_s + self.decode_s(group)

    def summary(self, model: str, max_rows: int, num_rows_held: int, share: float = 1.0) -> CostSummary:
        """What to publish with a model's heartbeat: straight lines instead of curves, to a tenth of a microsecond."""
        return CostSummary(
            rate_cost_per_s=round(self.rate_cost_per_s(model), 6),
            max_rows=max_rows,
            num_rows_held=num_rows_held,
            share=round(share, 3),
            steps={group: _rounded(curve.line) for group, curve in self._steps.items() if curve.is_known},
            decodes={group: _rounded(curve.line) for group, curve in self._decodes.items() if curve.is_known},
            text=_rounded(self._text.line),
        )

    def _padded(self, num_rows: int) -> int:
        place = bisect_left(self._buckets, num_rows)
        return self._buckets[place] if place < len(self._buckets) else num_rows


def smoothed_rate(rate: float, cost: float, duration_s: float, time_constant_s: float = RATE_TIME_CONSTANT_S) -> float:
    """Exponentially smoothed speed, in cost per second, after `cost` was worked off in `duration_s`.

    A mean over time, unlike the durations: pauses belong to a worker's speed. A rate of 0 means unknown: the first
    measurement is taken as it is.
    """
    if duration_s <= 0:
        return rate
    if rate <= 0:
        return cost / duration_s
    weight = duration_s / (duration_s + time_constant_s)
    return rate + weight * (cost / duration_s - rate)


def _curve_to_update(curves: dict[Group, Curve], group: Group) -> Curve:
    """The group's curve, moved to the end of the dictionary; the first of too many is the one unused for longest."""
    curves[group] = curves.pop(group) if group in curves else Curve()
    if len(curves) > MAX_CURVES:
        del curves[next(iter(curves))]
    return curves[group]


def _duration_s(curves: dict[Group, Curve], group: Group, num_items: int) -> float:
    known = curves if group in curves and curves[group].is_known else {g: c for g, c in curves.items() if c.is_known}
    if not known:
        return PRIOR(num_items) * group[1] * group[2] / 1e6
    curve, factor = nearest(known, group)
    return factor * curve(num_items)


def _median(values: Iterable[float]) -> float:
    """The lower one of an even number: of two measurements the first may have been a first call."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def _fitted_line(points: Sequence[tuple[int, float]]) -> Line:
    """Least squares of the relative errors, so that small batches count as much as large ones; never falling."""
    if len(points) == 1:
        ((num_items, seconds),) = points
        per_item_s = seconds / (num_items + PRIOR_OVERHEAD_ITEMS)
        return Line(per_item_s * PRIOR_OVERHEAD_ITEMS, per_item_s)
    weights = [1 / seconds**2 for _, seconds in points]

    def mean(values: Iterable[float]) -> float:
        return math.fsum(w * value for w, value in zip(weights, values, strict=True)) / math.fsum(weights)

    mean_items, mean_s = mean(n for n, _ in points), mean(s for _, s in points)
    covariance = mean((n - mean_items) * (s - mean_s) for n, s in points)
    slope = max(covariance / mean((n - mean_items) ** 2 for n, _ in points), 0.0)
    if slope * mean_items > mean_s:  # there is no negative base: the line through nothing that fits best
        return Line(0.0, mean(n * s for n, s in points) / mean(n * n for n, _ in points))
    return Line(mean_s - slope * mean_items, slope)


def _rounded(line: Line) -> Line:
    return Line(round(line.base_s, 7), round(line.per_item_s, 7))
