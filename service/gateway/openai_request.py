"""What a request in OpenAI's words asks of this service. What cannot be honoured is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.config import ModelCard
from service.errors import InvalidValue
from service.gateway.formats import MAX_QUALITY, Encoding, PictureFormat
from service.gateway.limits import Rule, anything, choice, flag, nothing
from service.gateway.openai_schemas import ImagesRequest, QualityName
from service.gateway.schemas import GenerateRequest
from service.gateway.validation import COMPRESSION_SENTENCE, MAX_PARTIAL_IMAGES, Validator, encoding_of, parse_fields

# Steps beside the model's own number: what more computation buys is more steps.
STEPS_FACTOR: Mapping[QualityName, float] = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 3.0}
_QUALITY_OF: Mapping[str, QualityName] = {
    **{name: name for name in STEPS_FACTOR},
    "auto": "medium",
    "standard": "medium",
    "hd": "high",
}
_RULES: Mapping[str, Rule] = {
    "quality": choice(_QUALITY_OF).or_else("auto"),
    "response_format": choice(["b64_json", "url"]).or_else("b64_json"),
    "background": choice(["opaque", "auto"], ": no model here draws transparency").or_else("auto"),
    "stream": flag().or_else(False),
    "user": anything(),
    "safety_identifier": anything(),
    "moderation": choice(["low", "auto"]),
    "style": choice(["vivid", "natural"]),
    "complexity": choice(["auto"], ", or leave it out: pictures are not planned here"),
    "frame_count": nothing("there are no animations here"),
    "frame_duration_ms": nothing("there are no animations here"),
    "svg": nothing("there are no vector graphics here"),
}


@dataclass(frozen=True, slots=True)
class ImagesOrder:
    """A checked request: as it came, what to draw, how to send it, and what to call that."""

    asked: ImagesRequest
    generate: GenerateRequest
    encoding: Encoding
    quality: QualityName
    has_urls: bool
    is_streamed: bool


def order_rule(field: str, validator: Validator, card: ModelCard) -> Rule:
    """What a field of OpenAI's may be where the model of `card` is to draw, and what it is if not given."""
    if field == "size":
        return choice(["auto", *card.sizes]).or_else("auto")
    if field == "num_inference_steps":
        return validator.rule(field, card).or_else(None)  # quality says it
    if field == "output_compression":
        return validator.rule(field, card).or_else(MAX_QUALITY)
    return _RULES.get(field) or validator.rule(field, card)


def read_order(fields: Mapping[str, Any], validator: Validator) -> ImagesOrder:
    """The order in a body. Raises InvalidValue or RequestRefused (400), which name field, value and what is allowed.

    Values that native requests have as well are left for `Validator.to_job` to check.
    """
    card = validator.card_named(fields)
    body = parse_fields(ImagesRequest, fields, lambda name: order_rule(name, validator, card).sentence)
    sizes = order_rule("size", validator, card)
    if body.size is not None and not sizes.allows(body.size) and validator.model_named(fields) != "unknown":
        raise InvalidValue("size", body.size, f"allowed: {sizes.sentence}")
    _check_stream(body)
    quality = _QUALITY_OF[body.quality or "auto"]
    native = {
        "prompt": body.prompt,
        "negative_prompt": body.negative_prompt,
        "model": body.model,
        "size": None if body.size == "auto" else body.size,
        "num_inference_steps": _steps(body, quality, card),
        "guidance_scale": body.guidance_scale,
        "seed": body.seed,
        "n": body.n,
        "partial_images": body.partial_images,
    }
    return ImagesOrder(
        asked=body,
        generate=GenerateRequest.model_validate(native),
        encoding=_encoding(body),
        quality=quality,
        has_urls=body.response_format == "url",
        is_streamed=bool(body.stream),
    )


def _check_stream(body: ImagesRequest) -> None:
    if body.stream and body.response_format == "url":
        raise InvalidValue("response_format", "url", "events hold the picture itself; allowed with stream: b64_json")
    if body.partial_images and not body.stream:
        reason = f"allowed: 0, or with stream: true an integer from 0 to {MAX_PARTIAL_IMAGES}"
        raise InvalidValue("partial_images", body.partial_images, reason)


def _steps(body: ImagesRequest, quality: QualityName, card: ModelCard) -> int | None:
    if body.num_inference_steps is None:
        return min(max(round(card.default_steps * STEPS_FACTOR[quality]), 1), card.max_steps)
    if body.quality not in (None, "auto"):
        reason = "num_inference_steps is given, which is what it chooses; allowed beside that: auto"
        raise InvalidValue("quality", body.quality, reason)
    return body.num_inference_steps


def _encoding(body: ImagesRequest) -> Encoding:
    picture_format = PictureFormat(body.output_format or "png")
    if picture_format is PictureFormat.PNG:
        if body.output_compression in (None, MAX_QUALITY):  # 100 is what clients send that want no loss: it has none
            return Encoding()
        reason = f"a png loses nothing and has no quality; allowed: {MAX_QUALITY}, or {COMPRESSION_SENTENCE}"
        raise InvalidValue("output_compression", body.output_compression, reason)
    return encoding_of(picture_format, MAX_QUALITY if body.output_compression is None else body.output_compression)
