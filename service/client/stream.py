"""One job followed to its end over any number of connections, to any gateway. Pure: the clients only carry bytes.

Until a job's id is known the request itself is sent again, with the same Idempotency-Key; after that the job's events
are asked for from the last one seen. A picture that comes twice is told once.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from service.client.calls import EVENT_STREAM, Answer, Request, events_request, refuse, resumed, stream_request
from service.client.errors import ApiError, BadAnswer
from service.client.events import DoneEvent, Event, EventParser, ImageEvent, JobEvent, typed
from service.client.retries import Patience
from service.client.types import Job, Options


def drawing_course(prompt: str, options: Options, key: str | None, patience: Patience) -> Course:
    """Of a job that the first connection brings into being."""
    return Course(stream_request(prompt, options, key), patience)


def job_course(job_id: str, patience: Patience, *, pictures: bool, previews: bool) -> Course:
    """Of a job that is there."""
    return Course(events_request(job_id, pictures=pictures, previews=previews), patience, job_id)


class Course:
    """What has been seen of one job. `job_id` is "" until the server has told it."""

    def __init__(self, first: Request, patience: Patience, job_id: str = "") -> None:
        self.job_id = job_id
        self.is_over = False
        self._first = first
        self._patience = patience
        self._parser = EventParser()
        self._told: set[int] = set()

    def request(self) -> Request:
        """What to send on the next connection."""
        last_id, retry_s = self._parser.last_id, self._parser.retry_s
        self._parser = EventParser(last_id=last_id, retry_s=retry_s)
        if not self.job_id:
            return self._first
        is_same = self._first.method == "GET"
        request = self._first if is_same else events_request(self.job_id, pictures=True, previews=True)
        return resumed(request, last_id)

    def begin(self, answer: Answer) -> bool:
        """Look at status and headers (and the body, of a refusal). False where nothing is left to tell.

        Raises ApiError.
        """
        refuse(answer)
        self.job_id = self.job_id or answer.headers.get("x-job-id", "")
        if answer.status == httpx.codes.NO_CONTENT:
            return False
        if not answer.headers.get("content-type", "").startswith(EVENT_STREAM):
            message = "the server did not answer with events, which this client asked for"
            raise BadAnswer(message, status=answer.status, code="no_events")
        return True

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes. Raises the ApiError that the job ended with."""
        for raw in self._parser.feed(chunk):
            event = typed(raw)
            if isinstance(event, ApiError):
                raise event
            if event is None or (isinstance(event, ImageEvent) and event.index in self._told):
                continue
            self._patience.renew()
            if isinstance(event, ImageEvent):
                self._told.add(event.index)
            if isinstance(event, JobEvent | DoneEvent):
                self.job_id = event.job.id
            self.is_over = isinstance(event, DoneEvent)
            yield event

    def refuse_end(self) -> None:
        """Raise where a stream has ended in good order but too early, as a gateway that stops may end it."""
        if not self.is_over:
            raise httpx.RemoteProtocolError("the stream of events ended before the job did")

    def end_from(self, job: Job) -> DoneEvent:
        """The end as the job itself tells it, where the stream has nothing left. Raises what it ended with."""
        if job.failure is not None:
            raise job.failure
        if not job.is_over:
            raise BadAnswer(f"no events of job {job.id}, which is {job.state}", status=204, code="no_events")
        self.is_over = True
        return DoneEvent(job=job)

    def pause_s(self, failure: httpx.TransportError | ApiError) -> float:
        """How long to wait before the next connection. Raises where there should be none."""
        return self._patience.pause_s(failure, wish_s=self._parser.retry_s)
