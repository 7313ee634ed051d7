"""The pictures that one worker has under way, who of them takes the next step, and what their steps cost.

More pictures may be under way than fit into one forward: pausing one between two steps costs nothing, so the choice is
made anew before every forward (service/scheduler.py) and a long picture never stands in a short one's way.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.engine import Sample
from service.cost_model import CostModel
from service.estimates import CostSummary
from service.job_run import JobRow, JobRun
from service.row_limit import RowLimit
from service.scheduler import Candidate, Group, SchedulerState, choose


class Batch:
    """At most `max_images` pictures; a forward takes `max_rows` rows of them, a picture with guidance being two.

    `row_limit` is how many rows it takes at present.
    """

    def __init__(self, max_rows: int, max_images: int) -> None:
        self.costs = CostModel()
        self.max_rows = max_rows
        self.row_limit = RowLimit(max_rows)
        self.max_images = max_images
        self._rows: list[JobRow] = []
        self._num_forwards = 0
        self._schedule = SchedulerState()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_forwards(self) -> int:
        """Forwards chosen so far."""
        return self._num_forwards

    @property
    def rows(self) -> tuple[JobRow, ...]:
        """All of them."""
        return tuple(self._rows)

    def add(self, run: JobRun, index: int, sample: Sample) -> None:
        """The index-th picture of `run` joins; it can take part in the next forward."""
        self._rows.append(JobRow(run, index, sample, self._num_forwards, self._num_forwards))

    def drop(self, run: JobRun) -> None:
        """All pictures of `run` leave before the next forward."""
        self._rows = [row for row in self._rows if row.run is not run]

    def choose(self, now_s: float) -> list[JobRow]:
        """The pictures for the next forward, all of one size; empty where none is under way. Counts as a forward."""
        candidates = [self._candidate(place, row) for place, row in enumerate(self._rows)]
        self._num_forwards += bool(candidates)
        choice = choose(
            candidates,
            self._schedule,
            now_s=now_s,
            forward=self._num_forwards,
            max_rows=self.row_limit.value,
            step_s=self.costs.step_s,
        )
        self._schedule = choice.state
        return [self._rows[place] for place in choice.indices]

    def goes_on_after(self, chosen: Sequence[JobRow]) -> bool:
        """Whether there is anything left to draw once these have taken their step."""
        return len(self._rows) > len(chosen) or any(row.sample.num_steps - row.sample.step > 1 for row in chosen)

    def expected_s(self, chosen: Sequence[JobRow]) -> float:
        """How long a forward of these will take, as far as is known."""
        return self.costs.step_s(chosen[0].group, sum(row.sample.params.num_rows for row in chosen))

    def note_step(self, chosen: Sequence[JobRow], duration_s: float) -> None:
        """These have taken their step, in a forward that took so long."""
        num_rows = sum(row.sample.params.num_rows for row in chosen)
        self.costs.observe_step(chosen[0].group, num_rows, duration_s)
        self.row_limit.note_success(num_rows)
        for row in chosen:
            row.last_step_at = self._num_forwards
            row.run.num_steps_done += 1

    def take_finished(self) -> list[list[JobRow]]:
        """The pictures that only want decoding, by group; they are under way here no longer."""
        by_group: dict[Group, list[JobRow]] = {}
        for row in self._rows:
            if row.sample.is_finished:
                by_group.setdefault(row.group, []).append(row)
        self._rows = [row for row in self._rows if not row.sample.is_finished]
        return list(by_group.values())

    def summary(self, model: str) -> CostSummary:
        """What a heartbeat tells the gateways about this model, as busy as the worker is now."""
        num_models = len({model, *(row.model for row in self._rows)})
        num_rows = sum(row.sample.params.num_rows for row in self._rows if row.model == model)
        return self.costs.summary(model, self.row_limit.value, num_rows, share=1 / num_models)

    def _candidate(self, place: int, row: JobRow) -> Candidate:
        job, params = row.run.job, row.sample.params
        return Candidate(
            index=place,
            group=row.group,
            num_rows=params.num_rows,
            steps_left=row.sample.num_steps - row.sample.step,
            priority=int(job.priority),
            owner=job.owner,
            deadline_s=row.run.claimed_at_s + job.time_left_s - self.costs.decode_s(row.group),
            admitted_at=row.admitted_at,
            last_step_at=row.last_step_at,
            cost_per_step=params.cost_per_step,
        )
