"""Sends planned requests when they are due, whatever becomes of the earlier ones: an open loop.

A client that waited for answers would send less the slower the server is, and so hide its queues (coordinated
omission). Here every request has a task of its own, connections are as many as it takes, and time counts from when a
request was *due*: what this process itself is late by is part of the latency, and is reported beside it.

Not service/client: it would try refused requests again and resume broken ones, which are what is counted here, and
it would decode every picture, for which requests that are due would have to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from service.bench.plan import PlannedRequest
from service.client.calls import EVENT_STREAM, GENERATE_PATH
from service.client.errors import error_in

LEAD_S = 0.05  # the first request is due a little after the start, so that it too can be on time


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request. Times are seconds after the start.

    `error` is None for a picture, else the service's error code, "http_500" where it gave none, "timeout",
    "connection" or "no_picture". `queue_s` and `inference_s` are the server's own figures, `retry_after_s` is for how
    long a refused client was asked to stay away.
    """

    request: PlannedRequest
    sent_s: float
    ended_s: float
    error: str | None
    num_bytes: int = 0
    queue_s: float | None = None
    inference_s: float | None = None
    first_preview_s: float | None = None
    retry_after_s: float | None = None

    @property
    def latency_s(self) -> float:
        """From when the request was due to the end of its answer."""
        return self.ended_s - self.request.at_s

    @property
    def send_lag_s(self) -> float:
        """How late this process sent it."""
        return self.sent_s - self.request.at_s


async def run_load(
    client: httpx.AsyncClient, planned: Sequence[PlannedRequest], *, timeout_s: float, with_previews: bool = False
) -> list[Outcome]:
    """Send all of `planned` and wait for the last answer. A request ends at the latest `timeout_s` after it was due.

    `client` has the base URL and must not limit the number of connections. `with_previews` asks for events.
    """
    sender = _Sender(client, timeout_s, with_previews)
    tasks = []
    for request in sorted(planned, key=lambda request: request.at_s):
        await asyncio.sleep(request.at_s - sender.now_s())
        tasks.append(asyncio.create_task(sender.send(request)))
    return list(await asyncio.gather(*tasks))


async def offers_previews(client: httpx.AsyncClient) -> bool:
    """Whether the server's own description says that pictures can come as events."""
    try:
        description = (await client.get("/openapi.json")).json()
        return EVENT_STREAM in description["paths"][GENERATE_PATH]["post"]["responses"]["200"]["content"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False


class _Sender:
    """Sends single requests; its clock begins with it."""

    def __init__(self, client: httpx.AsyncClient, timeout_s: float, with_previews: bool) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._accept = EVENT_STREAM if with_previews else "image/png"
        self._start_s = asyncio.get_running_loop().time() + LEAD_S

    def now_s(self) -> float:
        """Seconds after the start."""
        return asyncio.get_running_loop().time() - self._start_s

    async def send(self, request: PlannedRequest) -> Outcome:
        """One request to its end. Raises nothing that a server or a network can cause."""
        sent_s = self.now_s()
        try:
            async with asyncio.timeout(request.at_s + self._timeout_s - sent_s):
                return await self._ask(request, sent_s)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(request, sent_s, self.now_s(), "timeout")
        except httpx.HTTPError:
            return Outcome(request, sent_s, self.now_s(), "connection")

    async def _ask(self, request: PlannedRequest, sent_s: float) -> Outcome:
        headers = {"Accept": self._accept}
        async with self._client.stream("POST", GENERATE_PATH, json=request.body(), headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                refusal = error_in(response.status_code, response.headers, await response.aread())
                return Outcome(request, sent_s, self.now_s(), refusal.code, retry_after_s=refusal.retry_after_s)
            if response.headers.get("content-type", "").startswith(EVENT_STREAM):
                return await self._read_events(request, sent_s, response)
            num_bytes = len(await response.aread())
            return Outcome(
                request,
                sent_s,
                self.now_s(),
                None if num_bytes else "no_picture",
                num_bytes,
                _seconds(response, "x-queue-time"),
                _seconds(response, "x-inference-time"),
            )

    async def _read_events(self, request: PlannedRequest, sent_s: float, response: httpx.Response) -> Outcome:
        """Events up to the end. A preview is an event called "...preview" or "...partial_image"."""
        first_preview_s: float | None = None
        num_bytes, last = 0, ""
        async for line in response.aiter_lines():
            num_bytes += len(line)
            if line.startswith("event:"):
                last = line.removeprefix("event:").strip()
                if first_preview_s is None and last.endswith(("preview", "partial_image")):
                    first_preview_s = self.now_s() - request.at_s
        error = "no_picture" if not last or last.endswith("error") else None
        return Outcome(request, sent_s, self.now_s(), error, num_bytes, first_preview_s=first_preview_s)


def _seconds(response: httpx.Response, header: str) -> float | None:
    try:
        return float(response.headers[header])
    except (KeyError, ValueError):
        return None
