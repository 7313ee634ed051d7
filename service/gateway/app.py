"""The application: routes, the one error shape, and the loops that live as long as it does. Never imports torch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from model.config import ModelCard
from service.blobs import BlobStore
from service.errors import EmmditError
from service.gateway import (
    events,
    generate,
    health,
    job_list,
    jobs,
    models,
    openai_images,
    pictures,
    reference,
    webpage,
)
from service.gateway.auth import needs_keys
from service.gateway.background import repeat
from service.gateway.bells import Bells
from service.gateway.content_filter import content_filter_of
from service.gateway.context import Gateway, ServedModel
from service.gateway.envelope import Envelope
from service.gateway.keyring import Keyring
from service.gateway.openapi.document import Document
from service.gateway.provenance import signer_of
from service.gateway.reference import Reference
from service.gateway.refusals import RequestRefused, shorten
from service.gateway.responses import error_response
from service.gateway.settlements import PERIOD_S as SETTLE_PERIOD_S
from service.gateway.settlements import Settlements
from service.gateway.validation import Validator
from service.gateway.waiters import REREAD_PERIOD_S, Waiters
from service.gateway.workers import LOOK_PERIOD_S, WorkerWatch
from service.metrics import Metrics
from service.queues import Queues
from service.settings import Settings
from service.tracing import Tracing

ROUTERS: tuple[APIRouter, ...] = (
    generate.router,
    openai_images.router,
    job_list.router,
    jobs.router,
    events.router,
    pictures.router,
    models.router,
    health.router,
    reference.router,
    webpage.router,
)
REAP_PERIOD_S = 1.0


def create_app(
    settings: Settings,
    queues: Queues,
    blobs: BlobStore,
    metrics: Metrics,
    cards: Sequence[ModelCard],
    *,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application that serves the models of `cards`, the first by default. The caller closes queues and tracing.

    Raises ConfigurationError where filter or signer cannot be had.
    """
    grace_s = settings.no_worker_grace_s
    metrics.declare_outcomes([card.name for card in cards])
    settlements = Settlements(queues.ledger())
    gateway = Gateway(
        settings=settings,
        models={
            card.name: ServedModel(
                card, queues[card.name], WorkerWatch(queues[card.name], model=card.name, grace_s=grace_s)
            )
            for card in cards
        },
        queues=queues,
        blobs=blobs,
        metrics=metrics,
        validator=Validator({card.name: card for card in cards}, settings, content_filter_of(settings)),
        waiters=Waiters(queues, metrics, settlements, keep_s=settings.result_ttl_s),
        bells=Bells(queues.news()),
        keyring=Keyring(queues.tenants(), settings.tenant_quotas(), is_needed=needs_keys(settings)),
        settlements=settlements,
        signer=signer_of(settings),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loops = [asyncio.create_task(loop) for loop in _loops(gateway)]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    app = FastAPI(
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # the framework knows neither the models' limits nor what our errors look like: openapi/
        telemetry={"tracing": False, "metrics": False, "logs": False},  # unused, and asked for at every request
        exception_handlers={
            EmmditError: _on_our_error,
            HTTPException: _on_http_exception,
            RequestValidationError: _on_validation_error,
        },
    )
    app.state.gateway = gateway
    app.state.reference = Reference(Document(gateway.validator))
    app.add_middleware(Envelope, metrics=metrics, tracing=tracing)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _loops(gateway: Gateway) -> tuple[Coroutine[object, object, None], ...]:

    async def reap() -> None:
        report = await gateway.queues.reap()
        gateway.metrics.redeliveries.inc(report.requeued)

    async def look() -> None:
        await asyncio.gather(*(model.workers.look() for model in gateway.models.values()))

    async def sweep() -> None:
        await asyncio.to_thread(gateway.blobs.sweep)

    return (
        gateway.waiters.run(),
        gateway.bells.run(),
        repeat("reread", REREAD_PERIOD_S, gateway.waiters.reread),
        repeat("workers", LOOK_PERIOD_S, look),
        repeat("reap", REAP_PERIOD_S, reap),
        repeat("sweep", gateway.blobs.sweep_period_s, sweep),
        repeat("settle", SETTLE_PERIOD_S, gateway.settlements.flush),
    )


async def _on_our_error(request: Request, error: EmmditError) -> Response:
    return error_response(error, request.state.request_id)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """The framework's own refusals in our shape: unknown paths and wrong methods."""
    request_id = request.state.request_id
    if error.status_code == 404:
        return error_response(RequestRefused(404, "not_found", f"no route {shorten(request.url.path)}"), request_id)
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods_of(getattr(request.scope.get("route"), "path", ""))))
        message = f"method {shorten(request.method)} is not allowed here; allowed: {allowed}"
        refusal = RequestRefused(405, "method_not_allowed", message, headers={"Allow": allowed})
        return error_response(refusal, request_id)
    return error_response(RequestRefused(error.status_code, "http_error", str(error.detail)), request_id)


async def _on_validation_error(request: Request, _: RequestValidationError) -> Response:
    """No route leaves anything to the framework's validation; should one ever, the shape still holds."""
    return error_response(RequestRefused(400, "invalid_value", "the request is not valid"), request.state.request_id)


def _methods_of(template: str) -> set[str]:
    """Every method that some route takes at this path: the framework itself would name those of one route only."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return {method for route in routes if route.path == template for method in route.methods or ()}
