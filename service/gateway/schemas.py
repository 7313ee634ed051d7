"""What goes over the wire, both ways. Requests refuse unknown fields and never convert: true is not 1, "4" is not 4.

Only types are checked here; what a value may be depends on the model and is checked in validation.py, so that a wrong
type and a wrong value get the same sentence.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PriorityName = Literal["high", "normal", "low"]
FormatName = Literal["png", "jpeg", "webp"]


def _whole(value: object) -> object:
    """JSON knows no integers: 4.0 is the number 4, written by a program that has only one kind of them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = Annotated[int, BeforeValidator(_whole)]


class GenerateRequest(BaseModel):
    """Body of POST /v1/generate. A field that is null counts as not given."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    prompt: str = Field(
        description="What to draw. Of control characters only tab and line breaks; something in it has to be visible."
    )
    negative_prompt: str | None = Field(None, description="What to keep out. Has no effect without guidance.")
    model: str | None = Field(None, description="Name of a model of GET /v1/models.")
    size: str | None = Field(None, description="WIDTHxHEIGHT in pixels, one of the model's sizes.")
    num_inference_steps: WholeNumber | None = Field(None, description="Denoising steps; more is finer and slower.")
    guidance_scale: float | None = Field(None, description="How closely to follow the prompt; 1 or less: no guidance.")
    seed: WholeNumber | None = Field(None, description="The same seed draws the same picture. Not given: a random one.")
    n: WholeNumber | None = Field(None, description="Pictures; the i-th is drawn with seed + i.")
    priority: PriorityName | None = Field(None, description="High runs first.")
    timeout_s: float | None = Field(None, description="Deadline in seconds, counted from acceptance.")
    previews: bool | None = Field(
        None, description="Publish previews from the first step on, even where nobody watches yet."
    )
    partial_images: WholeNumber | None = Field(
        None, description="Full-size pictures of what each will be, on the way, for those who watch the job."
    )
    clean_prompt: bool | None = Field(None, description="Clean the prompt as the model's training data was.")
    exact_schedule: bool | None = Field(
        None,
        description="Spend a forward on the last 0.001 of noise, as published, instead of merging it into the last.",
    )
    output_format: FormatName | None = Field(None, description="How the pictures are written. PNG loses nothing.")
    output_compression: WholeNumber | None = Field(
        None, description="Quality of a jpeg or webp: 0 is small, 100 is good."
    )


class ErrorDetail(BaseModel):
    """`code` is stable; `message` is for people; `param` names the field, if one is to blame."""

    message: str = Field(description="For people: the field, its value, and what is allowed.")
    type: str = Field(description="The kind of error, as in the API of OpenAI.")
    param: str | None = Field(description="The field that is to blame, if one is.")
    code: str = Field(description="Stable: what a program should look at.")


class ErrorBody(BaseModel):
    """The body of every 4xx and 5xx."""

    error: ErrorDetail


class Timings(BaseModel):
    """Seconds. None where it has not come to that."""

    queue_s: float | None = Field(description="Waiting for a worker.")
    inference_s: float | None = Field(description="Drawing.")
    total_s: float | None = Field(description="From acceptance to the end.")


class Picture(BaseModel):
    """One picture in the answer to POST /v1/generate. `url` works until the result's time to live is over."""

    b64_json: str = Field(description="The picture, in base64.")
    seed: int = Field(description="Draws this picture again.")
    url: str = Field(description="Its path, until its time is over.")


class GenerateResponse(BaseModel):
    """Effective values and pictures. `prompt` is the text as the model saw it."""

    id: str = Field(description="The job.")
    created: int = Field(description="When it was accepted, in seconds since 1970.")
    model: str = Field(description="Who drew.")
    model_version: str = Field(description="Which version of it.")
    data: list[Picture] = Field(description="The pictures, in order.")
    prompt: str = Field(description="The text as the model saw it.")
    size: str = Field(description="WIDTHxHEIGHT in pixels.")
    num_inference_steps: int = Field(description="Steps that were taken.")
    guidance_scale: float = Field(description="Guidance that was used.")
    output_format: FormatName = Field(description="How the pictures are written.")
    content_filter: str = Field(description="The filter that the prompt went through; `off` where there is none.")
    provenance: str = Field(description="How the pictures are signed: `c2pa`, or `off`.")
    timings: Timings = Field(description="Seconds.")
    warnings: list[str] = Field(description="What was asked for in vain.")


class JobImage(BaseModel):
    """Where one finished picture is, and how it came about. `num_bytes` are those of the PNG that is stored."""

    index: int = Field(description="Which of the pictures, from 0.")
    url: str = Field(description="Where to fetch it.")
    seed: int = Field(description="Draws this picture again.")
    num_bytes: int = Field(description="Of the PNG that is stored, whatever is sent.")


