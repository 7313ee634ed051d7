"""POST /v1/images/generations over the wire, as the openai SDKs write and read it.

As in schemas.py only types are checked here and nothing is converted. Fields that no value can be honoured for are
still named, so that a client that sends null for them is served and one that sends more is told why not.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.gateway.schemas import FormatName, WholeNumber

QualityName = Literal["low", "medium", "high", "xhigh", "max"]
RequestedQuality = QualityName | Literal["auto", "standard", "hd"]


class ImagesRequest(BaseModel):
    """Body of POST /v1/images/generations. A field that is null counts as not given."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    prompt: str = Field(
        description="What to draw. Of control characters only tab and line breaks; something in it has to be visible."
    )
    model: str | None = Field(None, description="Name of a model of GET /v1/models.")
    n: WholeNumber | None = Field(None, description="Pictures; the i-th is drawn with seed + i.")
    size: str | None = Field(None, description="WIDTHxHEIGHT, one of the model's sizes, or auto: its first.")
    quality: RequestedQuality | None = Field(
        None, description="How many steps: medium, auto and standard are the model's own number, hd is high."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None, description="The picture itself, or a signed link to it that expires."
    )
    output_format: FormatName | None = Field(None, description="How the pictures are written. PNG loses nothing.")
    output_compression: WholeNumber | None = Field(None, description="Quality of a jpeg or webp, 100 if not given.")
    background: Literal["opaque", "auto"] | None = Field(None, description="Pictures are opaque.")
    stream: bool | None = Field(None, description="Server-sent events instead of one answer at the end.")
    partial_images: WholeNumber | None = Field(None, description="Pictures shown half drawn, with stream.")

    seed: WholeNumber | None = Field(None, description="The same seed draws the same picture. Not given: a random one.")
    num_inference_steps: WholeNumber | None = Field(None, description="Denoising steps, where quality does not say it.")
    guidance_scale: float | None = Field(None, description="How closely to follow the prompt; 1 or less: no guidance.")
    negative_prompt: str | None = Field(None, description="What to keep out. Has no effect without guidance.")

    user: str | None = Field(None, description="Without effect: neither kept nor logged.")
    safety_identifier: str | None = Field(None, description="Without effect: neither kept nor logged.")
    moderation: Literal["low", "auto"] | None = Field(None, description="Without effect: nothing is filtered.")
    style: Literal["vivid", "natural"] | None = Field(None, description="Without effect: say it in the prompt.")
    complexity: Literal["auto"] | None = Field(None, description="Without effect: pictures are not planned.")

    frame_count: None = Field(None, description="Refused: no animations.")
    frame_duration_ms: None = Field(None, description="Refused: no animations.")
    svg: None = Field(None, description="Refused: no vector graphics.")


class TokenDetails(BaseModel):
    """Of what kind the tokens were."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Always zero: the SDKs expect it, and nothing is counted or charged in tokens here."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int = 0
    output_tokens_details: TokenDetails = TokenDetails()
    total_tokens: int = 0


class ImageData(BaseModel):
    """One picture, or where it is. `revised_prompt` is the prompt as the model saw it."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str
    seed: int


class ImagesResponse(BaseModel):
    """The answer where it is not streamed."""

    created: int
    data: list[ImageData]
    output_format: FormatName
    size: str
    quality: QualityName
    background: Literal["opaque"] = "opaque"
    usage: Usage = Usage()


class _PictureEvent(BaseModel):
    """What both events of a stream have. `index` counts the request's pictures."""

    b64_json: str
    index: int
    created_at: int
    size: str
    quality: QualityName
    background: Literal["opaque"] = "opaque"
    output_format: FormatName


class PartialImageEvent(_PictureEvent):
    """One picture half drawn."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    partial_image_index: int


class CompletedEvent(_PictureEvent):
    """One finished picture."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    seed: int
    usage: Usage = Usage()
