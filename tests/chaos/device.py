"""A worker as `emmdit worker` starts it, on a device that can be told to fail: `python -m tests.chaos.device worker`.

Only the engine and the last step of a delivery are wrapped; command line, worker, queue and blobs are the real ones.
What is to go wrong is read from the file CHAOS_CONTROL before every forward: {"oom_pictures": 2} is a device with
memory for so many pictures, {"hang": true} hangs at the next forward, {"die_before_finish": true} kills the process
once a picture is stored and before its job's end is written. The last two happen once. CHAOS_STEP_S slows every
forward. A prompt with the word POISON breaks its forward; one with the word KILLER takes the process along.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model import loading
from service.cli import app
from service.delivery import Delivery
from tests.chaos.control import Control

POISON, KILLER = "poison", "killer"
FOREVER_S = 3600.0

_load_engines = loading.load_engines
_finish = Delivery.finish


class FailingEngine:
    """An engine on a device with faults."""

    def __init__(self, engine: Any, control: Control, step_s: float) -> None:
        self._engine = engine
        self._control = control
        self._step_s = step_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self, samples: Sequence[Any]) -> None:
        if self._step_s:
            time.sleep(self._step_s)
        orders = self._control.read()
        if orders.get("hang"):
            self._control.remove("hang")
            time.sleep(FOREVER_S)
        if len(samples) > orders.get("oom_pictures", len(samples)):
            raise torch.OutOfMemoryError(f"no memory for {len(samples)} pictures on a device that was told so")
        if any(KILLER in sample.prompt for sample in samples):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(POISON in sample.prompt for sample in samples):
            raise RuntimeError("device-side assert")
        self._engine.step(samples)


def main() -> None:
    """Install the faults, then be `emmdit`."""
    control = Control(Path(os.environ["CHAOS_CONTROL"]))
    step_s = float(os.environ.get("CHAOS_STEP_S", "0"))

    def load_engines(*arguments: Any, **options: Any) -> loading.LoadedEngines:
        loaded = _load_engines(*arguments, **options)
        engines = {name: FailingEngine(engine, control, step_s) for name, engine in loaded.engines.items()}
        return loading.LoadedEngines(engines, loaded.memory, loaded.phases_s)

    async def finish(self: Delivery, *arguments: Any) -> Any:
        if control.read().get("die_before_finish"):
            control.remove("die_before_finish")
            os.kill(os.getpid(), signal.SIGKILL)
        return await _finish(self, *arguments)

    loading.load_engines = load_engines
    Delivery.finish = finish
    app.main()


if __name__ == "__main__":
    main()
