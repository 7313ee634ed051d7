"""From a client's fields to the one recipe that is drawn: defaults filled in, every limit checked, once and here.

Each field has one rule (limits.py): a wrong type, a wrong value and the documentation share it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from model.config import ModelCard
from model.params import MAX_SEED, GenerationParams
from service.errors import InvalidValue, UnknownModel
from service.gateway.content_filter import CONTENT_FILTER_HEADER, ContentFilter
from service.gateway.formats import MAX_QUALITY, Encoding, PictureFormat
from service.gateway.limits import Rule, choice, fault_in, flag, integer, number, positive_number, prose
from service.gateway.refusals import RequestRefused, shorten
from service.gateway.schemas import GenerateRequest
from service.jobs import Job, Priority, WatchLevel, new_job_id
from service.settings import Settings

MAX_PARTIAL_IMAGES = 3

COMPRESSION_RULE = replace(
    integer(0, MAX_QUALITY), sentence=f"an integer from 0 to {MAX_QUALITY}, with output_format jpeg or webp"
)
COMPRESSION_SENTENCE = COMPRESSION_RULE.sentence
# The fields for which neither the model nor the operator has a say.
FIXED_RULES: Mapping[str, Rule] = {
    "seed": integer(0, MAX_SEED),
    "priority": choice(["high", "normal", "low"]).or_else("normal"),
    "previews": flag().or_else(False),
    "partial_images": integer(0, MAX_PARTIAL_IMAGES).or_else(0),
    "clean_prompt": flag().or_else(True),
    "exact_schedule": flag().or_else(False),
    "output_format": choice(PictureFormat).or_else("png"),
    "output_compression": COMPRESSION_RULE,
}

S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Validator:
    """Checks requests against the models' cards and the operator's limits and filter. Pure but for the seeds it draws.

    The first of `cards` is the default. What is allowed depends on the model that a request names.
    """

    cards: Mapping[str, ModelCard]
    settings: Settings
    content_filter: ContentFilter | None = None
    _rules: dict[tuple[str, str], Rule] = field(default_factory=dict, compare=False)  # by field and model: made once

    def model_named(self, fields: Mapping[str, Any]) -> str:
        """The model that a body asks for, the default where it names none, "unknown" where there is no such model."""
        model = fields.get("model")
        if model is None:
            return next(iter(self.cards))
        return model if isinstance(model, str) and model in self.cards else "unknown"

    def card_named(self, fields: Mapping[str, Any]) -> ModelCard:
        """The card of the model that a body asks for; the default model's where there is no such model.

        Then it serves for sentences about other fields.
        """
        return self.cards.get(self.model_named(fields)) or next(iter(self.cards.values()))

    def parse(self, fields: Mapping[str, Any]) -> GenerateRequest:
        """Check names and types. InvalidValue or RequestRefused (400) name field, value and what is allowed."""
        return parse_fields(GenerateRequest, fields, lambda name: self.allowed(name, self.card_named(fields)))

    def to_job(self, request: GenerateRequest, *, owner: str, inbox: str, encoding: Encoding | None = None) -> Job:
        """The job with effective values. Raises InvalidValue, UnknownModel or what the content filter refuses.

        `encoding` is what the request's fields and headers came to; None where the fields alone say it.
        """
        if request.model is not None and request.model not in self.cards:
            raise UnknownModel(f"model: {shorten(request.model)} is not served here; allowed: {', '.join(self.cards)}")
        card = self.card_named({"model": request.model})

        def value_of(field: str) -> Any:  # noqa: ANN401  (as the field's rule has it)
            return self._value_of(field, getattr(request, field), card)

        prompt = value_of("prompt")
        seed = value_of("seed")
        partial_images = value_of("partial_images")
        encoding = encoding or encoding_of(PictureFormat(value_of("output_format")), request.output_compression)
        width, height = (int(side) for side in value_of("size").split("x"))
        negative_prompt = value_of("negative_prompt")
        self._refuse_content(prompt, negative_prompt)
        return Job(
            id=new_job_id(),
            model=card.name,
            owner=owner,
            params=GenerationParams(
                prompt=prompt,
                width=width,
                height=height,
                num_inference_steps=value_of("num_inference_steps"),
                guidance_scale=float(value_of("guidance_scale")),
                seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
                negative_prompt=negative_prompt,
                clean_prompt=value_of("clean_prompt"),
                exact_schedule=value_of("exact_schedule"),
            ),
            num_images=value_of("n"),
            priority=Priority[value_of("priority").upper()],
            timeout_s=float(value_of("timeout_s")),
            inbox=inbox,
            output_format=encoding.format.value,
            output_compression=encoding.quality,
            watch_level=WatchLevel.PREVIEWS if value_of("previews") or partial_images else WatchLevel.NOTHING,
            partial_images=partial_images,
        )

    def _refuse_content(self, prompt: str, negative_prompt: str) -> None:
        """Raises RequestRefused, which does not say why: the list is the operator's."""
        if self.content_filter is not None and self.content_filter.refuses(prompt, negative_prompt):
            raise RequestRefused(
                400,
                "content_policy_violation",  # as clients of OpenAI's API know it
                "prompt: the content filter of this service refuses it; allowed: another prompt",
                param="prompt",
                headers={CONTENT_FILTER_HEADER: self.content_filter.name},
            )

    def allowed(self, field: str, card: ModelCard) -> str:
        """The sentence that says what `field` may be where the model of `card` is to draw."""
        return self.rule(field, card).sentence

    def rule(self, field: str, card: ModelCard) -> Rule:
        """What `field` may be where the model of `card` is to draw, and what it is if not given."""
        place = (field, card.name)
        if place not in self._rules:
            self._rules[place] = self._make_rule(field, card)
        return self._rules[place]

    def _make_rule(self, field: str, card: ModelCard) -> Rule:
        settings = self.settings
        match field:
            case "prompt":
                return prose(1, settings.max_prompt_chars)
            case "negative_prompt":
                return prose(0, settings.max_prompt_chars).or_else("")
            case "model":
                return choice(self.cards).or_else(next(iter(self.cards)))
            case "size":
                return choice(card.sizes).or_else(card.sizes[0])
            case "num_inference_steps":
                return integer(1, card.max_steps).or_else(card.default_steps)
            case "guidance_scale":
                return number(card.max_guidance).or_else(card.default_guidance)
            case "n":
                return integer(1, settings.max_images).or_else(1)
            case "timeout_s":
                return positive_number(settings.max_timeout_s).or_else(settings.default_timeout_s)
            case _:
                return FIXED_RULES[field]

    def _value_of(self, field: str, given: object, card: ModelCard) -> Any:  # noqa: ANN401  (as the field's rule has it)
        """The value that counts. Raises InvalidValue."""
        rule = self.rule(field, card)
        if given is None:
            return rule.default
        if rule.allows(given):
            return given
        reason = _reason(given, rule) if isinstance(given, str) and "pattern" in rule.schema else ""
        raise InvalidValue(field, given, f"{reason}allowed: {rule.sentence}")


