"""A program under cProfile from one signal to the next, so that its start-up is not in the figures.

    python -m benchmarks.profiled OUT MODULE ARGUMENTS...     BEGIN begins, END ends and writes OUT

Counts processor time of the main thread, not the clock's: waiting is free, and a busy machine changes little.
"""

from __future__ import annotations

import cProfile
import runpy
import signal
import sys
import time
from pathlib import Path

BEGIN, END = signal.SIGRTMIN, signal.SIGRTMIN + 1  # the service has a use of its own for the others


def main() -> None:
    """Arm the signals, become the module."""
    target = Path(sys.argv[1])
    profile = cProfile.Profile(time.thread_time)

    def end(*_: object) -> None:
        profile.disable()
        profile.dump_stats(target.with_suffix(".part"))
        target.with_suffix(".part").rename(target)

    signal.signal(BEGIN, lambda *_: profile.enable())
    signal.signal(END, end)
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
