"""Faults of the queue's server, and of gateways."""

from __future__ import annotations

import asyncio
import signal

from tests.chaos.faults.fault import SUBMIT_LIMIT_S, Fault, Outcome, Scene


async def kill_gateway(scene: Scene) -> Outcome:
    """9: kill -9 while its clients wait."""
    scene.rng.choice(scene.stack.gateways).signal(signal.SIGKILL)
    return Outcome()


async def kill(scene: Scene) -> Outcome:
    """13: kill -9, some time without a server, and its start with what its file has."""
    outcome = Outcome()
    await scene.stack.server.kill()
    if scene.rng.random() < 0.7:
        await expect_refusal(scene, outcome)
        await asyncio.sleep(scene.rng.uniform(0.0, 3.0))
    await scene.stack.server.start()
    return outcome


async def freeze(scene: Scene) -> Outcome:
    """14: SIGSTOP, then SIGCONT: what was asked meanwhile arrives late."""
    outcome = Outcome()
    scene.stack.server.signal(signal.SIGSTOP)
    try:
        await expect_refusal(scene, outcome)
        await asyncio.sleep(scene.rng.choice([0.0, 0.5, 3.0, 8.0]))
    finally:
        scene.stack.server.signal(signal.SIGCONT)
    return outcome


async def fill_memory(scene: Scene) -> Outcome:
    """16: a memory limit below what is in use."""
    outcome = Outcome()
    direct = scene.stack.server.direct
    limit = (await direct.config_get("maxmemory"))["maxmemory"]
    used = (await direct.info("memory"))["used_memory"]
    await direct.config_set("maxmemory", int(used * scene.rng.choice([0.5, 0.9, 1.1])))
    try:
        await asyncio.sleep(1.5)
        await expect_refusal(scene, outcome)
        await asyncio.sleep(scene.rng.uniform(0.0, 2.0))
    finally:
        await direct.config_set("maxmemory", limit)
    return outcome


async def forget_scripts(scene: Scene) -> Outcome:
    """26: SCRIPT FLUSH."""
    await scene.stack.server.direct.script_flush()
    return Outcome()


async def expect_refusal(scene: Scene, outcome: Outcome) -> None:
    """A submit now is answered with 503 and Retry-After, in time."""
    response, took_s = await scene.submit_once()
    if response is None:
        return  # the gateway itself is down
    status = response.status_code
    outcome.expect(status == 503, f"a submit without a server that could take it was answered with {status}")
    outcome.expect("Retry-After" in response.headers, "a 503 without Retry-After")
    outcome.expect(took_s < SUBMIT_LIMIT_S, f"a refusal took {took_s:.1f} s")


FAULTS: dict[int, Fault] = {9: kill_gateway, 13: kill, 14: freeze, 16: fill_memory, 26: forget_scripts}
