"""GET /v1/jobs/{id}/images/{i}: one finished picture, in any format, for its owner or whoever has a signed link."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.errors import InvalidValue, JobNotReady
from service.gateway.auth import owner_of
from service.gateway.context import gateway_of
from service.gateway.formats import MAX_QUALITY, Encoding, PictureFormat
from service.gateway.jobs import check_id
from service.gateway.query import read_query
from service.gateway.refusals import RequestRefused
from service.gateway.rendering import image_of, image_path, load_to_send, render_picture
from service.gateway.signing import SIGNED_FIELDS, check_signature
from service.jobs import Job

router = APIRouter()

QUERY = (*SIGNED_FIELDS, "signature")
COMPRESSION_SENTENCE = f"an integer from 0 to {MAX_QUALITY}, with format jpeg or webp"


@router.get("/v1/jobs/{job_id}/images/{index}")
async def get_image(request: Request, job_id: str, index: str) -> Response:
    """One picture of a job that is done. A signed link needs nothing else; without one the caller owns the job."""
    gateway = gateway_of(request)
    check_id(job_id)
    query = read_query(request, QUERY)
    owner = None
    if "signature" in query or "expires" in query:
        await check_signature(gateway, image_path(job_id, index), query)
    else:
        owner = await owner_of(request)
    status = await gateway.queues.status(job_id, owner)
    encoding = _encoding(query, status.job)
    image = image_of(status, index)
    try:
        (picture,) = await load_to_send(gateway, (image,), encoding)
    except JobNotReady as error:  # done, but its time to live is over
        raise RequestRefused(410, error.code, f"picture {index} of job {job_id} is no longer stored") from None
    return render_picture(status, image, picture, encoding, gateway.provenance)


def _encoding(query: Mapping[str, str], job: Job) -> Encoding:
    """What the query asks for; what the job's client did, where it says nothing. Raises InvalidValue."""
    named, quality = query.get("format"), query.get("compression")
    if named is None and quality is None:
        return Encoding.of_job(job)
    if named is not None and named not in tuple(PictureFormat):
        raise InvalidValue("format", named, f"allowed: {', '.join(PictureFormat)}")
    picture_format = Encoding.of_job(job).format if named is None else PictureFormat(named)
    if quality is None:
        return Encoding.of(picture_format)
    is_number = quality.isascii() and quality.isdigit() and len(quality) <= 3 and int(quality) <= MAX_QUALITY
    if not is_number or picture_format is PictureFormat.PNG:
        raise InvalidValue("compression", quality, f"allowed: {COMPRESSION_SENTENCE}")
    return Encoding.of(picture_format, int(quality))
