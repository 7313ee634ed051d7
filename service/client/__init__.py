"""The service from Python: `Client` for threads, `AsyncClient` for asyncio. docs/client.md shows them."""

from service.client.clients import AsyncClient, Client
from service.client.errors import ApiError, BadAnswer, ServerUnreachable, StillUnderWay
from service.client.events import DoneEvent, Event, ImageEvent, JobEvent, PartialImageEvent, PreviewEvent
from service.client.types import Generation, Job, JobImage, JobPage, JobStateName, Model, Options, Picture, Timings

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadAnswer",
    "Client",
    "DoneEvent",
    "Event",
    "Generation",
    "ImageEvent",
    "Job",
    "JobEvent",
    "JobImage",
    "JobPage",
    "JobStateName",
    "Model",
    "Options",
    "PartialImageEvent",
    "Picture",
    "PreviewEvent",
    "ServerUnreachable",
    "StillUnderWay",
    "Timings",
]
