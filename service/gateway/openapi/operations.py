"""What each route takes and gives: the words of the description. Limits are not here; they come from the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.gateway.accept import MediaType
from service.gateway.formats import PictureFormat
from service.gateway.openapi.examples import EXAMPLES, Example
from service.gateway.openapi.faults import EVERYWHERE, Fault, faults_named
from service.gateway.openapi.parts import LIMIT_HEADERS, OUTCOME_HEADERS, RECIPE_HEADERS, STATE_HEADERS
from service.gateway.provenance import PROVENANCE_HEADER

JSON = "application/json"
PROMETHEUS = "text/plain"
OPENMETRICS = "application/openmetrics-text"
DRAWING, JOBS, MODELS, OPERATIONS_TAG = "Drawing", "Jobs", "Models", "Operation"
TAGS: Mapping[str, str] = {
    DRAWING: "Pictures from words: in the service's own terms, or in OpenAI's.",
    JOBS: "Requests after their acceptance: look, watch, fetch, cancel. Everybody sees their own alone.",
    MODELS: "What can be asked for.",
    OPERATIONS_TAG: "For orchestrators and Prometheus.",
}
EVENTS: Mapping[str, str] = {
    "job": "JobBody",
    "preview": "PreviewEvent",
    "partial_image": "PartialPictureEvent",
    "image": "PictureEvent",
    "done": "JobBody",
    "error": "ErrorEvent",
}
OPENAI_EVENTS: Mapping[str, str] = {
    "image_generation.partial_image": "PartialImageEvent",
    "image_generation.completed": "CompletedEvent",
    "": "ErrorBody",
}
PICTURES = tuple(kind.media_type for kind in PictureFormat)


@dataclass(frozen=True, slots=True)
class Answer:
    """One success. `body` is a component's name where it is JSON; `events` has those of the events by their names, ""
    for one without, where it can be a stream of them; `links` are names of operations that take the job.

    `job_id` says where in the answer the job's id is, in OpenAPI's runtime expressions.
    """

    description: str
    body: str | None = None
    others: Sequence[str] = ()
    events: Mapping[str, str] = field(default_factory=dict)
    headers: Sequence[str] = ()
    links: Sequence[str] = ()
    job_id: str = "$response.header.X-Job-ID"


@dataclass(frozen=True, slots=True)
class Operation:
    """One route with one method. `errors` are names of faults.py, those of every route aside."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    description: str
    answers: Mapping[int, Answer]
    parameters: Sequence[str] = ()
    body: str | None = None
    errors: Sequence[str] = field(default=())

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Every error that it can end with."""
        return faults_named(*([] if self.is_open else _WITHOUT_KEY), *self.errors, *EVERYWHERE)

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key for it."""
        return self.tag == OPERATIONS_TAG

    @property
    def examples(self) -> Sequence[Example]:
        """How to ask for it."""
        return EXAMPLES[self.name]


_WITHOUT_KEY = ("401 missing_api_key", "401 invalid_api_key")
_BODY = (
    "400 invalid_value",
    "400 missing_field",
    "400 unknown_field",
    "400 duplicate_field",
    "400 invalid_json",
    "400 invalid_encoding",
    "400 incomplete_body",
    "404 model_not_found",
    "408 request_timeout",
    "413 body_too_large",
    "415 unsupported_media_type",
)
_ENDS = ("409 cancelled", "410 job_not_ready", "500 generation_failed", "500 image_corrupt", "504 deadline_exceeded")
_ENTRY = (
    "400 content_policy_violation",
    "403 exceeds_quota",
    "409 idempotency_in_progress",
    "422 idempotency_key_reused",
    "429 rate_limit_exceeded",
    "429 too_many_jobs",
    "429 too_many_queued_jobs",
    "429 tenant_rate_exceeded",
    "429 daily_pixels_exceeded",
    "503 server_is_overloaded",
    "503 no_worker",
)
_LOOK = ("404 job_not_found", "503 server_is_overloaded")
_QUERY = ("400 invalid_value", "400 unknown_field", "400 duplicate_field")
_AFTERWARDS = ("getJob", "watchJob", "getLivePicture", "getPicture", "cancelJob")
_RECIPE = (*RECIPE_HEADERS, *OUTCOME_HEADERS, *STATE_HEADERS, *LIMIT_HEADERS)

