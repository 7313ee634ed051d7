"""Compiles a worker's networks while it draws already, and hands each one over when it is there.

Nothing waits for it: a worker is ready with the networks as they are, a failure leaves them in place and is told in the
log, and the next start finds what this one compiled.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from model.compiled import CompileError, compile_apart
from model.engine import Engine
from model.own_thread import in_own_thread
from service.metrics import WorkerGauges

logger = logging.getLogger(__name__)


async def warm_compiled_networks(engines: Sequence[Engine], cache_dir: Path, gauges: WorkerGauges) -> None:
    """Compile and adopt for every size of every engine, one after the other. Cancelling it ends the compiler."""
    for engine in engines:
        for target in engine.compile_targets():
            size = f"{engine.card.name}, latents of {target.height}x{target.width}"
            started_s = time.monotonic()
            is_cancelled = threading.Event()
            try:
                path = await asyncio.to_thread(compile_apart, target, cache_dir, is_cancelled)
                load = partial(engine.load_compiled, path, target)
                forward = await asyncio.to_thread(in_own_thread, load)
            except CompileError as error:
                logger.warning("%s: drawn with the network as it is: %s", size, error)
                gauges.failed_compilations.inc()
                continue
            finally:
                is_cancelled.set()
            engine.adopt(target, forward)
            gauges.compiled_networks.inc()
            logger.info("%s: drawn with a compiled network, ready after %.1f s", size, time.monotonic() - started_s)
