"""What several routes have in common: parameters and headers, described once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.gateway.accept import MediaType
from service.gateway.auth import KEY_HEADER
from service.gateway.content_filter import CONTENT_FILTER_HEADER
from service.gateway.events import LAST_EVENT_PATTERN
from service.gateway.formats import DEFAULT_QUALITY, MAX_QUALITY, PictureFormat
from service.gateway.idempotency import KEY_PATTERN, MAX_KEY_CHARS
from service.gateway.job_list import DEFAULT_LIMIT, MAX_LIMIT
from service.gateway.jobs import JOB_ID_PATTERN
from service.gateway.openapi.faults import EXAMPLE_ID
from service.gateway.provenance import PROVENANCE_HEADER
from service.gateway.query import INDEX_PATTERN
from service.gateway.rate_limits import LIMIT_HEADER, POLICY_HEADER
from service.jobs import JobState

Json = dict[str, Any]


SECURITY_SCHEMES: Mapping[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, as OpenAI's clients send it."},
    "apiKey": {"type": "apiKey", "in": "header", "name": KEY_HEADER, "description": "The same."},
}


def _parameter(where: str, name: str, description: str, schema: Json, example: object = None) -> Json:
    found = {"name": name, "in": where, "required": where == "path", "description": description, "schema": schema}
    return found if example is None else found | {"example": example}


def _query(name: str, description: str, schema: Json, example: object = None) -> Json:
    return _parameter("query", name, description, schema, example)


def _header(name: str, description: str, schema: Json, example: object = None) -> Json:
    return _parameter("header", name, description, schema, example)


_TEXT = {"type": "string"}
_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_JOB_ID = {"type": "string", "pattern": f"^{JOB_ID_PATTERN}$"}
_FLAG = {"type": "boolean", "default": True}
_PICTURE_NUMBER = {"type": "string", "pattern": f"^{INDEX_PATTERN}$"}
PARAMETERS: Mapping[str, Json] = {
    "JobId": _parameter(
        "path", "job_id", "The job: 32 hexadecimal digits, as its acceptance named it.", _JOB_ID, EXAMPLE_ID
    ),
    "PictureIndex": _parameter("path", "index", "Which of the job's pictures, from 0.", _PICTURE_NUMBER, "0"),
    "RequestId": _header(
        "X-Request-ID",
        "An id of your own for this request. It comes back, and the log has it, if it is 1 to 128 of "
        "`A-Za-z0-9._~:-`; otherwise the service makes one up.",
        {"type": "string"},
        "order-4711.try-1",
    ),
    "Traceparent": _header(
        "traceparent",
        "The trace that this request belongs to (W3C Trace Context). It goes on under the same id; one that is not "
        "valid counts as not sent.",
        _TEXT,
        _TRACE,
    ),
    "Accept": _header(
        "Accept",
        "The form of the answer. Nothing, or `*/*`: JSON. A picture type: the picture itself, several as "
        "`multipart/mixed`. `text/event-stream`: events while it is drawn. q-values count.",
        {"type": "string", "enum": [*MediaType, "image/*", "*/*"], "default": "application/json"},
    ),
    "Prefer": _header(
        "Prefer",
        "`respond-async`: answer at once with 202 and the job, which goes on whatever the client does. Other "
        "preferences are passed over.",
        {"type": "string"},
        "respond-async",
    ),
    "IdempotencyKey": _header(
        "Idempotency-Key",
        f"A key of your own for this request, 1 to {MAX_KEY_CHARS} visible ASCII characters. Sent again with the same "
        "body it finds the same job, so that nothing is drawn twice.",
        {"type": "string", "pattern": f"^{KEY_PATTERN}$"},
        "order-4711",
    ),
    "LastEventId": _header(
        "Last-Event-ID",
        "The last `id` that was seen of this job's events: the stream goes on after it.",
        {"type": "string", "pattern": f"^({LAST_EVENT_PATTERN})?$"},
        "1795404187-0",
    ),
    "Limit": _query(
        "limit",
        "Jobs on a page.",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        5,
    ),
    "After": _query(
        "after", "The id of a job of yours: the page begins after it. The next page's is `last_id`.", _JOB_ID
    ),
    "State": _query("state", "Only jobs in this state.", {"type": "string", "enum": [*JobState]}, "done"),
    "WithPictures": _query("pictures", "`false` leaves the pictures' bytes out; their `url` stays.", _FLAG),
    "WithPreviews": _query("previews", "`false` leaves the previews out.", _FLAG),
    "LiveIndex": _query("index", "Which of the job's pictures, from 0.", _PICTURE_NUMBER | {"default": "0"}, "0"),
    "Format": _query(
        "format",
        "How the picture is written. Not given: as the job's `output_format` says.",
        {"type": "string", "enum": [*PictureFormat]},
        "webp",
    ),
    "Compression": _query(
        "compression",
        f"The quality of a jpeg or webp: 0 is small, {MAX_QUALITY} is good. Refused with a png, which loses nothing.",
        {"type": "integer", "minimum": 0, "maximum": MAX_QUALITY, "default": DEFAULT_QUALITY},
        80,
    ),
    "Expires": _query("expires", "Of a signed link: until when it works, in seconds since 1970.", {"type": "string"}),
    "Signature": _query("signature", "Of a signed link: what makes it one. It needs nothing else.", {"type": "string"}),
    "ModelName": _parameter("path", "model", "The name of a served model.", {"type": "string"}),
}


def _sent(description: str, schema: Json, example: object, *, required: bool = False) -> Json:
    return {"description": description, "required": required, "schema": schema, "example": example}


_SECONDS = {"type": "number", "minimum": 0}
_NATURAL = {"type": "integer", "minimum": 0}
HEADERS: Mapping[str, Json] = {
    "X-Request-ID": _sent("The request's id, which the log has too.", _TEXT, "order-4711.try-1", required=True),
    "traceresponse": _sent("The request's trace and its span, as in W3C `traceparent`.", _TEXT, _TRACE, required=True),
    "X-Job-ID": _sent("The job, for `/v1/jobs/{job_id}`.", _JOB_ID, EXAMPLE_ID),
    "X-Seed": _sent("The seed; with several pictures the first one's.", _NATURAL, 7),
    "X-Num-Inference-Steps": _sent("Steps that were taken.", _NATURAL, 20),
    "X-Guidance-Scale": _sent("Guidance that was used.", {"type": "number"}, 4.5),
    "X-Size": _sent("WIDTHxHEIGHT in pixels.", _TEXT, "128x128"),
    "X-Model": _sent("Who drew.", _TEXT, "demo"),
    "X-Model-Version": _sent("Which version of it.", _TEXT, "3"),
    "X-Warning": _sent("What was asked for in vain, in printable ASCII.", _TEXT, "unknown words: zeppelin"),
    "x-queue-time": _sent("Seconds spent waiting for a worker.", _SECONDS, 0.004),
    "x-inference-time": _sent("Seconds spent drawing.", _SECONDS, 0.412),
    "x-total-time": _sent("Seconds from the request's arrival to its answer.", _SECONDS, 0.431),
    CONTENT_FILTER_HEADER: _sent("The filter that the prompt went through; `off` where there is none.", _TEXT, "off"),
    PROVENANCE_HEADER: _sent("How the pictures are signed: `c2pa`, or `off`.", _TEXT, "off"),
    "Idempotency-Replayed": _sent("`true` where an earlier request with this key has had the job.", _TEXT, "true"),
    "Location": _sent("Where the job is to be looked at.", _TEXT, f"/v1/jobs/{EXAMPLE_ID}", required=True),
    "Preference-Applied": _sent("What of Prefer was heard.", _TEXT, "respond-async", required=True),
    "Retry-After": _sent("Whole seconds after which to come back, while there is something to wait for.", _NATURAL, 1),
    "retry-after-ms": _sent("The same in milliseconds, for OpenAI's clients.", _NATURAL, 1000),
    "WWW-Authenticate": _sent("How a key is sent (RFC 6750).", _TEXT, 'Bearer realm="emmdit"', required=True),
    POLICY_HEADER: _sent(
        "One's quotas, where there are any: `rate` (thousandths of a megapixel-step), `daily` (pixels), `jobs`, "
        "`queued-jobs`; as draft-ietf-httpapi-ratelimit-headers has it.",
        _TEXT,
        '"rate";q=60000;w=60;qu="kilopixel-steps", "jobs";q=4;qu="concurrent-requests"',
    ),
    LIMIT_HEADER: _sent(
        "What is left of them (`r`), and in how many seconds all of it is back (`t`).",
        _TEXT,
        '"rate";r=50038;t=10, "jobs";r=3',
    ),
    "x-should-retry": _sent("`false`: do not try this again by itself.", _TEXT, "false"),
}
RECIPE_HEADERS = (
    "X-Job-ID",
    "X-Seed",
    "X-Num-Inference-Steps",
    "X-Guidance-Scale",
    "X-Size",
    "X-Model",
    "X-Model-Version",
)
LIMIT_HEADERS = (POLICY_HEADER, LIMIT_HEADER)
STATE_HEADERS = (CONTENT_FILTER_HEADER, PROVENANCE_HEADER)
OUTCOME_HEADERS = ("x-queue-time", "x-inference-time", "x-total-time", "X-Warning")


def parameter(name: str) -> Json:
    """A reference to one of them."""
    return {"$ref": f"#/components/parameters/{name}"}


def headers(*names: str) -> Json:
    """References to these and to what every answer has."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, "X-Request-ID", "traceresponse")}
