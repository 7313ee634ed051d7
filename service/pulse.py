"""When a worker last got on with its pictures, turned its loop, and was heard by the queue; what follows from that."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from service.probes import WorkerHealth


@dataclass(slots=True)
class Pulse:
    """Times are on the monotonic clock. The event loop writes them; `health` may be asked by any thread."""

    stall_limit_s: float
    lease_s: float
    progress_at_s: float = field(default_factory=time.monotonic, init=False)
    heard_at_s: float = field(default_factory=time.monotonic, init=False)
    beat_at_s: float = field(default_factory=time.monotonic, init=False)  # when a heartbeat was last tried
    was_heard: bool = field(default=False, init=False)

    def begin(self) -> None:
        """The worker starts now, however long ago this was made."""
        self.progress_at_s = self.heard_at_s = self.beat_at_s = time.monotonic()

    def note_progress(self) -> None:
        """A piece of work is done, or the first one begins."""
        self.progress_at_s = time.monotonic()

    def note_beat(self) -> None:
        """The loop turns: a heartbeat is on its way."""
        self.beat_at_s = time.monotonic()

    def note_heard(self) -> None:
        """The queue has taken the heartbeat that was tried last."""
        self.heard_at_s, self.was_heard = self.beat_at_s, True

    def is_stalled(self, *, is_busy: bool) -> bool:
        """Whether the device hangs, as far as can be told."""
        return is_busy and time.monotonic() - self.progress_at_s > self.stall_limit_s

    def is_cut_off(self) -> bool:
        """Whether the queue has not heard from this worker for longer than its jobs' lease."""
        return time.monotonic() - self.heard_at_s > self.lease_s

    def health(self, *, is_busy: bool, is_stopping: bool) -> WorkerHealth:
        """What probes are told."""
        stuck = None
        if (silent_s := time.monotonic() - self.beat_at_s) > self.stall_limit_s:
            stuck = f"the event loop has stood still for {silent_s:.0f} s"
        elif self.is_stalled(is_busy=is_busy):
            stuck = f"no step advanced for {self.stall_limit_s:.0f} s"
        idle = None
        if is_stopping:
            idle = "this worker is stopping"
        elif not self.was_heard or self.is_cut_off():
            idle = "the queue has not been reached"
        return WorkerHealth(stuck, idle)
