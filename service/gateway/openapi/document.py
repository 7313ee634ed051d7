"""The OpenAPI 3.1 document of one gateway: its routes, its models' limits, its operator's settings.

Limits and defaults are the rules' own (limits.py), descriptions those of the pydantic models, words those of
operations.py. Where several models are served, a field's schema takes what any of them does, and conditions on
`model` say the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from model.config import ModelCard
from service.gateway import sse
from service.gateway.auth import needs_keys
from service.gateway.event_schemas import ErrorEvent, PartialPictureEvent, PictureEvent, PreviewEvent
from service.gateway.health import Readiness, Status
from service.gateway.limits import Rule
from service.gateway.openai_request import order_rule
from service.gateway.openai_schemas import CompletedEvent, ImagesRequest, ImagesResponse, PartialImageEvent
from service.gateway.openapi.examples import ADDRESS, Example
from service.gateway.openapi.faults import FAULTS, Fault
from service.gateway.openapi.operations import JSON, OPERATIONS, TAGS, Answer, Operation
from service.gateway.openapi.parts import HEADERS, LIMIT_HEADERS, PARAMETERS, SECURITY_SCHEMES, Json, headers, parameter
from service.gateway.schemas import (
    ErrorBody,
    GenerateRequest,
    GenerateResponse,
    JobBody,
    JobList,
    ModelBody,
    ModelList,
)
from service.gateway.validation import Validator
from service.metrics import software_version

ANSWERS: Sequence[type[BaseModel]] = (
    CompletedEvent,
    ErrorBody,
    ErrorEvent,
    GenerateResponse,
    ImagesResponse,
    JobBody,
    JobList,
    ModelBody,
    ModelList,
    PartialImageEvent,
    PartialPictureEvent,
    PictureEvent,
    PreviewEvent,
    Readiness,
    Status,
)
TITLE = "emmdit"
DESCRIPTION = (
    "Pictures from words with E-MMDiT. Every error has one shape and a stable `code`; every answer has an "
    "`X-Request-ID`. The limits below are those of this service and the models that it serves."
)
NEEDED = "Requests need an API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
NOT_NEEDED = "Requests need no API key here; one that is sent counts."
RuleOf = Callable[[str, ModelCard], Rule]


class Document:
    """Built when it is first asked for: a gateway starts sooner than somebody reads."""

    def __init__(self, validator: Validator) -> None:
        self._validator = validator

    @cached_property
    def address(self) -> str:
        """Where clients reach the service, as far as the operator has said so."""
        settings = self._validator.settings
        return settings.public_url.rstrip("/") if settings.public_url else ADDRESS

    @cached_property
    def body(self) -> Json:
        """The whole document."""
        paths: dict[str, Json] = defaultdict(dict)
        for operation in OPERATIONS:
            paths[operation.path][operation.method] = self._operation(operation)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": TITLE,
                "version": software_version(),
                "description": f"{DESCRIPTION} {NEEDED if self._needs_keys else NOT_NEEDED}",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": self._validator.settings.public_url or "/"}],
            "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
            "paths": dict(paths),
            "components": {
                "schemas": self._schemas(),
                "parameters": dict(PARAMETERS),
                "headers": dict(HEADERS),
                "securitySchemes": dict(SECURITY_SCHEMES),
            },
        }

    def _operation(self, operation: Operation) -> Json:
        model = next(iter(self._validator.cards))
        found: Json = {
            "operationId": operation.name,
            "tags": [operation.tag],
            "summary": operation.summary,
            "description": operation.description,
            "security": self._security(operation),
            "parameters": [parameter(name) for name in operation.parameters],
            "responses": {str(status): _answer(answer) for status, answer in operation.answers.items()}
            | _error_answers(operation.faults),
            "x-codeSamples": [
                {"lang": one.language, "label": one.title, "source": one.at(self.address, model)}
                for one in operation.examples
            ],
        }
        if operation.body is not None:
            content = {"schema": _ref(operation.body), "examples": _body_examples(operation.examples)}
            found["requestBody"] = {"required": True, "content": {JSON: content}}
        return found

    @cached_property
    def _needs_keys(self) -> bool:
        return needs_keys(self._validator.settings)

    def _security(self, operation: Operation) -> list[Json]:
        """Any of these will do; {} is no key at all."""
        if operation.is_open:
            return []
        is_signed = "Signature" in operation.parameters
        return [{name: []} for name in SECURITY_SCHEMES] + ([{}] if is_signed or not self._needs_keys else [])

    def _schemas(self) -> Json:
        _, definitions = models_json_schema(
            [(model, "serialization") for model in ANSWERS], ref_template="#/components/schemas/{model}"
        )
        schemas: Json = _as_sent(definitions["$defs"])
        codes = list(dict.fromkeys(fault.code for fault in FAULTS))
        schemas["ErrorDetail"]["properties"]["code"]["examples"] = codes
        schemas["GenerateRequest"] = self._request(GenerateRequest, self._validator.rule)
        schemas["ImagesRequest"] = self._request(
            ImagesRequest, lambda name, card: order_rule(name, self._validator, card)
        )
        schemas["GenerateRequest"]["allOf"] += _GENERATE_CONDITIONS
        schemas["ImagesRequest"]["allOf"] += _IMAGES_CONDITIONS
        return schemas

    def _request(self, model: type[BaseModel], rule_of: RuleOf) -> Json:
        fields, cards = model.model_fields, list(self._validator.cards.values())
        properties = {}
        for name, info in fields.items():
            rules = {card.name: rule_of(name, card) for card in cards}
            properties[name] = _property(rules, info.description or "", is_required=info.is_required())
        return {
            "type": "object",
            "description": " ".join((model.__doc__ or "").split()),
            "properties": properties,
            "required": [name for name, info in fields.items() if info.is_required()],
            "additionalProperties": False,
            "allOf": _model_conditions(properties, cards, rule_of),
        }


# What one field has to say about another.
def _when(condition: Json, then: Json) -> Json:
    return {"if": {"properties": condition, "required": list(condition)}, "then": then}


_LOSSY = {"properties": {"output_format": {"enum": ["jpeg", "webp"]}}, "required": ["output_format"]}
_GENERATE_CONDITIONS = [_when({"output_compression": {"type": "integer"}}, _LOSSY)]
_IMAGES_CONDITIONS = [
    _when({"output_compression": {"type": "integer", "maximum": 99}}, _LOSSY),
    _when(
        {"partial_images": {"type": "integer", "minimum": 1}},
        {"properties": {"stream": {"const": True}}, "required": ["stream"]},
    ),
    _when({"stream": {"const": True}}, {"properties": {"response_format": {"enum": ["b64_json", None]}}}),
    _when({"num_inference_steps": {"type": "integer"}}, {"properties": {"quality": {"enum": ["auto", None]}}}),
]


def _property(rules: Mapping[str, Rule], description: str, *, is_required: bool) -> Json:
    """A field as any of the models takes it; null counts as not given."""
    distinct = {rule.sentence: rule for rule in rules.values()}
    schemas = [rule.schema for rule in distinct.values()]
    found: Json = dict(schemas[0])
    for other in schemas[1:]:
        found |= _wider(found, other)
    defaults = {repr(rule.default): rule.default for rule in rules.values()}
    if not is_required and found["type"] != "null":
        found["type"] = [found["type"], "null"]
        if "enum" in found:
            found["enum"] = [*found["enum"], None]
    if len(defaults) == 1 and None not in defaults.values():
        (found["default"],) = defaults.values()
    said = description
    if len(distinct) > 1:
        said += " " + "; ".join(f"`{name}`: {rule.sentence}" for name, rule in rules.items()) + "."
    if len(defaults) > 1:
        said += " Not given: " + ", ".join(f"{rule.default} (`{name}`)" for name, rule in rules.items()) + "."
    return {"description": said} | found


def _wider(one: Json, other: Json) -> Json:
    """What either of two schemas of one kind allows."""
    if "enum" in one:
        return {"enum": [*one["enum"], *(value for value in other["enum"] if value not in one["enum"])]}
    return {"minimum": min(one["minimum"], other["minimum"]), "maximum": max(one["maximum"], other["maximum"])}


def _model_conditions(properties: Json, cards: Sequence[ModelCard], rule_of: RuleOf) -> list[Json]:
    """What a model does not take although another one does. The default one is also meant by who names none."""
    found = []
    for place, card in enumerate(cards):
        narrow: Json = {}
        for name, schema in properties.items():
            rule = rule_of(name, card).schema
            limits = {key: rule[key] for key in ("enum", "minimum", "maximum") if key in rule}
            if "enum" in limits:
                limits["enum"] = [*limits["enum"], None]
            if any(schema.get(key) != limit for key, limit in limits.items()):
                narrow[name] = limits
        if narrow:
            names = [card.name, None] if place == 0 else [card.name]
            condition: Json = {"properties": {"model": {"enum": names}}}
            found.append(
                {"if": condition if place == 0 else condition | {"required": ["model"]}, "then": {"properties": narrow}}
            )
    return found


def _answer(answer: Answer) -> Json:
    content: Json = {} if answer.body is None else {JSON: {"schema": _ref(answer.body)}}
    content |= {kind: {} for kind in answer.others}
    if answer.events:
        content[sse.MEDIA_TYPE] = {"schema": _event(answer.events)}
    found: Json = {"description": answer.description, "headers": headers(*answer.headers)}
    if content:
        found["content"] = content
    if answer.links:
        found["links"] = {name: _link(name, answer.job_id) for name in answer.links}
    return found


def _event(shapes: Mapping[str, str]) -> Json:
    """One event of a stream, as a program finds it when the stream has been taken apart."""
    found = []
    for name, shape in shapes.items():
        data = {"type": "string", "contentMediaType": JSON, "contentSchema": _ref(shape)}
        properties: Json = (
            {"event": {"const": name}, "data": data, "id": {"type": "string"}} if name else {"data": data}
        )
        found.append({"type": "object", "required": [*properties][: 2 if name else 1], "properties": properties})
    return {"description": "Each event.", "anyOf": found}


def _body_examples(examples: Sequence[Example]) -> Json:
    """The bodies that the examples send and that are accepted."""
    return {
        f"example{place}": {"summary": one.title, "value": one.body}
        for place, one in enumerate(examples, 1)
        if one.body is not None and one.status < 400
    }


def _link(name: str, job_id: str) -> Json:
    parameters = {"path.job_id": job_id} | ({"path.index": "0"} if name == "getPicture" else {})
    return {"operationId": name, "parameters": parameters, "description": "The same job."}


def _error_answers(faults: Sequence[Fault]) -> Json:
    found: Json = {}
    for status in sorted({fault.status for fault in faults}):
        of_status = [fault for fault in faults if fault.status == status]
        names = ["X-Job-ID", "x-should-retry", "Idempotency-Replayed"] if status in (409, 410, 500, 504) else []
        names += ["Retry-After", "retry-after-ms"] if status in (409, 429, 503) else []
        names += [*LIMIT_HEADERS, "x-should-retry"] if status == 429 else []
        names += ["WWW-Authenticate"] if status == 401 else []
        found[str(status)] = {
            "description": " ".join(f"`{fault.code}`: {fault.when}" for fault in of_status),
            "headers": headers(*names),
            "content": {
                JSON: {
                    "schema": _ref("ErrorBody"),
                    "examples": {fault.code: {"summary": fault.when, "value": fault.body} for fault in of_status},
                }
            },
        }
    return found


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _as_sent(schema: Any) -> Any:  # noqa: ANN401  (JSON)
    """pydantic's schema without the titles that it makes of names. What has a default is always sent, None is not."""
    if isinstance(schema, list):
        return [_as_sent(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _as_sent(value) for key, value in schema.items() if key not in ("title", "default")}
    if isinstance(properties := schema.get("properties"), dict):
        found["properties"] = {name: _as_sent(one) for name, one in properties.items()}
        required = schema.get("required", [])
        found["required"] = [
            name for name, one in properties.items() if name in required or one.get("default") is not None
        ]
    return found
