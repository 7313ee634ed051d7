"""Jobs, their states, their results, and the one JSON codec that writes them to and reads them from Redis.

Everything here is a frozen value. The codec's version is for changes that no reader may pass over: it refuses another
one instead of guessing. A new field that older readers can do without leaves it (service/records.py). Times are
seconds since the epoch on the Redis server's clock.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any

from model.params import GenerationParams, seed_of_image
from service.records import from_fields, to_fields, to_json

CODEC_VERSION = 1


class JobState(StrEnum):
    """Where a job is; the last four are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended, for good."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class WatchLevel(IntEnum):
    """What is published about a job while it runs, beyond what its state says."""

    NOTHING = 0
    PICTURES = 1  # its steps as they are taken, its pictures as they are done
    PREVIEWS = 2  # and small pictures of what it will be


class Priority(IntEnum):
    """Lower runs first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted request: `num_images` pictures from one recipe, the i-th with `seed_of_image(seed, i)`.

    `attempt` is 0 until a worker claims the job and counts claims from 1. `inbox` is where its waiter listens.
    `time_left_s` is how far off the deadline was when the job was claimed, on the server's clock. `watch_level` is what
    was asked for with the job or, where it was claimed, by whoever has come to watch it since; of `partial_images`
    steps each picture's full-size estimate is published too. `output_format` and `output_compression` (None for png)
    say how the gateway sends the pictures: what is stored is always a PNG. `traceparent` is the request's span
    (service/trace_context.py), empty where the gateway knew of none; which trace a job is in makes it no other job.
    """

    id: str
    model: str
    owner: str
    params: GenerationParams
    num_images: int
    priority: Priority
    timeout_s: float
    inbox: str = ""
    watch_level: WatchLevel = WatchLevel.NOTHING
    partial_images: int = 0
    output_format: str = "png"
    output_compression: int | None = None
    traceparent: str = field(default="", compare=False)
    attempt: int = 0
    time_left_s: float = field(default=math.inf, compare=False)

    @property
    def cost(self) -> float:
        """Megapixel-steps of the whole job."""
        return self.params.cost * self.num_images

    def params_of_image(self, index: int) -> GenerationParams:
        """Recipe of the index-th picture."""
        return replace(self.params, seed=seed_of_image(self.params.seed, index))


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One finished picture in the blob store. `sha256` is of the PNG bytes, in hex."""

    blob: str
    seed: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Done:
    """`prompt` is the text as the model saw it; `warnings` are sentences for the client."""

    images: tuple[ImageRef, ...]
    prompt: str
    model_version: str
    inference_s: float
    warnings: tuple[str, ...] = ()
    state: JobState = field(default=JobState.DONE, init=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """`code` is stable and belongs to clients; `message` never holds a path, a secret or a traceback."""

    code: str
    message: str
    state: JobState = field(default=JobState.FAILED, init=False)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """`phase` is "queued" or "running": where the job was when it was cancelled."""

    phase: str
    state: JobState = field(default=JobState.CANCELLED, init=False)


@dataclass(frozen=True, slots=True)
class Expired:
    """`phase` is "queued" or "running": where the job was when its deadline passed."""

    phase: str
    state: JobState = field(default=JobState.EXPIRED, init=False)


JobResult = Done | Failed | Cancelled | Expired
_RESULT_OF_STATE: Mapping[str | None, type[JobResult]] = {
    JobState.DONE: Done,
    JobState.FAILED: Failed,
    JobState.CANCELLED: Cancelled,
    JobState.EXPIRED: Expired,
}


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as the queue knows it now. `position` is 0 for the next to run, None unless queued.

    `step` counts denoising steps done of `num_steps`, summed over the job's pictures.
    """

    job: Job
    state: JobState
    step: int
    num_steps: int
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    position: int | None = None
    result: JobResult | None = None


def new_job_id() -> str:
    """128 random bits, URL-safe."""
    return secrets.token_hex(16)


def encode_job(job: Job) -> str:
    """The job as JSON, without `attempt` and `time_left_s`: those belong to the queue."""
    values = to_fields(job)
    del values["attempt"], values["time_left_s"]
    numbers = {"priority": int(job.priority), "watch_level": int(job.watch_level), "v": CODEC_VERSION}
    return to_json(values | {"params": to_fields(job.params)} | numbers)


def decode_job(text: str, attempt: int = 0, time_left_s: float = math.inf) -> Job:
    """Raises ValueError for another codec version, or where a field without a default is missing."""
    values = _versioned(text)
    try:
        params = from_fields(GenerationParams, values["params"])
        priority = Priority(values["priority"])
        watch_level = WatchLevel(values.get("watch_level", WatchLevel.NOTHING))
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a job of codec version {CODEC_VERSION}: {error}") from error
    given = {"params": params, "priority": priority, "watch_level": watch_level}
    return from_fields(Job, values, **given, attempt=attempt, time_left_s=time_left_s)


def encode_result(result: JobResult) -> str:
    """The result as JSON."""
    values = to_fields(result)
    if isinstance(result, Done):
        values["images"] = [to_fields(image) for image in result.images]
    return to_json(values | {"v": CODEC_VERSION})


def decode_result(text: str) -> JobResult:
    """Raises ValueError for another codec version, or where a field without a default is missing."""
    values = _versioned(text)
    kind = _RESULT_OF_STATE.get(values.pop("state", None))
    if kind is None:
        raise ValueError(f"not a result of codec version {CODEC_VERSION}")
    if kind is not Done:
        return from_fields(kind, values)
    try:
        images = tuple(from_fields(ImageRef, image) for image in values["images"])
        warnings = tuple(values.get("warnings", ()))
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a result of codec version {CODEC_VERSION}: {error}") from error
    return from_fields(Done, values, images=images, warnings=warnings)


def _versioned(text: str) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict) or values.pop("v", None) != CODEC_VERSION:
        raise ValueError(f"unknown codec version; this process reads version {CODEC_VERSION}")
    return values
