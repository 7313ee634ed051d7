"""What the shell offers after --model: the models on this machine or, with --url, the server's."""

from __future__ import annotations

import os

import typer

ASK_S = 1.0  # somebody holds the tab key


def complete_models(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Names and descriptions that begin with what is typed. Offers nothing rather than an error."""
    url = context.params.get("url")
    found = _served_models(url) if isinstance(url, str) else _models_here()
    return [(name, help_text) for name, help_text in found if name.startswith(incomplete)]


def _models_here() -> list[tuple[str, str]]:
    from model.catalog import list_models
    from service.errors import ConfigurationError
    from service.settings import load_settings

    try:
        statuses = list_models(load_settings().models_dir)
    except ConfigurationError:
        return []
    return [(status.card.name, status.card.description) for status in statuses if status.is_ready]


def _served_models(url: str) -> list[tuple[str, str]]:
    import httpx

    from service.cli.remote import KEY_VARIABLE

    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{url.rstrip('/')}/v1/models", headers=headers, timeout=ASK_S).json()
        return [(str(model["id"]), str(model["description"])) for model in answer["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError):
        return []
