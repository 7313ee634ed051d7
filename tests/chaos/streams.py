"""Event streams as a client follows them: to the job's end, through as many connections as it takes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx

from tests.chaos.wanted import Wanted

if TYPE_CHECKING:
    from tests.chaos.client import Clients

POLL_S = 0.15


async def follow_events(clients: Clients, wanted: Wanted) -> None:
    """Events from the first to the last, through as many connections as it takes."""
    job, last_id, method, path = "", "", "POST", "/v1/generate"
    while True:
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
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
                    has_ended, last_id = await _read_events(clients, wanted, job, response, last_id)
                    if has_ended:
                        return
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
    clients: Clients, wanted: Wanted, job: str, response: httpx.Response, last_id: str
) -> tuple[bool, str]:
    """To the stream's end: whether it was the job's too, and the last id."""
    told: set[int] = set()
    has_ended = False
    async for name, data, event_id in _events(response):
        last_id = event_id or last_id
        if has_ended:
            clients.record.add("told_twice", request=wanted.number, job=job, event=name)
        if name == "image":
            if data["index"] in told:
                clients.record.add("told_twice", request=wanted.number, job=job, event="image")
            told.add(data["index"])
            clients.picture(wanted, job, data["index"], base64.b64decode(data["b64_json"]))
        elif name == "done":
            has_ended = True
            clients.ended(wanted, job, "done", "event")
        elif name == "error":
            has_ended = True
            if data["job"] is None:
                _note_error_event(clients, wanted, job, data["error"])
            else:
                clients.ended(wanted, job, data["job"]["state"], "event", (data["error"] or {}).get("code"))
    return has_ended, last_id


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
