"""Event streams as a client follows them: to the job's end, through as many connections as it takes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tests.chaos.wanted import Wanted

if TYPE_CHECKING:
    from tests.chaos.client import Clients

POLL_S = 0.15


@dataclass
class Followed:
    """What a stream has told so far: kept when its connection breaks, even if that is right after the end's event."""

    last_id: str = ""
    has_ended: bool = False


async def follow_events(clients: Clients, wanted: Wanted) -> None:
    """Events from the first to the last, through as many connections as it takes."""
    job, method, path = "", "POST", "/v1/generate"
    followed = Followed()
    while not followed.has_ended:
        headers = {"Accept": "text/event-stream"}
        if followed.last_id:
            headers["Last-Event-ID"] = followed.last_id
        body = None
        headers |= clients.authorization(wanted.number)
        if method == "POST":
            headers |= clients.keyed(wanted)
            body = wanted.body()
            clients.note_sent(wanted)
        try:
            async with clients.http.stream(method, clients.any_url() + path, headers=headers, json=body) as response:
                if response.status_code == 200:
                    if not job:
                        job = response.headers["X-Job-ID"]
                        clients.record.add("accepted", request=wanted.number, job=job)
                        method, path = "GET", f"/v1/jobs/{job}/events"
                    await _read_events(clients, wanted, job, response, followed)
                else:
                    await response.aread()
                    if await _is_over(clients, wanted, job, response):
                        return
        except httpx.HTTPError:
            if not job:
                clients.record.add("broken", request=wanted.number)
                if wanted.key is None:
                    return
        await asyncio.sleep(POLL_S)


async def _is_over(clients: Clients, wanted: Wanted, job: str, response: httpx.Response) -> bool:
    """Whether a stream that was refused is not to be asked for again."""
    if response.status_code in (429, 503):
        clients.note_refused(wanted, response)
        await clients.pause(response)
        return False
    if not job:
        await clients.take(wanted, response)
    else:
        clients.strange(wanted, job, response)
    return True


async def _read_events(
    clients: Clients, wanted: Wanted, job: str, response: httpx.Response, followed: Followed
) -> None:
    """To the stream's end."""
    told: set[int] = set()
    async for name, data, event_id in _events(response):
        followed.last_id = event_id or followed.last_id
        if followed.has_ended:
            clients.record.add("told_twice", request=wanted.number, job=job, event=name)
        if name == "image":
            if data["index"] in told:
                clients.record.add("told_twice", request=wanted.number, job=job, event="image")
            told.add(data["index"])
            clients.picture(wanted, job, data["index"], base64.b64decode(data["b64_json"]))
        elif name == "done":
            followed.has_ended = True
            clients.ended(wanted, job, "done", "event")
        elif name == "error":
            followed.has_ended = True
            if data["job"] is None:
                _note_error_event(clients, wanted, job, data["error"])
            else:
                clients.ended(wanted, job, data["job"]["state"], "event", (data["error"] or {}).get("code"))


def _note_error_event(clients: Clients, wanted: Wanted, job: str, error: dict[str, Any]) -> None:
    if error["code"] == "job_not_found":
        clients.record.add("gone", request=wanted.number, job=job, status=404)
    elif error["code"] == "deadline_exceeded":
        clients.record.add("gave_up", request=wanted.number, job=job)
    else:
        clients.record.add("wrong", request=wanted.number, job=job, why=f"event error {error}")


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any], str]]:
    """(name, data, id) of each whole event."""
    name, data, event_id = "", "", ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(": ")
        if not line:
            if data:
                yield name, json.loads(data), event_id
            name, data, event_id = "", "", ""
        elif field == "event":
            name = value
        elif field == "data":
            data += value
        elif field == "id":
            event_id = value
