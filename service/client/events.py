"""Server-sent events: bytes -> events of the format -> typed events of this service. Pure; knows no connection.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. Surprising: lines may end in
CR, LF or both, and any of it may be cut in two between chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from service.client.errors import ApiError, BadAnswer, error_of_job
from service.client.types import ErrorDetail, Job

MAX_EVENT_BYTES = 256 * 1024**2  # ten pictures of 4 megapixels, uncompressed and in base64, fit twice


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class JobEvent(_Event):
    """The job as it is now: its state, place in the queue or step has changed."""

    job: Job


class PreviewEvent(_Event):
    """A tiny picture of what is being drawn, after `step` of that picture's `num_steps`; to be scaled up."""

    job_id: str
    index: int
    step: int
    num_steps: int
    width: int
    height: int
    content_type: str
    data: Base64Bytes = Field(validation_alias="b64_json", repr=False)


class PartialImageEvent(_Event):
    """A full-size look at a picture that is not finished; only where `partial_images` asked for some."""

    job_id: str
    index: int
    partial_image_index: int
    step: int
    num_steps: int
    content_type: str
    data: Base64Bytes = Field(validation_alias="b64_json", repr=False)


class ImageEvent(_Event):
    """A finished picture. `data` is None where the stream was asked to leave the bytes out."""

    job_id: str
    index: int
    seed: int
    url: str
    num_bytes: int
    content_type: str = "image/png"
    data: Base64Bytes | None = Field(None, validation_alias="b64_json", repr=False)


class DoneEvent(_Event):
    """The end: all pictures are drawn. A job that ends otherwise raises instead."""

    job: Job


Event = JobEvent | PreviewEvent | PartialImageEvent | ImageEvent | DoneEvent


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One event of the format, its `id` being the last that the stream gave."""

    name: str
    data: str
    id: str


@dataclass(slots=True)
class EventParser:
    """Takes a stream apart as it comes. `retry_s` is the server's wish for the pause before a reconnection."""

    last_id: str = ""
    retry_s: float | None = None
    _rest: bytearray = field(default_factory=bytearray)
    _name: str = ""
    _data: list[str] = field(default_factory=list)
    _next_id: str = ""
    _num_bytes: int = 0
    _is_first_line: bool = True
    _ends_in_cr: bool = False

    def __post_init__(self) -> None:
        self._next_id = self.last_id

    def feed(self, chunk: bytes) -> Iterator[RawEvent]:
        """The events that `chunk` completes. Raises BadAnswer where one is larger than any of ours could be."""
        for line in self._lines(chunk):
            if line:
                self._take(line)
            else:
                event = self._dispatch()
                if event is not None:
                    yield event

    def _lines(self, chunk: bytes) -> Iterator[str]:
        if self._ends_in_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the other half of a line's end, whose line is out already
            self._ends_in_cr = False
        searched = len(self._rest)
        self._rest += chunk
        self._num_bytes += len(chunk)
        if self._num_bytes > MAX_EVENT_BYTES:
            raise BadAnswer(f"an event of more than {MAX_EVENT_BYTES} bytes", status=200, code="event_too_large")
        start = 0
        while True:
            ends = [at for at in (self._rest.find(b"\n", searched), self._rest.find(b"\r", searched)) if at >= 0]
            if not ends:
                break
            end = min(ends)
            line = self._rest[start:end].decode("utf-8", "replace")
            start = searched = end + 1
            if self._rest[end] == ord("\r"):
                if start == len(self._rest):
                    self._ends_in_cr = True
                elif self._rest[start] == ord("\n"):
                    start = searched = start + 1
            if self._is_first_line:
                line, self._is_first_line = line.removeprefix("\ufeff"), False
            yield line
        del self._rest[:start]

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._next_id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry_s = int(value) / 1000

    def _dispatch(self) -> RawEvent | None:
        self.last_id = self._next_id
        name, data = self._name or "message", self._data
        self._name, self._data, self._num_bytes = "", [], len(self._rest)
        return RawEvent(name, "\n".join(data), self.last_id) if data else None


class _Ending(_Event):
    error: ErrorDetail
    job: Job | None = None


def typed(raw: RawEvent) -> Event | ApiError | None:
    """What an event says: an ApiError is how the job ended, None an event that only a newer client knows.

    Raises BadAnswer where its data is not what its name promises.
    """
    try:
        match raw.name:
            case "job":
                return JobEvent(job=Job.model_validate_json(raw.data))
            case "preview":
                return PreviewEvent.model_validate_json(raw.data)
            case "partial_image":
                return PartialImageEvent.model_validate_json(raw.data)
            case "image":
                return ImageEvent.model_validate_json(raw.data)
            case "done":
                return DoneEvent(job=Job.model_validate_json(raw.data))
            case "error":
                end = _Ending.model_validate_json(raw.data)
                job_id = end.job.id if end.job else None
                failure = error_of_job(end.error.code, end.error.message, param=end.error.param, job_id=job_id)
                # A gateway that stops says so to its streams, and the job goes on without it.
                failure.should_retry = end.job is not None and not end.job.is_over
                return failure
            case _:
                return None
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) or "all of it" for item in error.errors()[:4])
        message = f"an event {raw.name!r} that is not as this service sends it: {fields}"
        raise BadAnswer(message, status=200, code="bad_event") from None
