"""The steps that every request for pictures goes through, whatever its route: read, check, submit, wait."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from service.errors import DeadlineExceeded, EmmditError, JobNotFound, JobNotReady, ServerOverloaded
from service.gateway.auth import caller_of
from service.gateway.body import read_json_object
from service.gateway.charging import charge, give_back, refund
from service.gateway.context import Gateway
from service.gateway.idempotency import REPLAYED, key_of, refuse_under_way, with_seed_of
from service.gateway.keyring import KEY_BUDGET_S
from service.gateway.refusals import RequestRefused, shorten
from service.gateway.request_trace import trace_of
from service.gateway.responses import error_response
from service.gateway.streaming import disconnect
from service.gateway.waiters import Watch
from service.jobs import Job, JobState, JobStatus
from service.logs import about, note_job
from service.queue_server import CALL_BUDGET_S, all_within

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499  # nobody reads it but the access log and the metrics
ADMISSION_BUDGET_S = CALL_BUDGET_S - KEY_BUDGET_S  # so that a request knows within CALL_BUDGET_S where it stands


@dataclass(frozen=True, slots=True)
class Entry:
    """A request's place at a job, which is its own, one that it shares, or an earlier one of its Idempotency-Key.

    `status` is the job as it stood then, and `watch` waits for its end; an earlier job has none. A job that `is_kept`
    goes on without its client. `limits` are the headers that say where its tenant stands.
    """

    status: JobStatus
    watch: Watch | None
    is_kept: bool
    is_shared: bool = False
    limits: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_replayed(self) -> bool:
        """Whether the job was accepted for an earlier request with this one's key."""
        return self.watch is None

    @property
    def kind(self) -> str:
        """For the log."""
        return "replayed" if self.is_replayed else "shared" if self.is_shared else "accepted"


async def read_fields(request: Request, gateway: Gateway) -> Mapping[str, Any]:
    """The body's fields. Raises what is wrong with the request before any field of it could be."""
    settings = gateway.settings
    if query := request.url.query:
        message = f"the query {shorten(query)} is not read; allowed: fields in the body"
        raise RequestRefused(400, "unknown_field", message)
    return await read_json_object(request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)


def refuse_impossible(gateway: Gateway, job: Job) -> None:
    """Everything about the workers that can be known before the queue is asked.

    Raises NoWorker, ServerOverloaded or DeadlineExceeded.
    """
    workers = gateway.model_of(job).workers
    workers.refuse_if_absent()
    workers.refuse_if_none_can_store()
    workers.refuse_if_too_late(job)


async def enter(
    request: Request, gateway: Gateway, job: Job, asked: BaseModel, *, is_kept: bool, waits_for_end: bool
) -> Entry:
    """Find the request its job: an earlier one of its Idempotency-Key, one under way that it can share, or its own.

    `asked` is the parsed body. With `is_kept` the job goes on whatever the client does; `waits_for_end` says that the
    answer is the job's end and nothing before it. Raises what is wrong with the key, NoWorker, DeadlineExceeded, what
    exceeds the tenant's quotas, QueueFull or ServerOverloaded, within ADMISSION_BUDGET_S.
    """
    with all_within(ADMISSION_BUDGET_S):
        return await _enter(request, gateway, job, asked, is_kept=is_kept, waits_for_end=waits_for_end)


async def _enter(
    request: Request, gateway: Gateway, job: Job, asked: BaseModel, *, is_kept: bool, waits_for_end: bool
) -> Entry:
    job = replace(job, traceparent=trace_of(request.scope).traceparent)
    key = key_of(request, job.owner, asked)
    has_seed = getattr(asked, "seed", None) is not None
    if key is not None:
        job = job if has_seed else with_seed_of(key, job)
        earlier = await gateway.queues.keyed(key, job.owner)
        gateway.metrics.count_look_up("idempotency", is_hit=earlier is not None)
        if earlier is not None:
            return await _replay(gateway, earlier, job, waits_for_end=waits_for_end)
    elif has_seed:
        watch = gateway.sharing.join(job, will_watch=not is_kept)
        gateway.metrics.count_look_up("generation", is_hit=watch is not None)
        if watch is not None:
            status = await _shared_status(gateway, watch, waits_for_end=waits_for_end)
            return Entry(status, watch, is_kept=is_kept, is_shared=True)
    refuse_impossible(gateway, job)

    watch = gateway.waiters.watch(job)
    if key is None and has_seed:
        gateway.sharing.offer(watch)
    try:
        limits = await charge(gateway, job, caller_of(request).quotas)
        watch.is_charged = limits is not None
        submitted = await gateway.model_of(job).queue.submit(job, key)
    except BaseException as error:  # a cancelled handler too: nobody will wait for this job
        if watch.is_charged:
            await give_back(gateway, job, error)
        given_up = ServerOverloaded("the request that was to be answered together with this one was given up")
        _forget(gateway, watch, error if isinstance(error, EmmditError) else given_up)
        raise
    if submitted.earlier is not None:  # the same request came at the same moment; nobody shares a job with a key
        if watch.is_charged:
            await refund(gateway, job)
        _forget(gateway, watch, JobNotFound(f"job {job.id} gave way to job {submitted.earlier.job.id}"))
        return await _replay(gateway, submitted.earlier, job, waits_for_end=waits_for_end)
    watch.accepted.set_result(submitted.position)
    status = _accepted_status(job, submitted.position)
    return Entry(status, watch, is_kept=is_kept or key is not None, limits=limits or {})


