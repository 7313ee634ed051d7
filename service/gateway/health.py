"""What orchestrators and Prometheus ask. Liveness never asks the queue: restarting a gateway cures no sick Redis."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from service.blobs import DirectoryBlobs
from service.errors import NoWorker, ServerOverloaded
from service.gateway.context import Gateway, gateway_of
from service.metrics_page import ModelFacts, SharedFacts, render_page

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
    """What Prometheus reads. While the queue is away its gauges are missing, and `queue_up` is 0."""
    gateway = gateway_of(request)
    page, content_type = render_page(
        gateway.metrics.registry, await _look_up(gateway), request.headers.get("accept", "")
    )
    return Response(page, headers={"Content-Type": content_type})


async def _look_up(gateway: Gateway) -> SharedFacts:
    """What any gateway would say, at this moment."""
    folder = gateway.blobs.root if isinstance(gateway.blobs, DirectoryBlobs) else gateway.settings.data_dir
    disk_bytes = await asyncio.to_thread(_disk_bytes, folder)
    models = gateway.models.values()
    try:
        memory_ratio, stats = await asyncio.gather(
            next(iter(models)).queue.server_memory_ratio(), asyncio.gather(*(model.queue.stats() for model in models))
        )
    except ServerOverloaded:
        return SharedFacts(is_queue_up=False, disk_bytes=disk_bytes)
    facts = {
        name: ModelFacts(own, [worker.rate_cost_per_s for worker in model.workers.alive])
        for (name, model), own in zip(gateway.models.items(), stats, strict=True)
    }
    return SharedFacts(is_queue_up=True, models=facts, memory_ratio=memory_ratio, disk_bytes=disk_bytes)


def _disk_bytes(folder: Path) -> dict[str, int]:
    """Size and free space of the disk that `folder` is on; empty where it is not there, since nothing is kept in it."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return {}
    return {"total": usage.total, "free": usage.free}
