"""Faults of the worker's process."""

from __future__ import annotations

import asyncio
import signal

from tests.chaos.faults.fault import CROWDED_S, RERUN_S, Fault, Outcome, Scene
from tests.chaos.stack import LEASE_S, SETTINGS, STALL_LIMIT_S


async def kill(scene: Scene) -> Outcome:
    """1: kill -9."""
    index = scene.any_worker()
    scene.stack.workers[index].signal(signal.SIGKILL)
    return Outcome(victim=index, promised_s=RERUN_S)


async def kill_before_finish(scene: Scene) -> Outcome:
    """2: killed between the blob and the finish."""
    index = scene.any_worker()
    part, control = scene.stack.workers[index], scene.stack.controls[index]
    num_ends = len(part.exit_statuses)
    control.write(die_before_finish=True)
    try:
        await part.ended(num_ends + 1, 10.0)
    except TimeoutError:  # nothing was finished there: the fault did not happen
        control.write()
        return Outcome(num_injected=0)
    return Outcome(victim=index, promised_s=RERUN_S)


async def stop_past_lease(scene: Scene) -> Outcome:
    """3: SIGSTOP for longer than a lease, then SIGCONT."""
    index = scene.any_worker()
    part = scene.stack.workers[index]
    part.signal(signal.SIGSTOP)
    await asyncio.sleep(LEASE_S + scene.rng.uniform(0.5, 2.0))
    part.signal(signal.SIGCONT)
    return Outcome(victim=index, promised_s=RERUN_S)


async def hang(scene: Scene) -> Outcome:
    """6: a forward that never returns; the watchdog ends the process."""
    index = scene.any_worker()
    part, control = scene.stack.workers[index], scene.stack.controls[index]
    num_ends = len(part.exit_statuses)
    control.write(hang=True)
    outcome = Outcome(victim=index, promised_s=RERUN_S)
    try:
        await part.ended(num_ends + 1, 10.0 + STALL_LIMIT_S + CROWDED_S)
    except TimeoutError:
        is_hanging = not control.read().get("hang")
        control.write()
        outcome.num_injected = int(is_hanging)
        outcome.expect(not is_hanging, "the watchdog did not end a worker whose device hangs")
        if is_hanging:
            part.signal(signal.SIGKILL)
        return outcome
    outcome.expect(part.exit_statuses[num_ends] == 70, f"the watchdog's exit status was {part.exit_statuses[num_ends]}")
    return outcome


async def terminate(scene: Scene) -> Outcome:
    """7: SIGTERM: the worker finishes or gives back, and ends by itself."""
    index = scene.any_worker()
    part = scene.stack.workers[index]
    num_ends = len(part.exit_statuses)
    outcome = Outcome(victim=index)
    if not part.signal(signal.SIGTERM):
        return Outcome(num_injected=0)
    drain_s = float(str(SETTINGS["drain_timeout_s"]))
    try:
        await part.ended(num_ends + 1, 2 * drain_s + 10.0)
    except TimeoutError:
        outcome.expect(False, "a worker did not end after SIGTERM")
        return outcome
    status = part.exit_statuses[num_ends]
    # A worker that is told to stop while it still loads has no handler yet, and ends by the signal itself.
    outcome.expect(status in (0, -signal.SIGTERM), f"a worker's exit status after SIGTERM was {status}")
    return outcome


FAULTS: dict[int, Fault] = {1: kill, 2: kill_before_finish, 3: stop_past_lease, 6: hang, 7: terminate}
