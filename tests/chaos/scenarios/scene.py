"""What scenarios have in common: requests that one line sends, and conditions to wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

from tests.chaos.run import Row
from tests.chaos.stack import Nurseries, Stack

T = TypeVar("T")
PATIENCE_S = 40.0


@asynccontextmanager
async def served(nurseries: Nurseries, **options: Any) -> AsyncIterator[tuple[Stack, httpx.AsyncClient]]:
    """A stack of one gateway and one worker, unless told otherwise, and a client of its first gateway."""
    counts = {"num_gateways": 1, "num_workers": 1}
    async with (
        Stack(nurseries, **{**counts, **options}) as stack,
        httpx.AsyncClient(base_url=stack.urls[0], timeout=PATIENCE_S) as client,
    ):
        yield stack, client


def body(seed: int = 1, **fields: Any) -> dict[str, Any]:
    """A request of two steps."""
    return {"prompt": f"picture {seed}", "seed": seed, "num_inference_steps": 2, **fields}


async def submit(client: httpx.AsyncClient, **fields: Any) -> str:
    """An accepted job's id."""
    response = await client.post("/v1/generate", json=body(**fields), headers={"Prefer": "respond-async"})
    response.raise_for_status()
    return str(response.json()["id"])


async def state_of(client: httpx.AsyncClient, job: str) -> str:
    """The job's state; the status where it is no 200."""
    response = await client.get(f"/v1/jobs/{job}")
    return str(response.json()["state"]) if response.status_code == 200 else str(response.status_code)


async def ended(client: httpx.AsyncClient, job: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """The job as it is shown at its end."""

    async def shown() -> dict[str, Any] | None:
        response = await client.get(f"/v1/jobs/{job}")
        found: dict[str, Any] = response.json() if response.status_code == 200 else {}
        return found if found.get("state") in ("done", "failed", "cancelled", "expired") else None

    return await eventually(shown, patience_s)


async def draws(client: httpx.AsyncClient, seed: int = 999) -> bool:
    """Whether a picture can be had now."""
    try:
        response = await client.post("/v1/generate", json=body(seed), headers={"Accept": "image/png"})
    except httpx.HTTPError:
        return False
    return response.status_code == 200


async def eventually(condition: Callable[[], Awaitable[T | None]], patience_s: float = PATIENCE_S) -> T:
    """Poll until the condition gives something true. Raises TimeoutError."""
    deadline = time.monotonic() + patience_s
    while not (outcome := await condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not true after {patience_s:.0f} s: {condition.__qualname__}")
        await asyncio.sleep(0.05)
    return outcome


async def recovered(client: httpx.AsyncClient, row: Row, patience_s: float = PATIENCE_S) -> None:
    """Note how long it takes from now to a picture."""
    began_s = time.monotonic()
    await eventually(lambda: draws(client, seed=int(began_s * 1000) % 2**31), patience_s)
    row.recovery_s.append(time.monotonic() - began_s)


def expect(row: Row, is_so: bool, sentence: str) -> None:
    """Note the sentence unless it is so."""
    if not is_so:
        row.broken.append(sentence)
