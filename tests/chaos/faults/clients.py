"""Faults of clients, and of what they are sent."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

from tests.chaos.faults.fault import Fault, Outcome, Scene
from tests.chaos.look import KEYS
from tests.chaos.stack import LEASE_S

NUM_TOGETHER = 5


async def hang_up(scene: Scene) -> Outcome:
    """10: several clients that wait go away."""
    wanted = [scene.extra("hang_up", delay_s=scene.rng.uniform(0.0, 0.6), num_steps=12) for _ in range(NUM_TOGETHER)]
    before = len(scene.record.lines)
    await asyncio.gather(*(scene.clients.visit(one) for one in wanted))
    return Outcome(num_injected=sum(1 for line in scene.record.lines[before:] if line["what"] == "hung_up"))


async def race_cancels(scene: Scene) -> Outcome:
    """24: several jobs are cancelled at about the time of their end."""
    wanted = [scene.extra("cancel", delay_s=scene.rng.uniform(0.0, 0.5), num_steps=3) for _ in range(NUM_TOGETHER)]
    await asyncio.gather(*(scene.clients.visit(one) for one in wanted))
    return Outcome(num_injected=NUM_TOGETHER)


async def miss_deadlines(scene: Scene) -> Outcome:
    """25: all workers stand still for a moment that is longer than some deadlines."""
    wanted = [scene.extra("short", timeout_s=scene.rng.uniform(0.3, 1.0), num_steps=2) for _ in range(NUM_TOGETHER)]
    before = len(scene.record.lines)
    for part in scene.stack.workers:
        part.signal(signal.SIGSTOP)
    try:
        visits = [asyncio.create_task(scene.clients.visit(one)) for one in wanted]
        await asyncio.sleep(LEASE_S / 2)
    finally:
        for part in scene.stack.workers:
            part.signal(signal.SIGCONT)
    await asyncio.gather(*visits)
    ends = [line for line in scene.record.lines[before:] if line["what"] == "ended" and line["state"] == "expired"]
    own = {one.number for one in wanted}
    return Outcome(num_injected=sum(1 for line in ends if line["request"] in own))


async def corrupt_blob(scene: Scene) -> Outcome:
    """28: a stored picture that somebody has already got is damaged for a while."""
    seen = list(scene.record.of("picture"))[-50:]
    line = scene.rng.choice(seen) if seen else {}
    path = await _stored(scene, line["job"], line["index"]) if line else None
    if path is None:
        return Outcome(num_injected=0)
    whole = path.read_bytes()
    place = scene.rng.randrange(len(whole))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    outcome = Outcome()
    try:
        response = await scene.clients.get_once(line["request"], f"/v1/jobs/{line['job']}/images/{line['index']}")
        if response is None or response.status_code == 503:
            outcome.num_injected = 0
        else:
            code = response.json()["error"]["code"] if response.status_code != 200 else ""
            is_honest = (response.status_code, code) == (500, "image_corrupt")
            outcome.expect(is_honest, f"a damaged picture was answered with {response.status_code} {code}")
    finally:
        path.write_bytes(whole)
    return outcome


async def _stored(scene: Scene, job: str, index: int) -> Path | None:
    """The file of the attempt that counts, since others may have left theirs; None while the job is not done."""
    result = json.loads(await scene.stack.server.direct.hget(KEYS.job(job), "result") or "{}")
    images = result.get("images", ())
    return scene.stack.images / str(images[index]["blob"]) if images else None


FAULTS: dict[int, Fault] = {10: hang_up, 24: race_cancels, 25: miss_deadlines, 28: corrupt_blob}
