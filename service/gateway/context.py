"""What every route of one gateway shares."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import Request

from model.config import ModelCard
from service.blobs import BlobStore
from service.gateway.abandoned import Abandoned
from service.gateway.bells import Bells
from service.gateway.content_filter import CONTENT_FILTER_HEADER, OFF
from service.gateway.keyring import Keyring
from service.gateway.provenance import C2PA, PROVENANCE_HEADER, PictureSigner
from service.gateway.settlements import Settlements
from service.gateway.sharing import Sharing
from service.gateway.validation import Validator
from service.gateway.waiters import Waiters
from service.gateway.workers import WorkerWatch
from service.jobs import Job
from service.metrics import Metrics
from service.queue import JobQueue
from service.queues import Queues
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model: what may be asked of it, where its jobs wait, and who draws them."""

    card: ModelCard
    queue: JobQueue
    workers: WorkerWatch


@dataclass(slots=True)
class Gateway:
    """One process's parts. `is_draining` is the only thing that changes: set once, when the process is told to stop.

    `started_at` is seconds since the epoch, on this machine's clock.
    """

    settings: Settings
    models: Mapping[str, ServedModel]
    queues: Queues
    blobs: BlobStore
    metrics: Metrics
    validator: Validator
    waiters: Waiters
    bells: Bells
    keyring: Keyring
    settlements: Settlements
    signer: PictureSigner | None = None
    abandoned: Abandoned = field(default_factory=Abandoned)
    sharing: Sharing = field(default_factory=Sharing)
    is_draining: bool = field(default=False)
    started_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def content_filter(self) -> str:
        """The name of the filter that prompts go through, "off" where there is none."""
        return OFF if self.validator.content_filter is None else self.validator.content_filter.name

    @property
    def provenance(self) -> str:
        """How pictures are signed, "off" where they are not."""
        return OFF if self.signer is None else C2PA

    @property
    def state_headers(self) -> dict[str, str]:
        """What every answer to a request for pictures says about filter and signatures."""
        return {CONTENT_FILTER_HEADER: self.content_filter, PROVENANCE_HEADER: self.provenance}

    def send_home(self) -> None:
        """End all waiting: this gateway stops, and the jobs go on."""
        self.waiters.close()
        self.bells.close()
        self.abandoned.close()

    def model_of(self, job: Job) -> ServedModel:
        """The model that draws this job."""
        return self.models[job.model]


def gateway_of(request: Request) -> Gateway:
    """The gateway that serves this request."""
    gateway: Gateway = request.app.state.gateway
    return gateway
