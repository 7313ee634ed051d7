"""One claimed job inside a worker: which of its pictures wait, are under way, are drawn, are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from model.engine import Sample
from service.attempt_trace import AttemptTrace
from service.jobs import Done, ImageRef, Job, WatchLevel
from service.queue_types import JobProgress
from service.scheduler import Group


@dataclass(slots=True, eq=False)
class JobRun:
    """One attempt at a job. `claimed_at_s` is on the worker's monotonic clock. `is_dropped` once nobody wants it.

    `watch_level` is raised where somebody comes to watch the job. It is not ready while what earlier attempts have kept
    of its pictures is fetched: `states` of Engine.resume, by picture.
    """

    job: Job
    claimed_at_s: float
    num_begun: int = 0
    rows: list[JobRow] = field(default_factory=list)
    images: dict[int, ImageRef] = field(default_factory=dict)
    num_steps_done: int = 0
    is_dropped: bool = False
    prompt: str = ""
    unknown_words: tuple[str, ...] = ()
    watch_level: WatchLevel = WatchLevel.NOTHING
    is_ready: bool = True
    states: dict[int, bytes] = field(default_factory=dict)
    trace: AttemptTrace = field(default_factory=AttemptTrace)

    @property
    def num_waiting(self) -> int:
        """Pictures that have not begun."""
        return self.job.num_images - self.num_begun

    @property
    def is_complete(self) -> bool:
        """Whether every picture is stored."""
        return len(self.images) == self.job.num_images

    def progress(self, is_renewed: bool) -> JobProgress:
        """What the next heartbeat says about this job."""
        num_steps = self.job.params.num_forwards * self.job.num_images
        return JobProgress(self.job.id, self.job.attempt, self.num_steps_done, num_steps, is_renewed)

    def result(self, model_version: str, now_s: float) -> Done:
        """The finished job's result. All pictures must be stored."""
        words = ", ".join(f'"{word}"' for word in self.unknown_words[:10])
        warning = f"this model was not trained on {words}; /v1/models lists the words that it knows"
        return Done(
            images=tuple(self.images[index] for index in range(self.job.num_images)),
            prompt=self.prompt,
            model_version=model_version,
            inference_s=now_s - self.claimed_at_s,
            warnings=(warning,) if self.unknown_words else (),
        )


@dataclass(slots=True, eq=False)
class JobRow:
    """One picture of a run in the batch.

    `admitted_at` is the number of the last forward before it joined, `last_step_at` of the one it last took part in;
    `last_shown_s` is when somebody was last shown how it is coming on, on the worker's monotonic clock.
    """

    run: JobRun
    index: int
    sample: Sample
    admitted_at: int
    last_step_at: int
    last_shown_s: float = -math.inf

    @property
    def model(self) -> str:
        """Name of the model that draws it."""
        return self.run.job.model

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return (self.sample.params.width, self.sample.params.height)

    @property
    def group(self) -> Group:
        """What it must have in common with others to share a forward."""
        return (self.model, *self.size)
