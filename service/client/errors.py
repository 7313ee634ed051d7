"""What a client of the service raises: the tree of service/errors.py, with the answer that it came in.

EmmditError
├── ApiError             the server said no; also of the class in service/errors.py that has its code, where one has
│   └── BadAnswer        something answered that is not this service
├── ServerUnreachable    no connection, for longer than the client's patience
└── StillUnderWay        `wait` was told not to wait any longer; the job goes on

So `except errors.QueueFull` catches a full queue here as it does inside the service, and `except ApiError` all that
a server ever answers. The classes in between are made from the tree, so that no code can be forgotten.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from service import errors
from service.errors import EmmditError

RETRIED_STATUSES = frozenset({408, 429, 502, 503})
TWIN_UNDER_WAY = "idempotency_in_progress"


class ApiError(EmmditError):
    """The server's own words. `param` is the field to blame, `job_id` the job that it was about, if any.

    `should_retry` says whether the same request may bring something else later.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool = False,
        request_id: str | None = None,
        job_id: str | None = None,
    ) -> None:
        # Not super().__init__: the next class may be InvalidValue, which makes its message from a value.
        EmmditError.__init__(self, message, retry_after_s=retry_after_s)
        self.status = status
        self.code = code
        self.param = param
        self.should_retry = should_retry
        self.request_id = request_id
        self.job_id = job_id


class BadAnswer(ApiError):
    """An answer that this service would not give: another server, or a proxy, is at that address."""


class ServerUnreachable(EmmditError):
    """No connection, for longer than the client's patience."""

    code = "server_unreachable"


class StillUnderWay(EmmditError):
    """`wait` was told not to wait any longer; the job goes on."""

    code = "still_under_way"


def error_in(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error that an answer of 4xx or 5xx stands for; headers by lower-case name."""
    try:
        detail: Mapping[str, Any] = json.loads(body)["error"]
        code, message, param = str(detail["code"]), str(detail.get("message", "")), detail.get("param")
    except (ValueError, LookupError, TypeError):
        detail, code, param = {}, f"http_{status}", None
        message = f"the server answered {status} and not as this service does"
    retry_after_s = retry_after_in(headers)
    wish = headers.get("x-should-retry")
    should_retry = wish == "true" if wish in ("true", "false") else status in RETRIED_STATUSES or code == TWIN_UNDER_WAY
    return _class_of(code, is_ours=bool(detail))(
        message,
        status=status,
        code=code,
        param=None if param is None else str(param),
        retry_after_s=retry_after_s,
        should_retry=should_retry,
        request_id=headers.get("x-request-id"),
        job_id=headers.get("x-job-id"),
    )


def error_of_job(code: str, message: str, *, param: str | None, job_id: str | None) -> ApiError:
    """Why a job ended without pictures. It came with a 200, and asking again draws nothing."""
    # A worker gives a job up for reasons with codes of their own: all of them are a job that failed.
    kind = _CLASSES.get(code, _CLASSES[errors.JobFailed.code])
    return kind(message, status=200, code=code, param=param, job_id=job_id)


def retry_after_in(headers: Mapping[str, str]) -> float | None:
    """When to come back, in seconds: `retry-after-ms`, else `Retry-After` as a number or a date; None where neither."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    try:
        return max(parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time(), 0.0)
    except (KeyError, ValueError):
        return None


def _made_from(kind: type[EmmditError]) -> type[ApiError]:
    """A class that is both an ApiError and what the service itself raises."""
    namespace: dict[str, object] = {"__doc__": kind.__doc__, "__module__": __name__}
    if issubclass(kind, errors.InvalidValue):
        namespace |= {"value": None, "allowed": "the message says what is allowed"}
    made: type[ApiError] = type(kind.__name__, (ApiError, kind), namespace)
    return made


_CLASSES = {
    kind.code: _made_from(kind)
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EmmditError) and kind is not EmmditError
}


def _class_of(code: str, *, is_ours: bool) -> type[ApiError]:
    if not is_ours:
        return BadAnswer
    return _CLASSES.get(code, ApiError)
