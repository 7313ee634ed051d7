"""GET /v1/models: what can be asked for here."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.gateway.context import gateway_of
from service.gateway.schemas import ModelBody, ModelList

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """The served model: sizes, defaults, limits, and whether a worker is ready for it."""
    gateway = gateway_of(request)
    card, settings = gateway.card, gateway.settings
    return ModelList(
        data=[
            ModelBody(
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
                num_workers=len(gateway.workers.alive),
                is_ready=bool(gateway.workers.alive),
            )
        ]
    )
