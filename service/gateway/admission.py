"""The steps that every request for pictures goes through, whatever its route: read, check, submit, wait."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request

from service.errors import DeadlineExceeded, EmmditError
from service.gateway.body import read_json_object
from service.gateway.context import Gateway
from service.gateway.refusals import RequestRefused, shorten
from service.gateway.streaming import disconnect
from service.gateway.waiters import Watch
from service.jobs import Job, JobStatus

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499  # nobody reads it but the access log and the metrics


async def read_fields(request: Request, gateway: Gateway) -> Mapping[str, Any]:
    """The body's fields. Raises what is wrong with the request before any field of it could be."""
    settings = gateway.settings
    if query := request.url.query:
        message = f"the query {shorten(query)} is not read; allowed: fields in the body"
        raise RequestRefused(400, "unknown_field", message)
    return await read_json_object(request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)


def refuse_impossible(gateway: Gateway, job: Job) -> None:
    """Everything about the workers that can be known before the queue is asked. Raises NoWorker or DeadlineExceeded."""
    workers = gateway.model_of(job).workers
    workers.refuse_if_absent()
    workers.refuse_if_too_late(job)


async def submit(gateway: Gateway, job: Job) -> tuple[Watch, int]:
    """Put the job into the queue, watched from before; its position. Raises QueueFull or ServerOverloaded."""
    watch = gateway.waiters.watch(job)
    try:
        submitted = await gateway.model_of(job).queue.submit(job)
    except BaseException:  # a cancelled handler too: nobody will wait for this job
        gateway.waiters.forget(watch)
        raise
    watch.is_submitted = True
    return watch, submitted.position


async def wait_unless_disconnected(request: Request, gateway: Gateway, watch: Watch) -> JobStatus | None:
    """The job's end; None where the client has gone, in which case the job is cancelled."""
    leaving = asyncio.ensure_future(disconnect(request.receive))
    try:
        status = await gateway.waiters.wait(watch, unless=leaving)
    except DeadlineExceeded:
        await cancel(gateway, watch.job)
        raise
    finally:
        leaving.cancel()
    if status is None:
        await cancel(gateway, watch.job)
    return status


def log_accepted(request: Request, job: Job) -> None:
    """Ties the request's id to the job's. Of the prompt only its length and a hash: it is somebody's own words."""
    if not logger.isEnabledFor(logging.INFO):
        return  # the hash below is not free
    params = job.params
    logger.info(
        "job=%s accepted request_id=%s size=%dx%d num_inference_steps=%d n=%d prompt_chars=%d prompt_sha256=%s",
        job.id,
        request.state.request_id,
        params.width,
        params.height,
        params.num_inference_steps,
        job.num_images,
        len(params.prompt),
        hashlib.sha256(params.prompt.encode()).hexdigest()[:16],
    )


async def cancel(gateway: Gateway, job: Job) -> None:
    """Call off a job that nobody waits for any more. Where that cannot be done now, it ends at its deadline."""
    try:
        await gateway.model_of(job).queue.cancel(job.id, job.owner)
    except EmmditError as error:
        logger.warning("job %s could not be cancelled: %s; it ends at its deadline", job.id, error.code)
