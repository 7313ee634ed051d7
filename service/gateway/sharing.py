"""Identical requests under way at one gateway share one generation: drawn once, answered many times.

Identical is what draws the same pictures for the same owner at the same priority: all of a job but its id, its time and
who looks on. Requests without a seed of their own never are. Why here and not in the queue, and what the second
request can lose: docs/decisions/sharing.md.
"""

from __future__ import annotations

import time
from dataclasses import fields
from operator import attrgetter
from typing import Any
from weakref import WeakValueDictionary

from service.gateway.waiters import Watch
from service.jobs import Job

MIN_TIME_SHARE = 0.75  # of the time that a request allows, which the job that it joins must still have; nor more
# Equal for two jobs that draw the same for the same owner.
_OTHERS = {"id", "inbox", "attempt", "timeout_s", "watch_level"}
_recipe_of = attrgetter(*(field.name for field in fields(Job) if field.compare and field.name not in _OTHERS))


class Sharing:
    """The generations under way that further requests may join. An entry keeps no watch, and goes with its own."""

    def __init__(self) -> None:
        self._under_way: WeakValueDictionary[tuple[Any, ...], Watch] = WeakValueDictionary()

    def offer(self, watch: Watch) -> None:
        """Let others join. The last one offered of several is the one that has most time left."""
        self._under_way[_recipe_of(watch.job)] = watch

    def join(self, job: Job, *, will_watch: bool) -> Watch | None:
        """A generation under way that will do for `job`, with one more who wants it.

        Who `will_watch` sees to it by himself that there is something to see; the others get what was asked for first.
        """
        watch = self._under_way.get(_recipe_of(job))
        if watch is None or watch.end.done():
            return None
        if job.watch_level > watch.job.watch_level and not will_watch:
            return None
        left_s = watch.deadline_at - time.monotonic()
        if not MIN_TIME_SHARE * job.timeout_s <= left_s <= job.timeout_s:
            return None
        watch.num_wanted += 1
        return watch

    def leave(self, watch: Watch) -> bool:
        """One who wanted it has gone. True for the last: nobody can join any more, and the job can be cancelled."""
        if watch.num_wanted > 1:
            watch.num_wanted -= 1
            return False
        self.withdraw(watch.job)
        return True

    def withdraw(self, job: Job) -> None:
        """Nobody joins this job any more: it is to be cancelled. It is any copy of the job."""
        recipe = _recipe_of(job)
        watch = self._under_way.get(recipe)
        if watch is not None and watch.job.id == job.id:
            del self._under_way[recipe]