async def wait_for_end(request: Request, gateway: Gateway, entry: Entry) -> JobStatus | None:
    """The job's end; None where the client has gone, which has left then. Raises what Waiters.wait does."""
    if entry.watch is None:
        return entry.status
    leaving = asyncio.ensure_future(disconnect(request.receive))
    try:
        status = await gateway.waiters.wait(entry.watch, unless=leaving)
    except DeadlineExceeded:
        await leave(gateway, entry)
        raise
    finally:
        leaving.cancel()
    if status is None:
        await leave(gateway, entry)
    return status


async def leave(gateway: Gateway, entry: Entry) -> None:
    """The client has gone: its job is cancelled, unless it is to go on or somebody else wants it."""
    if entry.watch is None or entry.is_kept:
        return
    if gateway.sharing.leave(entry.watch):
        await _cancel(gateway, entry.watch.job)
    else:
        gateway.metrics.count_answer(entry.watch.job.model, JobState.CANCELLED)


def leave_later(gateway: Gateway, entry: Entry) -> None:
    """The client of a stream has gone: unless it comes back for the job, it has left."""
    if entry.watch is not None and not entry.is_kept:
        gateway.abandoned.note(partial(_leave_unless_watched, gateway, entry, entry.watch))


async def _leave_unless_watched(gateway: Gateway, entry: Entry, watch: Watch) -> None:
    """Of a job that others want nobody can tell whether this client is back; they will see to its end."""
    queue = gateway.model_of(watch.job).queue
    with suppress(ServerOverloaded):  # it ends at its deadline
        if watch.num_wanted > 1 or await queue.events.count_watchers(watch.job.id) == 0:
            await leave(gateway, entry)


def entry_headers(entry: Entry, status_code: int) -> dict[str, str]:
    """What every answer says about where it comes from, errors too. Asking again would give a replayed error again."""
    headers = {"X-Job-ID": entry.status.job.id, **entry.limits}
    if entry.is_replayed:
        headers[REPLAYED] = "true"
        if status_code >= 400:
            headers["x-should-retry"] = "false"
    return headers


def failed(request: Request, entry: Entry, error: EmmditError) -> Response:
    """The answer to a request that has its job and gets no pictures of it."""
    if isinstance(error, JobNotReady):  # done, and its pictures were removed before their time
        message = f"the pictures of job {entry.status.job.id} are no longer stored"
        error = RequestRefused(410, "job_not_ready", message)
    return error_response(error, request.state.request_id)


async def _replay(gateway: Gateway, earlier: JobStatus, job: Job, *, waits_for_end: bool) -> Entry:
    """`job` is what the request would have been drawn as: its pictures are sent as this one asks for."""
    if waits_for_end:
        await refuse_under_way(gateway, earlier)
        as_asked = replace(earlier.job, output_format=job.output_format, output_compression=job.output_compression)
        earlier = replace(earlier, job=as_asked)
    if earlier.state.is_terminal:
        gateway.metrics.count_answer(earlier.job.model, earlier.state)
    return Entry(earlier, None, is_kept=True)


async def _shared_status(gateway: Gateway, watch: Watch, *, waits_for_end: bool) -> JobStatus:
    """The job that others wait for already. Raises what it was refused for."""
    job = watch.job
    try:
        status = _accepted_status(job, await asyncio.shield(watch.accepted))
    except BaseException:
        gateway.sharing.leave(watch)
        raise
    if not waits_for_end:
        with suppress(ServerOverloaded, JobNotFound):  # then what was true at its acceptance will do
            status = await gateway.model_of(job).queue.status(job.id, job.owner)
    return status


def _forget(gateway: Gateway, watch: Watch, error: EmmditError) -> None:
    gateway.sharing.withdraw(watch.job)
    gateway.waiters.forget(watch, error)


def _accepted_status(job: Job, position: int) -> JobStatus:
    """Made from what is known here: the job is accepted, and no further trouble may turn that into an error."""
    return JobStatus(
        job=job,
        state=JobState.QUEUED,
        step=0,
        num_steps=job.params.num_forwards * job.num_images,
        created_at=time.time(),
        position=position,
    )


def log_entered(request: Request, entry: Entry) -> None:
    """Ties the request's id to the job's and its tenant. Of the prompt only its length and a hash: it is private."""
    note_job(entry.status.job.id)
    if not logger.isEnabledFor(logging.INFO):
        return  # the hash below is not free
    job, params = entry.status.job, entry.status.job.params
    logger.info(
        "job=%s %s request_id=%s tenant=%s size=%dx%d num_inference_steps=%d n=%d prompt_chars=%d prompt_sha256=%s",
        job.id,
        entry.kind,
        request.state.request_id,
        job.owner,
        params.width,
        params.height,
        params.num_inference_steps,
        job.num_images,
        len(params.prompt),
        hashlib.sha256(params.prompt.encode()).hexdigest()[:16],
    )


async def _cancel(gateway: Gateway, job: Job) -> None:
    """Call off a job that nobody waits for any more. Where that cannot be done now, it ends at its deadline."""
    try:
        await gateway.model_of(job).queue.cancel(job.id, job.owner)
    except EmmditError as error:
        text = "job %s could not be cancelled: %s; it ends at its deadline"
        logger.warning(text, job.id, error.code, extra=about(job))
