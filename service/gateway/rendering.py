"""A finished or unfinished job as the client asked to see it: a picture, multipart, JSON.

Effective values go into headers too; every header value is cut down to printable ASCII, so that no text of a client's
or of a model's can start a header of its own.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi.responses import JSONResponse, Response

from service.blobs import STORE_RETRY_AFTER_S, BlobStore
from service.errors import (
    DeadlineExceeded,
    EmmditError,
    JobFailed,
    JobNotFound,
    JobNotReady,
    JobWasCancelled,
    ServerOverloaded,
)
from service.gateway.accept import MediaType
from service.gateway.context import Gateway
from service.gateway.formats import Encoding, encode
from service.gateway.provenance import PROVENANCE_HEADER
from service.gateway.schemas import ErrorDetail, GenerateResponse, JobBody, JobImage, Picture, PriorityName, Timings
from service.gateway.validation import warnings_for
from service.jobs import Cancelled, Done, Expired, Failed, ImageRef, Job, JobStatus, Priority

MAX_HEADER_CHARS = 500
LOAD_TIMEOUT_S = 20.0
PRIORITY_NAMES: Mapping[Priority, PriorityName] = {
    Priority.HIGH: "high",
    Priority.NORMAL: "normal",
    Priority.LOW: "low",
}


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that is done, its pictures as they are sent, how long its client has waited in all, and what was done to
    prompt and pictures on the way: the names of filter and signature.
    """

    status: JobStatus
    done: Done
    pictures: tuple[bytes, ...]
    encoding: Encoding
    total_s: float
    content_filter: str
    provenance: str


def error_of(status: JobStatus) -> EmmditError | None:
    """Why a job that has ended has no pictures; None for one that is done or has not ended."""
    match status.result:
        case Failed(code=code, message=message):
            error = JobFailed(message)
            error.code = code
            return error
        case Cancelled(phase=phase):
            return JobWasCancelled(f"job {status.job.id} was cancelled while {phase}")
        case Expired(phase=phase):
            return DeadlineExceeded(
                f"job {status.job.id} was still {phase} when its timeout_s = {status.job.timeout_s:g} had passed"
            )
        case _:
            return None


def done_of(status: JobStatus) -> Done:
    """The result of a job that is done. Raises what the job ended with otherwise, JobNotReady while it goes on."""
    if isinstance(status.result, Done):
        return status.result
    raise error_of(status) or JobNotReady(f"job {status.job.id} is {status.state}: no picture yet", retry_after_s=1)


def image_of(status: JobStatus, index: str) -> ImageRef:
    """The picture that a path names. JobNotFound where the job has no such picture."""
    last = status.job.num_images - 1
    if not (index.isascii() and index.isdigit() and len(index) <= 3 and int(index) <= last):
        raise JobNotFound(f"job {status.job.id} has no picture {index[:20]!r}; allowed: 0 to {last}")
    return done_of(status).images[int(index)]


async def load(blobs: BlobStore, images: Sequence[ImageRef]) -> tuple[bytes, ...]:
    """The stored PNGs, checked. All before the first is sent: a picture that fails must still be a proper error.

    Raises what the store does, and ServerOverloaded where it takes too long.
    """

    def get_all() -> tuple[bytes, ...]:
        return tuple(blobs.get(image.blob, image.sha256) for image in images)

    try:
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            return await asyncio.to_thread(get_all)
    except TimeoutError as error:
        raise ServerOverloaded("pictures cannot be read for now", retry_after_s=STORE_RETRY_AFTER_S) from error


async def load_to_send(gateway: Gateway, images: Sequence[ImageRef], encoding: Encoding) -> tuple[bytes, ...]:
    """The pictures as they are sent: checked, in the encoding, signed where the operator signs."""
    return await encode(await load(gateway.blobs, images), encoding, gateway.signer)


def render(finished: Finished, media_type: MediaType) -> Response:
    """The answer to POST /v1/generate."""
    match media_type:
        case MediaType.JSON:
            return JSONResponse(_generate_body(finished).model_dump(), headers=_headers(finished))
        case MediaType.PNG | MediaType.JPEG | MediaType.WEBP:
            return Response(finished.pictures[0], media_type=media_type, headers=_headers(finished))
        case MediaType.MULTIPART | MediaType.EVENTS:
            raise AssertionError("sent while the job runs")


def render_picture(status: JobStatus, image: ImageRef, picture: bytes, encoding: Encoding, provenance: str) -> Response:
    """The answer to GET /v1/jobs/{id}/images/{i}."""
    headers = recipe_headers(status.job, done_of(status).model_version)
    headers |= {"X-Seed": str(image.seed), PROVENANCE_HEADER: provenance}
    return Response(picture, media_type=encoding.media_type, headers=clean_headers(headers))


