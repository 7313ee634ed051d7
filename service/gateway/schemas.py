"""What goes over the wire, both ways. Requests refuse unknown fields and never convert: true is not 1, "4" is not 4.

Only types are checked here; what a value may be depends on the model and is checked in validation.py, so that a wrong
type and a wrong value get the same sentence.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PriorityName = Literal["high", "normal", "low"]
FormatName = Literal["png", "jpeg", "webp"]


class GenerateRequest(BaseModel):
    """Body of POST /v1/generate. A field that is null counts as not given."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    prompt: str = Field(description="What to draw.", examples=["a photo of a red apple"])
    negative_prompt: str | None = Field(None, description="What to keep out. Has no effect without guidance.")
    model: str | None = Field(None, description="Name of a model of GET /v1/models.")
    size: str | None = Field(
        None, description="WIDTHxHEIGHT in pixels, one of the model's sizes.", examples=["512x512"]
    )
    num_inference_steps: int | None = Field(None, description="Denoising steps; more is finer and slower.")
    guidance_scale: float | None = Field(None, description="How closely to follow the prompt; 1 or less: no guidance.")
    seed: int | None = Field(None, description="The same seed draws the same picture. Not given: a random one.")
    n: int | None = Field(None, description="Pictures; the i-th is drawn with seed + i.")
    priority: PriorityName | None = Field(None, description="High runs first.")
    timeout_s: float | None = Field(None, description="Deadline in seconds, counted from acceptance.")
    previews: bool | None = Field(
        None, description="Publish previews from the first step on, even where nobody watches yet."
    )
    partial_images: int | None = Field(
        None, description="Full-size pictures of what each will be, on the way, for those who watch the job."
    )
    clean_prompt: bool | None = Field(None, description="Clean the prompt as the model's training data was.")
    exact_schedule: bool | None = Field(
        None,
        description="Spend a forward on the last 0.001 of noise, as published, instead of merging it into the last.",
    )
    output_format: FormatName | None = Field(None, description="How the pictures are written. PNG loses nothing.")
    output_compression: int | None = Field(
        None, description="Quality of a jpeg or webp: 0 is small, 100 is good.", examples=[80]
    )


class ErrorDetail(BaseModel):
    """`code` is stable; `message` is for people; `param` names the field, if one is to blame."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every 4xx and 5xx."""

    error: ErrorDetail


class Timings(BaseModel):
    """Seconds. None where it has not come to that."""

    queue_s: float | None
    inference_s: float | None
    total_s: float | None


class Picture(BaseModel):
    """One picture in the answer to POST /v1/generate. `url` works until the result's time to live is over."""

    b64_json: str
    seed: int
    url: str


class GenerateResponse(BaseModel):
    """Effective values and pictures. `prompt` is the text as the model saw it."""

    id: str
    created: int
    model: str
    model_version: str
    data: list[Picture]
    prompt: str
    size: str
    num_inference_steps: int
    guidance_scale: float
    output_format: FormatName
    timings: Timings
    warnings: list[str]


class JobImage(BaseModel):
    """Where one finished picture is, and how it came about. `num_bytes` are those of the PNG that is stored."""

    index: int
    url: str
    seed: int
    num_bytes: int


class JobBody(BaseModel):
    """A job now. `position` is 0 for the next to run; `step` of `num_steps` is summed over the job's pictures."""

    id: str
    object: Literal["job"] = "job"
    state: Literal["queued", "running", "done", "failed", "cancelled", "expired"]
    model: str
    model_version: str | None
    created: int
    position: int | None
    step: int
    num_steps: int
    estimated_seconds_left: float | None
    n: int
    size: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    output_format: FormatName
    priority: PriorityName
    timeout_s: float
    prompt: str | None
    images: list[JobImage]
    timings: Timings
    warnings: list[str]
    error: ErrorDetail | None


class JobList(BaseModel):
    """One page of GET /v1/jobs, newest first. `last_id` is what `after` takes for the next one."""

    object: Literal["list"] = "list"
    data: list[JobBody]
    has_more: bool
    last_id: str | None


class PartBody(BaseModel):
    """Weights in a worker's memory: network, text_encoder or autoencoder. What is shared is there once for all."""

    part: str
    num_bytes: int
    shared_with: list[str]


class WorkerBody(BaseModel):
    """A live worker that draws with a model, all models that it draws with, and what this one's parts take up."""

    id: str
    device: str
    version: str
    models: list[str]
    memory: list[PartBody]


class ModelBody(BaseModel):
    """What one model can be asked for, and where it is loaded. `is_default`: it draws where a request names none.

    `created` is when this gateway began to serve it: the openai SDKs want a time there.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    is_default: bool = False
    owned_by: str = "emmdit"
    description: str
    version: str
    license: str
    sizes: list[str]
    default_size: str
    default_num_inference_steps: int
    max_num_inference_steps: int
    default_guidance_scale: float
    max_guidance_scale: float
    max_n: int
    max_prompt_chars: int
    vocabulary: list[str] | None
    example_prompts: list[str]
    num_workers: int
    is_ready: bool
    workers: list[WorkerBody]


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelBody]
