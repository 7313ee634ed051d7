"""What a client of the service gets: frozen, typed, and tolerant of fields that a newer server adds."""

from __future__ import annotations

from typing import Literal, TypedDict

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from service.client.errors import ApiError, error_of_job

JobStateName = Literal["queued", "running", "done", "failed", "cancelled", "expired"]

_SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))


class Options(TypedDict, total=False):
    """What a request may say beside its prompt; left out: the server's own choice. docs/api.md has the limits."""

    negative_prompt: str | None
    model: str | None
    size: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    seed: int | None
    n: int | None
    priority: Literal["high", "normal", "low"] | None
    timeout_s: float | None
    clean_prompt: bool | None
    exact_schedule: bool | None
    output_format: Literal["png", "jpeg", "webp"] | None
    output_compression: int | None
    previews: bool | None
    partial_images: int | None


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class ErrorDetail(_Answer):
    """An error as the server words it."""

    message: str
    type: str = ""
    param: str | None = None
    code: str


class Timings(_Answer):
    """Seconds. None where it has not come to that."""

    queue_s: float | None = None
    inference_s: float | None = None
    total_s: float | None = None


class Picture(_Answer):
    """One finished picture and its bytes."""

    data: Base64Bytes = Field(validation_alias="b64_json", repr=False)
    seed: int
    url: str

    @property
    def content_type(self) -> str:
        """By the first bytes: image/png, image/jpeg or image/webp."""
        return content_type_of(self.data)


class Generation(_Answer):
    """The answer to `generate`: pictures and the values that they were really drawn with."""

    id: str
    created: int
    model: str
    model_version: str
    pictures: tuple[Picture, ...] = Field(validation_alias="data", min_length=1)
    prompt: str
    size: str
    num_inference_steps: int
    guidance_scale: float
    timings: Timings
    warnings: tuple[str, ...] = ()

    @property
    def picture(self) -> Picture:
        """The first one, which is the only one unless `n` said otherwise."""
        return self.pictures[0]


class JobImage(_Answer):
    """Where one picture of a job is."""

    index: int
    url: str
    seed: int
    num_bytes: int


class Job(_Answer):
    """A job at one moment. `position` counts the jobs before it; `step` of `num_steps` is summed over its pictures."""

    id: str
    state: JobStateName
    model: str
    model_version: str | None = None
    created: int
    position: int | None = None
    step: int
    num_steps: int
    estimated_seconds_left: float | None = None
    n: int
    size: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    priority: str
    timeout_s: float
    prompt: str | None = None
    images: tuple[JobImage, ...] = ()
    timings: Timings = Timings()
    warnings: tuple[str, ...] = ()
    error: ErrorDetail | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing about it will change any more."""
        return self.state not in ("queued", "running")

    @property
    def failure(self) -> ApiError | None:
        """Why it ended without pictures; None while it goes on and where it is done."""
        if self.error is None:
            return None
        return error_of_job(self.error.code, self.error.message, param=self.error.param, job_id=self.id)


class JobPage(_Answer):
    """Some jobs, newest first. Where there are more, `jobs(after=page.last_id)` gets the next."""

    data: tuple[Job, ...]
    has_more: bool = False
    last_id: str | None = None


class Model(_Answer):
    """What one model can be asked for."""

    id: str
    is_default: bool = False
    description: str = ""
    version: str
    license: str = ""
    sizes: tuple[str, ...]
    default_size: str
    default_num_inference_steps: int
    max_num_inference_steps: int
    default_guidance_scale: float
    max_guidance_scale: float
    max_n: int
    max_prompt_chars: int
    vocabulary: tuple[str, ...] | None = None
    example_prompts: tuple[str, ...] = ()
    num_workers: int = 0
    is_ready: bool = False


class ModelPage(_Answer):
    """GET /v1/models."""

    data: tuple[Model, ...]


def content_type_of(picture: bytes) -> str:
    """The kind of picture, by its first bytes; "application/octet-stream" where it is none that is served."""
    return next((kind for start, kind in _SIGNATURES if picture.startswith(start)), "application/octet-stream")