def job_body(status: JobStatus, *, seconds_left: float | None, error: ErrorDetail | None) -> JobBody:
    """The answer to GET /v1/jobs/{id}."""
    job, params = status.job, status.job.params
    done = status.result if isinstance(status.result, Done) else None
    return JobBody(
        id=job.id,
        state=status.state.value,
        model=job.model,
        model_version=done.model_version if done else None,
        created=int(status.created_at),
        position=status.position,
        step=status.step,
        num_steps=status.num_steps,
        estimated_seconds_left=None if seconds_left is None else round(seconds_left, 1),
        n=job.num_images,
        size=size_of(job),
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        seed=params.seed,
        output_format=Encoding.of_job(job).format.value,
        priority=PRIORITY_NAMES[job.priority],
        timeout_s=job.timeout_s,
        prompt=done.prompt if done else None,
        images=[
            JobImage(index=index, url=image_path(job.id, index), seed=image.seed, num_bytes=image.num_bytes)
            for index, image in enumerate(done.images if done else ())
        ],
        timings=_timings(status, total_s=_server_total_s(status)),
        warnings=[*warnings_for(params), *(done.warnings if done else ())],
        error=error,
    )


def size_of(job: Job) -> str:
    """WIDTHxHEIGHT."""
    return f"{job.params.width}x{job.params.height}"


def image_path(job_id: str, index: int | str) -> str:
    """Where a picture can be fetched."""
    return f"/v1/jobs/{job_id}/images/{index}"


def clean_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Values in printable ASCII of bounded length; what is not becomes "?"."""
    return {name: _clean(value)[:MAX_HEADER_CHARS] for name, value in headers.items()}


def _clean(value: str) -> str:
    if value.isascii() and value.isprintable():
        return value
    return "".join(char if " " <= char <= "~" else "?" for char in value)


def _generate_body(finished: Finished) -> GenerateResponse:
    status, done = finished.status, finished.done
    params = status.job.params
    return GenerateResponse(
        id=status.job.id,
        created=int(status.created_at),
        model=status.job.model,
        model_version=done.model_version,
        data=[
            Picture(
                b64_json=base64.b64encode(picture).decode(),
                seed=image.seed,
                url=image_path(status.job.id, index) + finished.encoding.query,
            )
            for index, (image, picture) in enumerate(zip(done.images, finished.pictures, strict=True))
        ],
        prompt=done.prompt,
        size=size_of(status.job),
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        output_format=finished.encoding.format.value,
        content_filter=finished.content_filter,
        provenance=finished.provenance,
        timings=_timings(status, total_s=finished.total_s),
        warnings=[*warnings_for(params), *done.warnings],
    )


def _headers(finished: Finished) -> dict[str, str]:
    headers = recipe_headers(finished.status.job, finished.done.model_version)
    return clean_headers(headers | outcome_headers(finished.status, finished.total_s))


def outcome_headers(status: JobStatus, total_s: float) -> dict[str, str]:
    """How it went: timings and warnings of a job that is done."""
    timings = _timings(status, total_s=total_s)
    headers = {
        "x-queue-time": f"{timings.queue_s or 0:.3f}",
        "x-inference-time": f"{timings.inference_s or 0:.3f}",
        "x-total-time": f"{total_s:.3f}",
    }
    if warnings := [*warnings_for(status.job.params), *done_of(status).warnings]:
        headers["X-Warning"] = "; ".join(warnings)
    return clean_headers(headers)


def recipe_headers(job: Job, model_version: str) -> dict[str, str]:
    """The job and its effective values."""
    params = job.params
    return {
        "X-Job-ID": job.id,
        "X-Seed": str(params.seed),
        "X-Num-Inference-Steps": str(params.num_inference_steps),
        "X-Guidance-Scale": f"{params.guidance_scale:g}",
        "X-Size": size_of(job),
        "X-Model": job.model,
        "X-Model-Version": model_version,
    }


def _timings(status: JobStatus, *, total_s: float | None) -> Timings:
    started_at = status.started_at
    return Timings(
        queue_s=None if started_at is None else round(max(0.0, started_at - status.created_at), 3),
        inference_s=round(status.result.inference_s, 3) if isinstance(status.result, Done) else None,
        total_s=None if total_s is None else round(total_s, 3),
    )


def _server_total_s(status: JobStatus) -> float | None:
    return None if status.finished_at is None else max(0.0, status.finished_at - status.created_at)