OPERATIONS: Sequence[Operation] = (
    Operation(
        "post",
        "/v1/generate",
        "generate",
        DRAWING,
        "Draw pictures",
        "Waits for the pictures and answers in the form that `Accept` names: JSON with base64, the picture itself, "
        "several as `multipart/mixed`, or events while they are drawn. `Prefer: respond-async` answers at once with "
        "a job.\n\nA client that hangs up cancels its job, unless it sent an `Idempotency-Key` or somebody else wants "
        "the same. Identical requests with a `seed` of their own that are under way together are drawn once.",
        {
            200: Answer(
                "The pictures, in the form that `Accept` names.",
                "GenerateResponse",
                (*PICTURES, MediaType.MULTIPART),
                EVENTS,
                (*_RECIPE, "Idempotency-Replayed"),
                ("getJob", "getPicture"),
            ),
            202: Answer(
                "Accepted, to be fetched later (`Prefer: respond-async`).",
                "JobBody",
                headers=(
                    "Location",
                    "Preference-Applied",
                    "Retry-After",
                    "X-Job-ID",
                    "Idempotency-Replayed",
                    *STATE_HEADERS,
                    *LIMIT_HEADERS,
                ),
                links=_AFTERWARDS,
                job_id="$response.body#/id",
            ),
        },
        ("Accept", "Prefer", "IdempotencyKey", "RequestId", "Traceparent"),
        "GenerateRequest",
        (*_BODY, "406 not_acceptable", *_ENTRY, *_ENDS),
    ),
    Operation(
        "post",
        "/v1/images/generations",
        "createImages",
        DRAWING,
        "Draw pictures, in OpenAI's words",
        "For unmodified `openai` SDKs: give them this service's address with `/v1` behind it, and your key (any word "
        "where no key is needed). `stream` "
        "and `response_format` alone decide the answer's form; `Accept` and `Prefer` are not read.\n\nWhat cannot be "
        "honoured is refused by name. Fields that OpenAI's API does not have (`seed`, `num_inference_steps`, "
        "`guidance_scale`, `negative_prompt`) go into `extra_body` in Python.",
        {
            200: Answer(
                "The pictures or links to them; with `stream` events.",
                "ImagesResponse",
                (),
                OPENAI_EVENTS,
                (*_RECIPE, "Idempotency-Replayed"),
                ("getJob",),
            )
        },
        ("IdempotencyKey", "RequestId", "Traceparent"),
        "ImagesRequest",
        (*_BODY, *_ENTRY, *_ENDS),
    ),
    Operation(
        "get",
        "/v1/jobs",
        "listJobs",
        JOBS,
        "List one's own jobs",
        "Those of all models, newest first, page by page, as long as they can be read; of each model the newest "
        "thousand. Unknown and repeated parameters are refused.",
        {200: Answer("One page.", "JobList", links=("getJob",), job_id="$response.body#/data/0/id")},
        ("Limit", "After", "State", "RequestId", "Traceparent"),
        errors=(*_QUERY, "503 server_is_overloaded"),
    ),
    Operation(
        "get",
        "/v1/jobs/{job_id}",
        "getJob",
        JOBS,
        "Look at a job",
        "State, place in the queue, step k of N, estimated seconds left, and where the pictures are. Jobs can be read "
        "for `EMMDIT_RESULT_TTL_S` (an hour) after their end. Somebody else's job is 404.",
        {200: Answer("The job as it is now.", "JobBody", headers=("X-Job-ID", "Retry-After"))},
        ("JobId", "RequestId", "Traceparent"),
        errors=_LOOK,
    ),
    Operation(
        "delete",
        "/v1/jobs/{job_id}",
        "cancelJob",
        JOBS,
        "Cancel a job",
        "A job that waits ends at once. One that is being drawn stops at its next step; until then the answer is 202. "
        "After a job's end nothing changes, and the job is shown. A cancelled job can still be looked at.",
        {
            200: Answer("The job has ended.", "JobBody", headers=("X-Job-ID",)),
            202: Answer("The job stops at its next step.", "JobBody", headers=("X-Job-ID", "Retry-After")),
        },
        ("JobId", "RequestId", "Traceparent"),
        errors=_LOOK,
    ),
    Operation(
        "get",
        "/v1/jobs/{job_id}/events",
        "watchJob",
        JOBS,
        "Watch a job",
        "Server-sent events, each with one JSON object: `job` when state, place or step changes, `preview` (a small "
        "picture of what it will be), `partial_image` (full size, where `partial_images` asked for it), `image` as "
        "each picture is done, and at the end `done` or `error`. A comment comes after 15 s of silence.\n\n"
        "A stream that broke is taken up again with its last `id` as `Last-Event-ID`, at any gateway, within two "
        "minutes of that event.",
        {
            200: Answer("Events, until the job has ended.", events=EVENTS, headers=("X-Job-ID", PROVENANCE_HEADER)),
            204: Answer("`Last-Event-ID` is the job's last event: there is nothing more."),
        },
        ("JobId", "WithPictures", "WithPreviews", "LastEventId", "RequestId", "Traceparent"),
        errors=(*_QUERY, *_LOOK),
    ),
    Operation(
        "get",
        "/v1/jobs/{job_id}/live",
        "getLivePicture",
        JOBS,
        "A picture that forms in a plain <img>",
        "`multipart/x-mixed-replace`: previews at the picture's own size, one after the other, and at last "
        "the picture.",
        {
            200: Answer(
                "Frames; the last one is the picture.",
                others=("multipart/x-mixed-replace",),
                headers=(PROVENANCE_HEADER,),
            )
        },
        ("JobId", "LiveIndex", "RequestId", "Traceparent"),
        errors=(*_QUERY, *_LOOK),
    ),
    Operation(
        "get",
        "/v1/jobs/{job_id}/images/{index}",
        "getPicture",
        JOBS,
        "Fetch a finished picture",
        "In the job's `output_format`, or as the query says. A signed link, which `response_format: url` gives, works "
        "for everybody who has it, until it expires; changing anything in it is 403.",
        {200: Answer("The picture.", others=PICTURES, headers=(*RECIPE_HEADERS, PROVENANCE_HEADER))},
        ("JobId", "PictureIndex", "Format", "Compression", "Expires", "Signature", "RequestId", "Traceparent"),
        errors=(*_QUERY, *_LOOK, "403 link_invalid", "403 link_expired", "409 job_not_ready", *_ENDS),
    ),
    Operation(
        "get",
        "/v1/models",
        "listModels",
        MODELS,
        "List the models",
        "The default one first: sizes, defaults, limits, the words that a demo model knows, and the workers that draw.",
        {200: Answer("All that are served here.", "ModelList")},
        ("RequestId", "Traceparent"),
        errors=("503 server_is_overloaded",),
    ),
    Operation(
        "get",
        "/v1/models/{model}",
        "getModel",
        MODELS,
        "Look at a model",
        "As the list has it.",
        {200: Answer("The model.", "ModelBody")},
        ("ModelName", "RequestId", "Traceparent"),
        errors=("404 model_not_found", "503 server_is_overloaded"),
    ),
    Operation(
        "get",
        "/livez",
        "livez",
        OPERATIONS_TAG,
        "Does the process answer?",
        "It never asks the queue: restarting a gateway cures no sick Redis.",
        {200: Answer("It does.", "Status")},
        ("RequestId", "Traceparent"),
    ),
    Operation(
        "get",
        "/startupz",
        "startupz",
        OPERATIONS_TAG,
        "Has it started?",
        "200 once the queue has been reached for the first time.",
        {200: Answer("It has.", "Status")},
        ("RequestId", "Traceparent"),
        errors=("503 server_is_overloaded",),
    ),
    Operation(
        "get",
        "/readyz",
        "readyz",
        OPERATIONS_TAG,
        "Can it take requests?",
        "200 while the queue answers and a worker with a live heartbeat serves any of the models. 503 while there is "
        "none at all, or the gateway is stopping.",
        {200: Answer("It can.", "Readiness")},
        ("RequestId", "Traceparent"),
        errors=("503 server_is_overloaded", "503 no_worker"),
    ),
    Operation(
        "get",
        "/metrics",
        "getMetrics",
        OPERATIONS_TAG,
        "Measurements",
        "Prometheus' text, or OpenMetrics where `Accept` names it. While the queue is away its gauges are missing.",
        {200: Answer("All metrics of this gateway.", others=(PROMETHEUS, OPENMETRICS))},
        ("RequestId", "Traceparent"),
    ),
)
