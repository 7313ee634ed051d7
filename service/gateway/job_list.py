"""GET /v1/jobs: the caller's own jobs, newest first, page by page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from service.errors import InvalidValue, JobNotFound
from service.gateway.auth import owner_of
from service.gateway.context import gateway_of
from service.gateway.jobs import describe_all
from service.gateway.query import read_query
from service.gateway.schemas import JobList
from service.jobs import JobState

router = APIRouter()

MAX_LIMIT = 100
DEFAULT_LIMIT = 20


_NAMES = ("limit", "after", "state")


@router.get("/v1/jobs")
async def list_jobs(request: Request, owner: Annotated[str, Depends(owner_of)]) -> Response:
    """The caller's own jobs of all models, newest first: `limit` at most, those after the job `after`, in `state`."""
    gateway = gateway_of(request)
    query = read_query(request, _NAMES)
    limit = _limit(query.get("limit"))
    state = _state(query.get("state"))
    after = query.get("after")
    try:
        statuses, has_more = await gateway.queues.jobs(owner, limit=limit, after=after, state=state)
    except JobNotFound:
        raise InvalidValue("after", after, "allowed: the id of a job of yours that can still be read") from None
    bodies = await describe_all(gateway, statuses)
    page = JobList(data=bodies, has_more=has_more, last_id=bodies[-1].id if bodies else None)
    return JSONResponse(page.model_dump())


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise InvalidValue("limit", text, f"allowed: an integer from 1 to {MAX_LIMIT}")


def _state(text: str | None) -> JobState | None:
    if text is None:
        return None
    try:
        return JobState(text)
    except ValueError:
        raise InvalidValue("state", text, f"allowed: {', '.join(JobState)}") from None
