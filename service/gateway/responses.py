"""The one error shape, and the table that gives every exception its status. Nothing else chooses a status for one.

{"error": {"message", "type", "param", "code"}}. 429 and 503 say when to come back, twice: whole seconds for
everybody, milliseconds for the OpenAI client.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from fastapi.responses import JSONResponse

from service import errors
from service.gateway.refusals import RequestRefused
from service.gateway.schemas import ErrorBody, ErrorDetail

logger = logging.getLogger(__name__)

MAX_RETRY_AFTER_S = 120
DEFAULT_RETRY_AFTER_S = 5.0

INVALID = "invalid_request_error"
SERVER = "server_error"
RATE_LIMIT = "rate_limit_error"

# exception -> (status, type). The first class in the exception's own line of ancestors counts.
STATUS_OF: Mapping[type[errors.EmmditError], tuple[int, str]] = {
    errors.InvalidValue: (400, INVALID),
    errors.UnknownModel: (404, INVALID),
    errors.JobNotFound: (404, INVALID),
    errors.JobNotReady: (409, INVALID),
    errors.JobWasCancelled: (409, INVALID),
    errors.IdempotencyKeyReused: (422, INVALID),
    errors.QueueFull: (429, RATE_LIMIT),
    errors.ServerOverloaded: (503, SERVER),
    errors.NoWorker: (503, SERVER),
    errors.DeadlineExceeded: (504, SERVER),
    errors.JobFailed: (500, SERVER),
    errors.BlobCorrupt: (500, SERVER),
}
INTERNAL_MESSAGE = "Something went wrong here. The X-Request-ID header names this request in the service's log."
_KIND_OF_STATUS = {401: "authentication_error", 403: "permission_error", 429: RATE_LIMIT}


def error_response(error: errors.EmmditError, request_id: str, job_id: str | None = None) -> JSONResponse:
    """The response for any exception of ours. What only an operator can mend is logged, once, here."""
    headers = dict(error.headers) if isinstance(error, RequestRefused) else {}
    if job_id is not None:
        headers["X-Job-ID"] = job_id
    status, _ = _status_and_type(error)
    if status in (429, 503) or error.retry_after_s is not None:
        headers = retry_headers(error.retry_after_s) | headers  # who knows better has said so
    if isinstance(error, errors.JobWasCancelled | errors.JobFailed | errors.DeadlineExceeded):
        # The OpenAI client would otherwise draw again what was called off, and wait as long as before.
        headers["x-should-retry"] = "false"
    elif status == 500:
        logger.error("request_id=%s failed: %s", request_id, error.code, exc_info=error)
    return JSONResponse(ErrorBody(error=error_detail(error)).model_dump(), status_code=status, headers=headers)


def error_detail(error: errors.EmmditError) -> ErrorDetail:
    """The error as its client sees it. One that the table does not know says nothing about itself."""
    status, kind = _status_and_type(error)
    if status == 500 and not isinstance(error, errors.JobFailed | errors.BlobCorrupt):
        return ErrorDetail(message=INTERNAL_MESSAGE, type=SERVER, param=None, code="internal_error")
    param = "model" if isinstance(error, errors.UnknownModel) else getattr(error, "param", None)
    return ErrorDetail(message=error.message, type=kind, param=param, code=error.code)


def internal_error_response() -> JSONResponse:
    """500 without a word about the cause: that is in the log, under the request's id."""
    return JSONResponse(ErrorBody(error=error_detail(errors.EmmditError(""))).model_dump(), status_code=500)


def retry_headers(retry_after_s: float | None) -> dict[str, str]:
    """`Retry-After` in whole seconds, 1..120, and the same in milliseconds."""
    seconds = DEFAULT_RETRY_AFTER_S if retry_after_s is None else retry_after_s
    return exact_retry_headers(min(seconds, MAX_RETRY_AFTER_S))


def exact_retry_headers(seconds: float) -> dict[str, str]:
    """The same for a time that is known and no estimate, however long it is."""
    seconds = max(seconds, 0.001)
    return {"Retry-After": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}


def _status_and_type(error: errors.EmmditError) -> tuple[int, str]:
    if isinstance(error, RequestRefused):
        return error.status, kind_of_status(error.status)
    return next((STATUS_OF[base] for base in type(error).__mro__ if base in STATUS_OF), (500, SERVER))


def kind_of_status(status: int) -> str:
    """The error's `type` in words of OpenAI's API."""
    return SERVER if status >= 500 else _KIND_OF_STATUS.get(status, INVALID)
