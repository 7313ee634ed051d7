"""Every error that a client can get: its status, its code, when it comes, and what it looks like.

Which exception becomes which status is decided in responses.py; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.gateway.responses import kind_of_status

EXAMPLE_ID = "23c0e7372fb088ae94339932f9f1a4ea"


@dataclass(frozen=True, slots=True)
class Fault:
    """One error."""

    status: int
    code: str
    when: str
    message: str
    param: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        """As it is sent."""
        kind = kind_of_status(self.status)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


FAULTS: Sequence[Fault] = (
    Fault(
        400,
        "invalid_value",
        "A field or parameter has a type or value that is not allowed.",
        "n: 99 is not allowed; allowed: an integer from 1 to 10",
        "n",
    ),
    Fault(400, "missing_field", "A field that is required is not there.", "prompt is missing; allowed: text", "prompt"),
    Fault(
        400,
        "unknown_field",
        "There is no such field or parameter.",
        "'colour' = 'red' is not a field of this request; allowed: prompt, ...",
        "colour",
    ),
    Fault(
        400,
        "duplicate_field",
        "A field or parameter is given twice.",
        "'seed' is given twice, the second time as 8; allowed: every field once",
        "seed",
    ),
    Fault(
        400,
        "content_policy_violation",
        "The content filter of this service refuses the prompt.",
        "prompt: the content filter of this service refuses it; allowed: another prompt",
        "prompt",
    ),
    Fault(400, "invalid_json", "The body is no JSON object.", "the body is an array; allowed: one JSON object"),
    Fault(400, "invalid_encoding", "The body is no UTF-8.", "the body is not UTF-8: byte 15 is 0xe9"),
    Fault(400, "incomplete_body", "The body was cut off.", "the connection was closed in the middle of the body"),
    Fault(
        401,
        "missing_api_key",
        "A key is needed here and none was sent.",
        "an API key is needed here: send it as Authorization: Bearer KEY or as X-API-Key: KEY",
    ),
    Fault(
        401,
        "invalid_api_key",
        "There is no such key, or it holds no more. Where no key is needed, only what looks like one is looked at.",
        "the API key is not valid, or holds no more",
    ),
    Fault(
        403,
        "exceeds_quota",
        "This one request is more than the key's whole daily quota.",
        "this request is for 2.62144 megapixels; allowed: your 1 a day",
    ),
    Fault(
        403,
        "link_invalid",
        "A signed link was changed.",
        "the signature does not fit this link; use the link as it was given",
    ),
    Fault(
        403,
        "link_expired",
        "The time of a signed link is over.",
        "the link has expired; whoever owns the job can still fetch it",
    ),
    Fault(
        404,
        "model_not_found",
        "No such model is served.",
        "model: 'gpt-image-2' is not served here; allowed: demo",
        "model",
    ),
    Fault(404, "job_not_found", "There is no such job, or no such picture of it.", f"there is no job {EXAMPLE_ID}"),
    Fault(
        406,
        "not_acceptable",
        "No form that Accept allows can be served.",
        "Accept: 'text/html' cannot be served; allowed: application/json, image/png, ...",
    ),
    Fault(408, "request_timeout", "The head or the body came too slowly.", "the body did not arrive within 10 s"),
    Fault(409, "cancelled", "The job was cancelled.", f"job {EXAMPLE_ID} was cancelled while running"),
    Fault(
        409,
        "idempotency_in_progress",
        "The job of this Idempotency-Key is under way. Retry-After is the estimated time to its end.",
        f"the request with this Idempotency-Key is still being answered: job {EXAMPLE_ID}",
    ),
    Fault(409, "job_not_ready", "The picture is not drawn yet.", f"job {EXAMPLE_ID} is running: no picture yet"),
    Fault(
        410,
        "job_not_ready",
        "The picture is no longer stored.",
        f"picture 0 of job {EXAMPLE_ID} is no longer stored",
    ),
    Fault(
        413,
        "body_too_large",
        "The body is too large.",
        "the body is too large: 5000000 bytes announced; allowed: 1048576 bytes",
    ),
    Fault(
        415,
        "unsupported_media_type",
        "The body is anything but uncompressed application/json.",
        "Content-Type 'text/plain' cannot be read; allowed: Content-Type: application/json, in UTF-8",
    ),
    Fault(
        422,
        "idempotency_key_reused",
        "This Idempotency-Key was used for another request.",
        "this Idempotency-Key was used for another request",
    ),
    Fault(
        400,
        "malformed_request",
        "This is not HTTP/1.1, or says the length of its body in two ways. The connection is closed.",
        "this is not HTTP/1.1: 'illegal request line'",
    ),
    Fault(
        431,
        "headers_too_large",
        "Request line and headers are too large or too many. The connection is closed.",
        "the request's head is too large: 20000 bytes; allowed: 16384 bytes in 100 headers",
    ),
    Fault(429, "rate_limit_exceeded", "The model's queue is full.", "the queue is full: 256 jobs wait"),
    Fault(
        429,
        "too_many_jobs",
        "As many of one's jobs are unfinished as are allowed. Retry-After estimates when one of them ends.",
        "you have 4 jobs that are not finished; allowed: 4",
    ),
    Fault(
        429,
        "too_many_queued_jobs",
        "As many of one's jobs wait as are allowed. Retry-After estimates when one of them ends.",
        "as many of your jobs wait as are allowed: 2",
    ),
    Fault(
        429,
        "tenant_rate_exceeded",
        "One has asked for more megapixel-steps than one's rate gives. After Retry-After this request is let in.",
        "this request costs 9.96147 megapixel-steps, and you may have 60 a minute, 60 of them at once; "
        "come back in 8 s",
    ),
    Fault(
        429,
        "daily_pixels_exceeded",
        "The day's pixels are used up. Retry-After is the time to midnight UTC.",
        "this request is for 0.262144 megapixels and 0.1 are left of today's 10; the day ends at midnight UTC",
    ),
    Fault(
        500,
        "generation_failed",
        "The worker gave the job up. The code is the job's own; `worker_lost` is another one.",
        "the job could not be drawn",
    ),
    Fault(500, "image_corrupt", "The stored picture fails its checksum.", "the stored picture is damaged"),
    Fault(
        500,
        "internal_error",
        "A fault of ours. The log names it by the request's id.",
        "Something went wrong here. The X-Request-ID header names this request in the service's log.",
    ),
    Fault(
        503,
        "server_is_overloaded",
        "The queue or the disk takes no work for now, or this gateway is starting or stopping.",
        "the queue cannot be reached",
    ),
    Fault(503, "no_worker", "No worker of this model is alive.", "no worker for demo is alive"),
    Fault(
        504,
        "deadline_exceeded",
        "timeout_s passed, or no worker could draw this within it.",
        f"job {EXAMPLE_ID} was still queued when its timeout_s = 300 had passed",
    ),
)
EVERYWHERE = ("400 malformed_request", "431 headers_too_large", "500 internal_error")
_BY_NAME: Mapping[str, Fault] = {f"{fault.status} {fault.code}": fault for fault in FAULTS}


def faults_named(*names: str) -> tuple[Fault, ...]:
    """These errors, as "STATUS CODE", and the ones that every route has."""
    return tuple(_BY_NAME[name] for name in (*names, *EVERYWHERE))
