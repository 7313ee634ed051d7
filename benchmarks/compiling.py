"""The engine as a worker has it after its first minutes: with a compiled network."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from model.compiled import compile_apart
from model.engine import Engine

COMPILED_DIR = Path("~/.cache/emmdit/compiled").expanduser()  # the service's own default


def adopt_compiled(engine: Engine) -> float:
    """Compile every size of `engine`, where that was not done before, and use it. Returns seconds.

    Raises CompileError where that can't be done here.
    """
    started_s = time.monotonic()
    for target in engine.compile_targets():
        package = compile_apart(target, COMPILED_DIR, threading.Event())
        engine.adopt(target, engine.load_compiled(package, target))
    return time.monotonic() - started_s
