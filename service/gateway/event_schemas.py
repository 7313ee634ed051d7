"""What the events of a job hold, as POST /v1/generate and GET /v1/jobs/{id}/events send them. The others hold a job."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.gateway.schemas import ErrorDetail, JobBody


class _OfPicture(BaseModel):
    job_id: str = Field(description="The job.")
    index: int = Field(description="Which of its pictures, from 0.")


class _Unfinished(_OfPicture):
    step: int = Field(description="Steps of this picture that are done.")
    num_steps: int = Field(description="How many it takes.")


class PreviewEvent(_Unfinished):
    """`preview`: a small picture of what it will be, to be scaled up by who shows it."""

    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")
    content_type: str = Field(description="How it is written.")
    b64_json: str = Field(description="The preview, in base64.")


class PartialPictureEvent(_Unfinished):
    """`partial_image`: what it will be, at full size; where `partial_images` asked for it."""

    partial_image_index: int = Field(description="Which of the looks at this picture, from 0.")
    content_type: str = Field(description="How it is written.")
    b64_json: str = Field(description="The picture, in base64.")


class PictureEvent(_OfPicture):
    """`image`: one finished picture."""

    seed: int = Field(description="Draws this picture again.")
    url: str = Field(description="Where to fetch it.")
    num_bytes: int = Field(description="Of the PNG that is stored, whatever is sent.")
    content_type: str = Field(description="How it is written.")
    b64_json: str | None = Field(None, description="The picture, in base64; left out with `pictures=false`.")


class ErrorEvent(BaseModel):
    """`error`: the end of a job that has no pictures to give."""

    error: ErrorDetail | None = Field(description="Why.")
    job: JobBody | None = Field(description="The job, where it can be read.")