class JobBody(BaseModel):
    """A job now. `position` is 0 for the next to run; `step` of `num_steps` is summed over the job's pictures."""

    id: str = Field(description="The job.")
    object: Literal["job"] = "job"
    state: Literal["queued", "running", "done", "failed", "cancelled", "expired"] = Field(
        description="The last four are final."
    )
    model: str = Field(description="Who draws.")
    model_version: str | None = Field(description="Which version has drawn; null before the end.")
    created: int = Field(description="When it was accepted, in seconds since 1970.")
    position: int | None = Field(description="How many run before it, while it is queued.")
    step: int = Field(description="Forwards of the network that are done, of all its pictures.")
    num_steps: int = Field(description="How many there are to do.")
    estimated_seconds_left: float | None = Field(
        description="From the measured rates of the workers; null where nothing was measured yet."
    )
    n: int = Field(description="How many pictures.")
    size: str = Field(description="WIDTHxHEIGHT in pixels.")
    num_inference_steps: int = Field(description="Steps of each picture.")
    guidance_scale: float = Field(description="Guidance in use.")
    seed: int = Field(description="Of the first picture.")
    output_format: FormatName = Field(description="How the pictures are written.")
    priority: PriorityName = Field(description="High runs first.")
    timeout_s: float = Field(description="Deadline in seconds, counted from acceptance.")
    prompt: str | None = Field(description="The text as the model saw it; null before the end.")
    images: list[JobImage] = Field(description="The pictures, once the job is done.")
    timings: Timings = Field(description="Seconds.")
    warnings: list[str] = Field(description="What was asked for in vain.")
    error: ErrorDetail | None = Field(description="Why it ended otherwise than done.")


class JobList(BaseModel):
    """One page of GET /v1/jobs, newest first. `last_id` is what `after` takes for the next one."""

    object: Literal["list"] = "list"
    data: list[JobBody] = Field(description="The jobs.")
    has_more: bool = Field(description="Whether there is a page after this one.")
    last_id: str | None = Field(description="What `after` takes for the next page.")


class PartBody(BaseModel):
    """Weights in a worker's memory: network, text_encoder or autoencoder. What is shared is there once for all."""

    part: str = Field(description="`network`, `text_encoder` or `autoencoder`.")
    num_bytes: int = Field(description="What it takes up.")
    shared_with: list[str] = Field(description="The other models that use the same one.")


class WorkerBody(BaseModel):
    """A live worker that draws with a model, all models that it draws with, and what this one's parts take up."""

    id: str = Field(description="The worker.")
    device: str = Field(description="What it computes on.")
    version: str = Field(description="Of the model, as it has loaded it.")
    models: list[str] = Field(description="All that it draws with.")
    memory: list[PartBody] = Field(description="What the parts of this model take up there.")


class ModelBody(BaseModel):
    """What one model can be asked for, and where it is loaded. `is_default`: it draws where a request names none.

    `created` is when this gateway began to serve it: the openai SDKs want a time there.
    """

    id: str = Field(description="Its name.")
    object: Literal["model"] = "model"
    created: int = Field(description="When this gateway began to serve it.")
    is_default: bool = Field(False, description="Whether it draws for requests that name no model.")
    owned_by: str = "emmdit"
    description: str = Field(description="What it is.")
    version: str = Field(description="Of the weights.")
    license: str = Field(description="Of the weights.")
    sizes: list[str] = Field(description="WIDTHxHEIGHT that it draws.")
    default_size: str = Field(description="What it draws where none is asked for.")
    default_num_inference_steps: int = Field(description="Where none are asked for.")
    max_num_inference_steps: int = Field(description="At most.")
    default_guidance_scale: float = Field(description="Where none is asked for.")
    max_guidance_scale: float = Field(description="At most.")
    max_n: int = Field(description="Pictures in one request, at most.")
    max_prompt_chars: int = Field(description="Characters of a prompt, at most.")
    vocabulary: list[str] | None = Field(
        description="The words that a demo model was trained on; null where any text makes sense."
    )
    example_prompts: list[str] = Field(description="Prompts to begin with.")
    content_filter: str = Field(description="The filter that prompts go through; `off` where there is none.")
    provenance: str = Field(description="How pictures are signed: `c2pa`, or `off`.")
    num_workers: int = Field(description="Live ones that draw with it.")
    is_ready: bool = Field(description="Whether there is one.")
    workers: list[WorkerBody] = Field(description="Where it is loaded.")


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelBody]
