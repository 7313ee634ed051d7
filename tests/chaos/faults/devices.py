"""Faults of what is drawn and of what draws it."""

from __future__ import annotations

import asyncio

from tests.chaos.device import KILLER, POISON
from tests.chaos.faults.fault import Fault, Outcome, Scene
from tests.chaos.stack import MAX_ATTEMPTS


async def poison(scene: Scene) -> Outcome:
    """4: a picture that breaks every forward, or kills every worker, that it is part of."""
    word = scene.rng.choice([POISON, KILLER])
    one = scene.extra("async", prompt=f"a {word} apple", key=None, timeout_s=120.0, num_steps=4)
    before = len(scene.record.lines)
    await scene.clients.visit(one)
    ends = [line for line in scene.record.lines[before:] if line["what"] == "ended" and line["request"] == one.number]
    outcome = Outcome(num_injected=len(ends))
    for end in ends:
        outcome.expect(end["state"] == "failed", f"a poisonous job ended as {end['state']}")
        known = await scene.stack.server.direct.hget(f"emmdit:{{tiny}}:job:{end['job']}", "failures")
        outcome.expect(known == str(MAX_ATTEMPTS), f"a poisonous job failed after {known} attempts")
    return outcome


async def out_of_memory(scene: Scene) -> Outcome:
    """5: a device with memory for one or two pictures at a time."""
    control = scene.stack.controls[scene.any_worker()]
    control.write(oom_pictures=scene.rng.choice([1, 2]))
    await asyncio.sleep(scene.rng.uniform(1.0, 4.0))
    control.write()
    return Outcome()


FAULTS: dict[int, Fault] = {4: poison, 5: out_of_memory}
