"""The Idempotency-Key header: a request that is sent again, because its answer was lost, is not drawn again.

A key belongs to its owner and to what was asked for first under it. A seed that the request leaves open follows from
the key, so that the pictures are the same ones even where the first answer is past its time and they are drawn anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

from fastapi import Request
from pydantic import BaseModel

from model.params import MAX_SEED
from service.gateway.context import Gateway
from service.gateway.jobs import describe
from service.gateway.refusals import RequestRefused, shorten
from service.jobs import Job, JobStatus
from service.queue_types import IdempotencyKey

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_KEY_CHARS = 255
KEY_PATTERN = f"[!-~]{{1,{MAX_KEY_CHARS}}}"


def key_of(request: Request, owner: str, asked: BaseModel) -> IdempotencyKey | None:
    """The request's key; None where it has none. Raises RequestRefused (400).

    `asked` is the body as it was parsed: how it was written, and in which order, makes no difference.
    """
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    if len(given) > 1 or not re.fullmatch(KEY_PATTERN, given[0]):
        shown = f"given {len(given)} times" if len(given) > 1 else shorten(given[0])
        message = f"{HEADER}: {shown} is not allowed; allowed: once, 1 to {MAX_KEY_CHARS} visible ASCII characters"
        raise RequestRefused(400, "invalid_value", message, param=HEADER)
    body = {"route": request.url.path, "asked": asked.model_dump(mode="json", exclude_none=True)}
    return IdempotencyKey(digest=_digest([owner, given[0]]), fingerprint=_digest(body))


def with_seed_of(key: IdempotencyKey, job: Job) -> Job:
    """The job with the seed that the key stands for, where its request left it open."""
    return replace(job, params=replace(job.params, seed=int(key.digest[:16], 16) % (MAX_SEED + 1)))


async def refuse_under_way(gateway: Gateway, status: JobStatus) -> None:
    """Raises RequestRefused (409) while the key's job goes on: when to come back is the job's estimated end."""
    if status.state.is_terminal:
        return
    seconds_left = (await describe(gateway, status)).estimated_seconds_left
    job_id = status.job.id
    raise RequestRefused(
        409,
        "idempotency_in_progress",
        f"{HEADER}: job {job_id}, which was accepted under this key, is {status.state}; "
        f"send the request again later, or look at /v1/jobs/{job_id}",
        param=HEADER,
        headers={"X-Job-ID": job_id},
        retry_after_s=max(seconds_left or 1.0, 1.0),
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
