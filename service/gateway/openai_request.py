"""What a request in OpenAI's words asks of this service. What cannot be honoured is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.config import ModelCard
from service.errors import InvalidValue
from service.gateway.formats import MAX_QUALITY, Encoding, PictureFormat
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
_SENTENCES = {
    "quality": "low, medium, high, xhigh, max, auto, standard, hd",
    "response_format": "b64_json, url",
    "background": "opaque, auto: no model here draws transparency",
    "stream": "true, false",
    "user": "text",
    "safety_identifier": "text",
    "moderation": "low, auto",
    "style": "vivid, natural",
    "complexity": "auto, or leave it out: pictures are not planned here",
    "frame_count": "leave it out: there are no animations here",
    "frame_duration_ms": "leave it out: there are no animations here",
    "svg": "leave it out: there are no vector graphics here",
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


def read_order(fields: Mapping[str, Any], validator: Validator) -> ImagesOrder:
    """The order in a body. Raises InvalidValue or RequestRefused (400), which name field, value and what is allowed.

    Values that native requests have as well are left for `Validator.to_job` to check.
    """
    card = validator.card_named(fields)

    def allowed(name: str) -> str:
        if name == "size":
            return f"auto, {validator.allowed(name, card)}"
        return _SENTENCES.get(name) or validator.allowed(name, card)

    body = parse_fields(ImagesRequest, fields, allowed)
    if body.size not in (None, "auto", *card.sizes) and validator.model_named(fields) != "unknown":
        raise InvalidValue("size", body.size, f"allowed: {allowed('size')}")
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
