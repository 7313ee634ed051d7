"""Faults of the wires between a part and the server."""

from __future__ import annotations

import asyncio

from service.scripts import load_scripts
from tests.chaos.faults.fault import RERUN_S, Fault, Outcome, Scene, until
from tests.chaos.proxy import Wire

DIRECTIONS = (("requests", "replies"), ("replies",), ("requests",))


async def partition(scene: Scene) -> Outcome:
    """19: one part and the server do not hear each other, or only one the other, for longer than a lease."""
    name = scene.rng.choice(list(scene.stack.wires))
    wire = scene.stack.wires[name]
    if scene.rng.random() < 0.3:
        wire.cut()
    else:
        wire.silence(*scene.rng.choice(DIRECTIONS))
    await asyncio.sleep(RERUN_S + scene.rng.uniform(0.2, 2.0))
    wire.heal()
    victim = int(name.partition("-")[2]) if name.startswith("worker") else None
    return Outcome(victim=victim, promised_s=RERUN_S)


async def lose_claim(scene: Scene) -> Outcome:
    """20: the server hands jobs out and the worker never hears of it."""
    name = f"worker-{scene.any_worker()}"
    return await _lose_reply(scene.stack.wires[name], "claim")


async def lose_submit(scene: Scene) -> Outcome:
    """21: the server accepts a job and the gateway does not hear of it at first."""
    name = f"gateway-{scene.rng.randrange(len(scene.stack.gateways))}"
    return await _lose_reply(scene.stack.wires[name], "submit")


async def _lose_reply(wire: Wire, script: str) -> Outcome:
    before = wire.num_replies_lost
    wire.lose_reply_to(load_scripts()[script].sha1.encode())
    await until(lambda: wire.num_replies_lost > before, 10.0)
    wire.heal()
    return Outcome(num_injected=wire.num_replies_lost - before)


FAULTS: dict[int, Fault] = {19: partition, 20: lose_claim, 21: lose_submit}
