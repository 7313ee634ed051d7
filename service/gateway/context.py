"""What every route of one gateway shares."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import Request

from model.config import ModelCard
from service.blobs import BlobStore
from service.gateway.validation import Validator
from service.gateway.waiters import Waiters
from service.gateway.workers import WorkerWatch
from service.metrics import Metrics
from service.queue import JobQueue
from service.settings import Settings


@dataclass(slots=True)
class Gateway:
    """One process's parts. `is_draining` is the only thing that changes: set once, when the process is told to stop."""

    settings: Settings
    card: ModelCard
    queue: JobQueue
    blobs: BlobStore
    metrics: Metrics
    validator: Validator
    waiters: Waiters
    workers: WorkerWatch
    is_draining: bool = field(default=False)


def gateway_of(request: Request) -> Gateway:
    """The gateway that serves this request."""
    gateway: Gateway = request.app.state.gateway
    return gateway
