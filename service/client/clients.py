"""The service from Python: `Client`, and `AsyncClient` with the same methods to be awaited. docs/client.md shows them.

Needs httpx and pydantic alone. What is sent, read, tried again and resumed is decided in the pure files beside this
one; here are the two ways to carry it. Surprising: `patience_s` counts from the first of several failures in a row,
not from the start, since a long wait in the queue is no failure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import urlsplit

import httpx

from service.client.calls import (
    Answer,
    Call,
    Request,
    cancel_call,
    generate_call,
    image_call,
    job_call,
    jobs_call,
    models_call,
    seconds_to_look_again,
    submit_call,
)
from service.client.errors import ApiError, StillUnderWay
from service.client.events import Event
from service.client.retries import Patience
from service.client.stream import Course, drawing_course, job_course
from service.client.types import Generation, Job, JobPage, JobStateName, Model, Options

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_PATIENCE_S = 60.0
CONNECT_S = 10.0
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})

T = TypeVar("T")


class Client:
    """The service at `base_url`. A context manager; threads may share one.

    `api_key` is sent as a bearer token and shown nowhere. Full queues (429), a server that is overloaded or away (503,
    no connection) are tried again for `patience_s`; 0 tries once. `timeout_s` of a request is the job's deadline on
    the server. Methods raise ApiError for what the server refuses and ServerUnreachable where there is none.
    """

    def __init__(
        self, base_url: str = DEFAULT_URL, *, api_key: str | None = None, patience_s: float = DEFAULT_PATIENCE_S
    ) -> None:
        self._url = base_url
        self._patience_s = patience_s
        self._http = httpx.Client(**_settings(base_url, api_key))

    def generate(self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[Options]) -> Generation:
        """Draw, and wait for the pictures."""
        return self._ask(generate_call(prompt, options, idempotency_key))

    def stream(
        self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[Options]
    ) -> Generator[Event, None, None]:
        """Draw, and tell how it goes, up to the DoneEvent; broken connections are resumed.

        Raises what the job ended with otherwise. Whoever leaves early and does not want the job should `cancel` it: it
        goes on, since the server takes a request with a key for one that comes back.
        """
        return self._follow(drawing_course(prompt, options, idempotency_key, Patience(self._patience_s)))

    def events(self, job_id: str, *, pictures: bool = True, previews: bool = True) -> Generator[Event, None, None]:
        """Tell how a job goes that was submitted before, as `stream`; it goes on when nobody listens any more.

        Without `pictures` the finished pictures' bytes are left out, without `previews` all looks at unfinished ones.
        """
        return self._follow(job_course(job_id, Patience(self._patience_s), pictures=pictures, previews=previews))

    def submit(self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[Options]) -> Job:
        """Have pictures drawn, to be fetched later."""
        return self._ask(submit_call(prompt, options, idempotency_key))

    def job(self, job_id: str) -> Job:
        """A job as it is now."""
        return self._ask(job_call(job_id))

    def jobs(self, *, limit: int | None = None, after: str | None = None, state: JobStateName | None = None) -> JobPage:
        """The caller's own jobs, newest first."""
        return self._ask(jobs_call(limit, after, state))

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """The job once it is done. Raises what it ended with otherwise, StillUnderWay after `timeout_s`."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if job.is_over:
                return _done(job)
            time.sleep(_pause_before(deadline_s, job))

    def image(self, job_id: str, index: int = 0) -> bytes:
        """One picture of a job that is done."""
        return self._ask(image_call(job_id, index))

    def cancel(self, job_id: str) -> Job:
        """End a job: at once while it waits, at its next step while it is drawn. After its end nothing changes."""
        return self._ask(cancel_call(job_id))

    def models(self) -> tuple[Model, ...]:
        """What can be asked for, the default model first."""
        return self._ask(models_call())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_shown(self._url)!r})"

    def _ask(self, call: Call[T]) -> T:
        patience = Patience(self._patience_s)
        while True:
            try:
                response = self._http.request(**_sent(call.request))
                return call.result(_answer(response, response.content))
            except (httpx.TransportError, ApiError) as failure:
                time.sleep(patience.pause_s(failure))

    def _follow(self, course: Course) -> Generator[Event, None, None]:
        while not course.is_over:
            try:
                with self._http.stream(**_sent(course.request())) as response:
                    if course.begin(_answer(response, b"" if response.is_success else response.read())):
                        for chunk in response.iter_bytes():
                            yield from course.feed(chunk)
                        course.refuse_end()
                    else:
                        yield course.end_from(self.job(course.job_id))
            except (httpx.TransportError, ApiError) as failure:
                time.sleep(course.pause_s(failure))


class AsyncClient:
    """`Client` for asyncio: the same methods, to be awaited, or iterated over with `async for`."""

    def __init__(
        self, base_url: str = DEFAULT_URL, *, api_key: str | None = None, patience_s: float = DEFAULT_PATIENCE_S
    ) -> None:
        self._url = base_url
        self._patience_s = patience_s
        self._http = httpx.AsyncClient(**_settings(base_url, api_key))

    async def generate(
        self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[Options]
    ) -> Generation:
        """Draw, and wait for the pictures."""
        return await self._ask(generate_call(prompt, options, idempotency_key))

    def stream(
        self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[Options]
    ) -> AsyncGenerator[Event, None]:
        """Draw, and tell how it goes; as Client.stream."""
        return self._follow(drawing_course(prompt, options, idempotency_key, Patience(self._patience_s)))

    def events(self, job_id: str, *, pictures: bool = True, previews: bool = True) -> AsyncGenerator[Event, None]:
        """Tell how a job goes that was submitted before; as Client.events."""
        return self._follow(job_course(job_id, Patience(self._patience_s), pictures=pictures, previews=previews))

    async def submit(self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[Options]) -> Job:
        """Have pictures drawn, to be fetched later."""
        return await self._ask(submit_call(prompt, options, idempotency_key))

    async def job(self, job_id: str) -> Job:
        """A job as it is now."""
        return await self._ask(job_call(job_id))

    async def jobs(
        self, *, limit: int | None = None, after: str | None = None, state: JobStateName | None = None
    ) -> JobPage:
        """The caller's own jobs, newest first."""
        return await self._ask(jobs_call(limit, after, state))

    async def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """The job once it is done; as Client.wait."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            job = await self.job(job_id)
            if job.is_over:
                return _done(job)
            await asyncio.sleep(_pause_before(deadline_s, job))

    async def image(self, job_id: str, index: int = 0) -> bytes:
        """One picture of a job that is done."""
        return await self._ask(image_call(job_id, index))

    async def cancel(self, job_id: str) -> Job:
        """End a job; as Client.cancel."""
        return await self._ask(cancel_call(job_id))

    async def models(self) -> tuple[Model, ...]:
        """What can be asked for, the default model first."""
        return await self._ask(models_call())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_shown(self._url)!r})"

    async def _ask(self, call: Call[T]) -> T:
        patience = Patience(self._patience_s)
        while True:
            try:
                response = await self._http.request(**_sent(call.request))
                return call.result(_answer(response, response.content))
            except (httpx.TransportError, ApiError) as failure:
                await asyncio.sleep(patience.pause_s(failure))

    async def _follow(self, course: Course) -> AsyncGenerator[Event, None]:
        while not course.is_over:
            try:
                async with self._http.stream(**_sent(course.request())) as response:
                    if course.begin(_answer(response, b"" if response.is_success else await response.aread())):
                        async for chunk in response.aiter_bytes():
                            for event in course.feed(chunk):
                                yield event
                        course.refuse_end()
                    else:
                        yield course.end_from(await self.job(course.job_id))
            except (httpx.TransportError, ApiError) as failure:
                await asyncio.sleep(course.pause_s(failure))


def key_headers(api_key: str | None) -> dict[str, str]:
    """What sends a key. Raises ValueError for one that can't be sent, without the key, which is a secret."""
    if api_key is None:
        return {}
    if not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
        raise ValueError("api_key: not allowed; a key is printable ASCII")
    return {"Authorization": f"Bearer {api_key}"}


