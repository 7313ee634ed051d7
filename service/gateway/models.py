"""GET /v1/models: what can be asked for here, and what it takes up where it is drawn."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.gateway.context import ServedModel, gateway_of
from service.gateway.schemas import ModelBody, ModelList, PartBody, WorkerBody
from service.settings import Settings

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """The served models, the default one first: sizes, defaults, limits, and whether a worker is ready for each."""
    gateway = gateway_of(request)
    bodies = [_body(model, gateway.settings) for model in gateway.models.values()]
    bodies[0].is_default = True
    return ModelList(data=bodies)


def _body(model: ServedModel, settings: Settings) -> ModelBody:
    card, alive = model.card, model.workers.alive
    return ModelBody(
        id=card.name,
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
