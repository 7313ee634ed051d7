"""What orchestrators and Prometheus ask. Liveness never asks the queue: restarting a gateway cures no sick Redis."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from service.errors import NoWorker, ServerOverloaded
from service.gateway.context import gateway_of
from service.metrics import CONTENT_TYPE

router = APIRouter()


class Status(BaseModel):
    """Nothing is wrong."""

    status: Literal["ok"] = "ok"


class Readiness(Status):
    """How many live workers there are in all, and how many of them serve each model."""

    num_workers: int
    models: dict[str, int]


@router.get("/livez")
async def livez() -> Status:
    """200 as long as this process answers at all."""
    return Status()


@router.get("/startupz")
async def startupz(request: Request) -> Status:
    """200 once the queue has been reached for the first time."""
    if not all(model.workers.has_looked for model in gateway_of(request).models.values()):
        raise ServerOverloaded("starting: the queue has not been reached yet", retry_after_s=1)
    return Status()


@router.get("/readyz")
async def readyz(request: Request) -> Readiness:
    """200 while the queue answers and a worker with a live heartbeat serves any of the models.

    A model without one is told from the number beside its name: requests for the others must go on.
    """
    gateway = gateway_of(request)
    if gateway.is_draining:
        raise ServerOverloaded("this gateway is stopping", retry_after_s=1)
    await asyncio.gather(*(model.workers.look() for model in gateway.models.values()))
    alive = {name: {worker.id for worker in model.workers.alive} for name, model in gateway.models.items()}
    if not any(alive.values()):
        raise NoWorker(f"no worker for {', '.join(alive)} is alive", retry_after_s=1)
    counts = {name: len(ids) for name, ids in alive.items()}
    return Readiness(num_workers=len(set().union(*alive.values())), models=counts)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus text. While the queue is away its gauges are missing, which is what they then have to say."""
    gateway = gateway_of(request)
    stats = None
    with suppress(ServerOverloaded):
        found = await asyncio.gather(*(queue.stats() for queue in gateway.queues.values()))
        stats = dict(zip(gateway.queues, found, strict=True))
    return Response(gateway.metrics.render(stats), headers={"Content-Type": CONTENT_TYPE})