def _reason(text: str, rule: Rule) -> str:
    """What is wrong with text, to be read before what is allowed."""
    if len(text) > rule.schema["maxLength"]:
        return f"it has {len(text)} characters; "
    fault = fault_in(text)
    return f"{fault or 'nothing in it can be seen'}; "


def parse_fields(schema: type[S], fields: Mapping[str, Any], allowed: Callable[[str], str]) -> S:
    """Check names and types against a route's schema; `allowed` has a sentence for each field.

    Raises InvalidValue or RequestRefused (400).
    """
    try:
        return schema.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    # Of a name that holds half a surrogate it cannot say where it stands.
    name = str(first["loc"][0]) if first["loc"] else next(name for name in fields if name not in schema.model_fields)
    if first["type"] == "missing":
        raise RequestRefused(400, "missing_field", f"{name} is missing; allowed: {allowed(name)}", param=name)
    if first["type"] == "extra_forbidden" or not first["loc"]:
        known = ", ".join(schema.model_fields)
        raise RequestRefused(
            400,
            "unknown_field",
            f"{shorten(name)} = {shorten(fields[name])} is not a field of this request; allowed: {known}",
            param=name if name.isidentifier() and len(name) <= 64 else None,
        )
    raise InvalidValue(name, fields[name], f"allowed: {allowed(name)}")


def encoding_of(picture_format: PictureFormat, compression: int | None) -> Encoding:
    """How pictures are sent. Raises InvalidValue where the quality is none, or where a PNG is to have one."""
    if compression is not None and not COMPRESSION_RULE.allows(compression):
        raise InvalidValue("output_compression", compression, f"allowed: {COMPRESSION_SENTENCE}")
    if compression is not None and picture_format is PictureFormat.PNG:
        reason = f"a png loses nothing and has no quality; allowed: {COMPRESSION_SENTENCE}"
        raise InvalidValue("output_compression", compression, reason)
    return Encoding.of(picture_format, compression)


def warnings_for(params: GenerationParams) -> tuple[str, ...]:
    """Sentences about what a legal request asks for in vain."""
    if params.negative_prompt and not params.is_guided:
        return (f"negative_prompt has no effect at guidance_scale {params.guidance_scale:g}: it needs more than 1",)
    return ()