def _settings(base_url: str, api_key: str | None) -> dict[str, Any]:
    """What both of httpx's clients are made with. Raises ValueError for an address or a key that cannot be used."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url: {_shown(base_url)!r} is not allowed; give http:// or https:// and a host")
    return {
        "base_url": base_url,
        "headers": {"User-Agent": "emmdit-client"} | key_headers(api_key),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        # Reading the authorities' certificates takes a tenth of a second, for which http:// has no use.
        "verify": parts.scheme == "https",
        # A proxy of the environment's is no way to this machine itself.
        "trust_env": parts.hostname not in LOOPBACK_HOSTS,
    }


def _shown(url: str) -> str:
    """An address without the name and password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _sent(request: Request) -> dict[str, Any]:
    """A request as httpx's clients take it."""
    timeout = httpx.Timeout(request.silence_s, connect=CONNECT_S)
    return {
        "method": request.method,
        "url": request.path,
        "headers": dict(request.headers),
        "json": request.body,
        "params": dict(request.query) or None,
        "timeout": timeout,
    }


def _answer(response: httpx.Response, body: bytes) -> Answer:
    return Answer(response.status_code, response.headers, body)


def _pause_before(deadline_s: float | None, job: Job) -> float:
    """The pause before the next look. Raises StillUnderWay where the deadline has passed."""
    pause_s = seconds_to_look_again(job)
    if deadline_s is None:
        return pause_s
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise StillUnderWay(f"job {job.id} is still {job.state}")
    return min(pause_s, left_s)


def _done(job: Job) -> Job:
    if job.failure is not None:
        raise job.failure
    return job
