"""A thread for work that must leave no helpers behind.

The CPU library that torch's operations share their work with (GNU OpenMP) keeps helper threads for every thread that
ever used it, and once there are more of all these than processors, its helpers sleep at each of the hundreds of
barriers of a forward instead of waiting awake for microseconds: a batch then takes twice as long. They go with the
thread they belong to. So in a process that draws, one thread computes, and everything else that computes ends here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_own_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises, done in a thread that has ended when this returns."""
    with ThreadPoolExecutor(1, "apart") as thread:
        return thread.submit(work).result()
