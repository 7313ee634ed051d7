"""The requests that a client sends and what it makes of the answers. Pure: both clients send what is written here."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from service.client.errors import BadAnswer, error_in
from service.client.types import Generation, Job, JobPage, JobStateName, Model, ModelPage, Options

GENERATE_PATH = "/v1/generate"
EVENT_STREAM = "text/event-stream"
QUICK_S = 30.0  # for answers that nobody has to draw for
DEFAULT_DRAWING_S = 300.0  # EMMDIT_DEFAULT_TIMEOUT_S, which this side cannot know
DRAWING_MARGIN_S = 30.0  # the server says that a job's time is up; this side only notices that the server is gone
SILENCE_S = 45.0  # a stream has a keep-alive every 15 s: three missing ones are a dead connection
_JOB_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")

T = TypeVar("T")
Answered = TypeVar("Answered", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, read to its end. `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `silence_s` is how long the server may say nothing before the connection counts as dead."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] | None = None
    query: Mapping[str, str | int] = field(default_factory=dict)
    silence_s: float = QUICK_S


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request and the reading of its answer."""

    request: Request
    read: Callable[[Answer], T]

    def result(self, answer: Answer) -> T:
        """What the answer says. Raises ApiError for one of 4xx or 5xx, BadAnswer for what is not this service's."""
        refuse(answer)
        return self.read(answer)


def refuse(answer: Answer) -> None:
    """Raise the ApiError that an answer stands for, if it is not of 2xx."""
    if not 200 <= answer.status < 300:
        raise error_in(answer.status, answer.headers, answer.body)


def generate_call(prompt: str, options: Options, key: str | None) -> Call[Generation]:
    """Draw, and wait for the pictures."""
    request = _drawing(prompt, options, key, {"Accept": "application/json"})
    return Call(replace(request, silence_s=drawing_s(options) + DRAWING_MARGIN_S), _reader(Generation))


def submit_call(prompt: str, options: Options, key: str | None) -> Call[Job]:
    """Have drawn, without waiting."""
    headers = {"Accept": "application/json", "Prefer": "respond-async"}
    return Call(_drawing(prompt, options, key, headers), _reader(Job))


def stream_request(prompt: str, options: Options, key: str | None) -> Request:
    """Draw, and tell how it goes."""
    return replace(_drawing(prompt, options, key, {"Accept": EVENT_STREAM}), silence_s=SILENCE_S)


def events_request(job_id: str, *, pictures: bool, previews: bool) -> Request:
    """Tell how a job goes."""
    wanted = {"pictures": pictures, "previews": previews}
    query = {name: "false" for name, is_wanted in wanted.items() if not is_wanted}
    return Request("GET", f"{_job_path(job_id)}/events", {"Accept": EVENT_STREAM}, query=query, silence_s=SILENCE_S)


def resumed(request: Request, last_event_id: str) -> Request:
    """The same events from after `last_event_id` on; all of them where that is empty."""
    return replace(request, headers={**request.headers, "Last-Event-ID": last_event_id}) if last_event_id else request


def job_call(job_id: str) -> Call[Job]:
    """A job as it is now."""
    return Call(Request("GET", _job_path(job_id)), _reader(Job))


def cancel_call(job_id: str) -> Call[Job]:
    """End a job."""
    return Call(Request("DELETE", _job_path(job_id)), _reader(Job))


def jobs_call(limit: int | None, after: str | None, state: JobStateName | None) -> Call[JobPage]:
    """The caller's own jobs."""
    query = {"limit": limit, "after": after, "state": state}
    return Call(
        Request("GET", "/v1/jobs", query={name: value for name, value in query.items() if value is not None}),
        _reader(JobPage),
    )


def image_call(job_id: str, index: int) -> Call[bytes]:
    """One finished picture's bytes."""
    headers = {"Accept": "image/*"}
    return Call(Request("GET", f"{_job_path(job_id)}/images/{int(index)}", headers), lambda answer: answer.body)


def models_call() -> Call[tuple[Model, ...]]:
    """What can be asked for."""
    read = _reader(ModelPage)
    return Call(Request("GET", "/v1/models"), lambda answer: read(answer).data)


def drawing_s(options: Options) -> float:
    """How long the server may draw at these options."""
    return options.get("timeout_s") or DEFAULT_DRAWING_S


def seconds_to_look_again(job: Job) -> float:
    """A pause before the next look at a job that goes on: half of what is left, so that the end is seen soon after."""
    if job.estimated_seconds_left is None:
        return 0.5
    return min(max(job.estimated_seconds_left / 2, 0.1), 5.0)


def _drawing(prompt: str, options: Options, key: str | None, headers: Mapping[str, str]) -> Request:
    """A request with an Idempotency-Key, so that sending it again after a broken connection draws nothing twice."""
    if unknown := set(options) - set(Options.__annotations__):
        allowed = ", ".join(Options.__annotations__)
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}; there are: {allowed}")
    body: dict[str, object] = {"prompt": prompt}
    body |= {name: value for name, value in options.items() if value is not None}
    return Request("POST", GENERATE_PATH, {**headers, "Idempotency-Key": key or str(uuid.uuid4())}, body)


def _job_path(job_id: str) -> str:
    """The path of a job. Raises ValueError for what can't be an id: it would become another path."""
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"job_id: {job_id[:80]!r} is not allowed; allowed: letters, digits, _ and -")
    return f"/v1/jobs/{job_id}"


def _reader(kind: type[Answered]) -> Callable[[Answer], Answered]:
    def read(answer: Answer) -> Answered:
        try:
            return kind.model_validate_json(answer.body)
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, item["loc"])) or "all of it" for item in error.errors()[:4])
            message = f"the answer is not as this service gives it: {fields}"
            raise BadAnswer(message, status=answer.status, code="bad_answer") from None

    return read
