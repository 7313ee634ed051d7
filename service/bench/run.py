"""One measurement against one address: look at its batches, send the load, look again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from service.bench.batches import Counts, batches_between, read_counts
from service.bench.load import Outcome, offers_previews, run_load
from service.bench.plan import PlannedRequest
from service.bench.report import LoadReport, summarize
from service.client.clients import key_headers

ASK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it. `has_previews` is whether previews were asked for and offered."""

    outcomes: list[Outcome]
    report: LoadReport
    has_previews: bool


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a service says of its model."""

    name: str
    version: str
    example_prompts: tuple[str, ...]


def served_model(url: str, api_key: str | None = None) -> ServedModel:
    """The first of GET /v1/models. Raises ValueError where nothing like this service answers at `url`."""
    try:
        headers = key_headers(api_key)
        model = (
            httpx.get(f"{url}/v1/models", headers=headers, timeout=ASK_TIMEOUT_S).raise_for_status().json()["data"][0]
        )
        return ServedModel(str(model["id"]), str(model["version"]), tuple(model["example_prompts"]))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{url} does not answer as this service does ({error or type(error).__name__})") from error


async def measure(
    url: str,
    planned: Sequence[PlannedRequest],
    *,
    objective_s: float,
    timeout_s: float,
    wants_previews: bool = False,
    api_key: str | None = None,
) -> Run:
    """Send `planned` to any server that takes POST /v1/generate; batches are told where it has our metrics."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = key_headers(api_key)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=timeout_s) as client:
        has_previews = wants_previews and await offers_previews(client)
        before = await _counts(client)
        outcomes = await run_load(client, planned, timeout_s=timeout_s, with_previews=has_previews)
        batches = batches_between(before, await _counts(client))
    return Run(outcomes, summarize(outcomes, objective_s=objective_s, batches=batches), has_previews)


async def _counts(client: httpx.AsyncClient) -> Counts:
    try:
        response = await client.get("/metrics", timeout=ASK_TIMEOUT_S)
        return read_counts(response.text) if response.is_success else {}
    except (httpx.HTTPError, ValueError):
        return {}  # a server without such a page is measured all the same
