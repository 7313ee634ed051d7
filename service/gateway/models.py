"""GET /v1/models and /v1/models/{model}: what can be asked for here, and what it takes up where it is drawn."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from service.errors import UnknownModel
from service.gateway.auth import owner_of
from service.gateway.context import Gateway, ServedModel, gateway_of
from service.gateway.refusals import shorten
from service.gateway.schemas import ModelBody, ModelList, PartBody, WorkerBody

router = APIRouter()


@router.get("/v1/models", dependencies=[Depends(owner_of)])
async def list_models(request: Request) -> ModelList:
    """The served models, the default one first: sizes, defaults, limits, and whether a worker is ready for each."""
    gateway = gateway_of(request)
    return ModelList(data=[_body(gateway, model) for model in gateway.models.values()])


@router.get("/v1/models/{model}", dependencies=[Depends(owner_of)])
async def get_model(request: Request, model: str) -> ModelBody:
    """One of the served models, as the list has it."""
    gateway = gateway_of(request)
    if model not in gateway.models:
        raise UnknownModel(f"model: {shorten(model)} is not served here; allowed: {', '.join(gateway.models)}")
    return _body(gateway, gateway.models[model])


def _body(gateway: Gateway, model: ServedModel) -> ModelBody:
    card, alive, settings = model.card, model.workers.alive, gateway.settings
    return ModelBody(
        id=card.name,
        created=gateway.started_at,
        is_default=card.name == next(iter(gateway.models)),
        description=card.description,
        version=card.version,
        license=card.license,
        sizes=list(card.sizes),
        default_size=card.sizes[0],
        default_num_inference_steps=card.default_steps,
        max_num_inference_steps=card.max_steps,
        default_guidance_scale=card.default_guidance,
        max_guidance_scale=card.max_guidance,
        max_n=settings.max_images,
        max_prompt_chars=settings.max_prompt_chars,
        vocabulary=None if card.vocabulary is None else list(card.vocabulary),
        example_prompts=list(card.example_prompts),
        content_filter=gateway.content_filter,
        provenance=gateway.provenance,
        num_workers=len(alive),
        is_ready=bool(alive),
        workers=[
            WorkerBody(
                id=worker.id,
                device=worker.device,
                version=worker.version,
                models=worker.models,
                memory=[
                    PartBody(part=part, num_bytes=num_bytes, shared_with=worker.shared_with.get(part, []))
                    for part, num_bytes in worker.memory.items()
                ],
            )
            for worker in alive
        ],
    )
