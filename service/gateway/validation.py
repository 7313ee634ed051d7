"""From a client's fields to the one recipe that is drawn: defaults filled in, every limit checked, once and here.

Each field has one sentence that says what it may be; a wrong type, a wrong value and the documentation share it.
"""

from __future__ import annotations

import math
import secrets
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from model.config import ModelCard
from model.params import MAX_SEED, GenerationParams
from service.errors import InvalidValue, UnknownModel
from service.gateway.formats import MAX_QUALITY, Encoding, PictureFormat
from service.gateway.refusals import RequestRefused, shorten
from service.gateway.schemas import GenerateRequest
from service.jobs import Job, Priority, WatchLevel, new_job_id
from service.settings import Settings

MAX_PARTIAL_IMAGES = 3
ALLOWED_CONTROLS = "\t\n\r"  # prompts get pasted in several lines; cleaning turns these into spaces

COMPRESSION_SENTENCE = f"an integer from 0 to {MAX_QUALITY}, with output_format jpeg or webp"

T = TypeVar("T")
S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Validator:
    """Checks requests against the models' cards and the operator's limits. Pure but for the seeds it draws.

    The first of `cards` is the default. What is allowed depends on the model that a request names.
    """

    cards: Mapping[str, ModelCard]
    settings: Settings

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
        """The job with effective values. Raises InvalidValue or UnknownModel.

        `encoding` is what the request's fields and headers came to; None where the fields alone say it.
        """
        settings = self.settings
        if request.model is not None and request.model not in self.cards:
            raise UnknownModel(f"model: {shorten(request.model)} is not served here; allowed: {', '.join(self.cards)}")
        card = self.card_named({"model": request.model})
        self._check_text("prompt", request.prompt, card)
        if not any(char.isprintable() and not char.isspace() for char in request.prompt):
            raise InvalidValue(
                "prompt", request.prompt, f"nothing in it can be seen; allowed: {self.allowed('prompt', card)}"
            )
        negative_prompt = _or(request.negative_prompt, "")
        self._check_text("negative_prompt", negative_prompt, card)

        def check(field: str, value: T, is_allowed: Callable[[T], bool]) -> T:
            if not is_allowed(value):
                raise InvalidValue(field, value, f"allowed: {self.allowed(field, card)}")
            return value

        size = check("size", _or(request.size, card.sizes[0]), lambda value: value in card.sizes)
        steps = check(
            "num_inference_steps",
            _or(request.num_inference_steps, card.default_steps),
            lambda value: 1 <= value <= card.max_steps,
        )
        guidance_scale = check(
            "guidance_scale",
            _or(request.guidance_scale, card.default_guidance),
            lambda value: math.isfinite(value) and 0 <= value <= card.max_guidance,
        )
        seed = check(
            "seed",
            secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed,
            lambda value: 0 <= value <= MAX_SEED,
        )
        num_images = check("n", _or(request.n, 1), lambda value: 1 <= value <= settings.max_images)
        partial_images = check(
            "partial_images", _or(request.partial_images, 0), lambda value: 0 <= value <= MAX_PARTIAL_IMAGES
        )
        timeout_s = check(
            "timeout_s",
            _or(request.timeout_s, settings.default_timeout_s),
            lambda value: math.isfinite(value) and 0 < value <= settings.max_timeout_s,
        )
        encoding = encoding or encoding_of(PictureFormat(_or(request.output_format, "png")), request.output_compression)
        width, height = (int(side) for side in size.split("x"))
        return Job(
            id=new_job_id(),
            model=card.name,
            owner=owner,
            params=GenerationParams(
                prompt=request.prompt,
                width=width,
                height=height,
                num_inference_steps=steps,
                guidance_scale=float(guidance_scale),
                seed=seed,
                negative_prompt=negative_prompt,
                clean_prompt=_or(request.clean_prompt, True),
                exact_schedule=_or(request.exact_schedule, False),
            ),
            num_images=num_images,
            priority=Priority[_or(request.priority, "normal").upper()],
            timeout_s=float(timeout_s),
            inbox=inbox,
            output_format=encoding.format.value,
            output_compression=encoding.quality,
            watch_level=WatchLevel.PREVIEWS if request.previews or partial_images else WatchLevel.NOTHING,
            partial_images=partial_images,
        )

    def allowed(self, field: str, card: ModelCard) -> str:
        """The sentence that says what `field` may be where the model of `card` is to draw."""
        settings = self.settings
        text = "no control characters but tab and line breaks, no half surrogates"
        sentences = {
            "prompt": f"text of 1 to {settings.max_prompt_chars} characters, {text}",
            "negative_prompt": f"text of 0 to {settings.max_prompt_chars} characters, {text}",
            "model": ", ".join(self.cards),
            "size": ", ".join(card.sizes),
            "num_inference_steps": f"an integer from 1 to {card.max_steps}",
            "guidance_scale": f"a number from 0 to {card.max_guidance:g}",
            "seed": f"an integer from 0 to {MAX_SEED}",
            "n": f"an integer from 1 to {settings.max_images}",
            "priority": "high, normal, low",
            "timeout_s": f"a number above 0, up to {settings.max_timeout_s:g}",
            "previews": "true, false",
            "partial_images": f"an integer from 0 to {MAX_PARTIAL_IMAGES}",
            "clean_prompt": "true, false",
            "exact_schedule": "true, false",
            "output_format": ", ".join(PictureFormat),
            "output_compression": COMPRESSION_SENTENCE,
        }
        return sentences[field]

    def _check_text(self, field: str, text: str, card: ModelCard) -> None:
        allowed = f"allowed: {self.allowed(field, card)}"
        if len(text) > self.settings.max_prompt_chars:
            raise InvalidValue(field, text, f"it has {len(text)} characters; {allowed}")
        if text.isprintable():
            return  # then it has none of those below, and nearly every prompt is
        for index, char in enumerate(text):
            if unicodedata.category(char) in ("Cc", "Cs") and char not in ALLOWED_CONTROLS:
                raise InvalidValue(field, text, f"character {index} is U+{ord(char):04X}; {allowed}")


def parse_fields(schema: type[S], fields: Mapping[str, Any], allowed: Callable[[str], str]) -> S:
    """Check names and types against a route's schema; `allowed` has a sentence for each field.

    Raises InvalidValue or RequestRefused (400).
    """
    try:
        return schema.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        raise RequestRefused(400, "missing_field", f"{name} is missing; allowed: {allowed(name)}", param=name)
    if first["type"] == "extra_forbidden":
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
    if compression is not None and not 0 <= compression <= MAX_QUALITY:
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


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
