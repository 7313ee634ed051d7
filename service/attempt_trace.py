"""What one attempt at a job took, told as spans: its wait, its text, its steps, its pixels, its end.

A forward draws for many jobs, so each job that took part has a span of its own for it; steps in a row are one span.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from service.jobs import Job
from service.trace_context import parse_traceparent
from service.tracing import Attributes, Span, Tracing, now_ns

MAX_STEPS_PER_SPAN = 10  # forwards: a picture of 20 steps has two spans, and never one a step


@dataclass(slots=True)
class _Steps:
    """Forwards one after another that a job took part in; `last` is the number of the last."""

    began_at_ns: int
    ended_at_ns: int
    last: int
    num_forwards: int
    num_steps: int
    min_pictures: int
    max_pictures: int


class AttemptTrace:
    """Spans of one attempt, all below the one that lasts from claim to end. Does nothing without a span."""

    def __init__(self, span: Span | None = None) -> None:
        self._span = span
        self._steps: _Steps | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether anything is kept."""
        return self._span is not None

    def add_stage(self, name: str, began_at_ns: int, num_own: int, num_pictures: int, error: str) -> None:
        """Something is over that was done for `num_own` of `num_pictures` pictures, or broke off with an error."""
        self._end_steps()
        if self._span is not None:
            attributes = {"emmdit.pictures": num_own, "emmdit.batch_pictures": num_pictures}
            self._span.add_child(name, began_at_ns, now_ns(), attributes, error)

    def add_forward(self, forward: int, began_at_ns: int, num_own: int, num_pictures: int) -> None:
        """A step of `num_own` of the `num_pictures` in the worker's forward of that number."""
        steps, ended_at_ns = self._steps, now_ns()
        if steps is None or forward != steps.last + 1 or steps.num_forwards >= MAX_STEPS_PER_SPAN:
            self._end_steps()
            self._steps = _Steps(began_at_ns, ended_at_ns, forward, 1, num_own, num_pictures, num_pictures)
            return
        steps.ended_at_ns, steps.last = ended_at_ns, forward
        steps.num_forwards += 1
        steps.num_steps += num_own
        steps.min_pictures = min(steps.min_pictures, num_pictures)
        steps.max_pictures = max(steps.max_pictures, num_pictures)

    def end(self, outcome: str, error: str = "") -> None:
        """The attempt is over. Pictures of it that are still being stored may tell so later."""
        self._end_steps()
        if self._span is not None:
            self._span.set({"emmdit.outcome": outcome})
            self._span.end(error)

    def _end_steps(self) -> None:
        steps, self._steps = self._steps, None
        if self._span is not None and steps is not None:
            attributes = {
                "emmdit.forwards": steps.num_forwards,
                "emmdit.steps": steps.num_steps,
                "emmdit.batch_pictures_min": steps.min_pictures,
                "emmdit.batch_pictures_max": steps.max_pictures,
            }
            self._span.add_child("denoise", steps.began_at_ns, steps.ended_at_ns, attributes, "")


def begin_attempt(tracing: Tracing | None, job: Job, worker_id: str) -> AttemptTrace:
    """For a job that has just been claimed. Its wait ends now; how long it was the queue's own clock says."""
    parent = parse_traceparent([job.traceparent])
    if tracing is None or parent is None or not parent.is_sampled:
        return AttemptTrace()
    claimed_at_ns = now_ns()
    waited_ns = round(max(job.timeout_s - job.time_left_s, 0.0) * 1e9)
    attributes: Attributes = {"emmdit.job_id": job.id, "emmdit.attempt": job.attempt}
    wait = tracing.start("queue wait", parent, began_at_ns=claimed_at_ns - waited_ns, attributes=attributes)
    wait.end(ended_at_ns=claimed_at_ns)
    details: Attributes = {
        "emmdit.model": job.model,
        "emmdit.size": f"{job.params.width}x{job.params.height}",
        "emmdit.pictures": job.num_images,
        "emmdit.worker": worker_id,
    }
    span = tracing.start(
        "draw", parent, kind="CONSUMER", began_at_ns=claimed_at_ns, attributes={**attributes, **details}
    )
    return AttemptTrace(span)


@contextmanager
def traced(name: str, traces: Sequence[AttemptTrace], forward: int | None = None) -> Iterator[None]:
    """Tell the time of the block as a span of each trace, which is named once for each of its pictures.

    A `forward` is told together with those before it.
    """
    recorded = [trace for trace in traces if trace.is_recorded]
    if not recorded:
        yield
        return
    shares = Counter(recorded)
    began_at_ns = now_ns()
    error = ""
    try:
        yield
    except Exception as failure:
        error = type(failure).__name__
        raise
    finally:
        for trace, num_own in shares.items():
            if forward is not None and not error:
                trace.add_forward(forward, began_at_ns, num_own, len(traces))
            else:
                trace.add_stage(name, began_at_ns, num_own, len(traces), error)
