"""Which charged jobs have ended, on their way into the ledger.

Whoever waits for a job is answered first and it is settled a moment later. What gets lost here (a gateway that is
killed) is found again when its tenant reaches a limit: charging.py looks then.
"""

from __future__ import annotations

from collections import defaultdict

from service.errors import ServerOverloaded
from service.jobs import Job, JobState, JobStatus
from service.ledger import Ledger, Outcome
from service.quotas import Reservation

PERIOD_S = 0.2
MAX_WAITING = 10_000  # while the server is away; those beyond it are found again too


class Settlements:
    """One gateway's. `flush` is called every PERIOD_S."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._waiting: dict[str, dict[Job | Reservation, Outcome]] = defaultdict(dict)
        self._num_waiting = 0

    def note_end(self, job: Job, status: JobStatus | None) -> None:
        """A charged job has ended; None where it has vanished."""
        if self._num_waiting < MAX_WAITING:
            self._num_waiting += 1
            is_done = status is not None and status.state is JobState.DONE
            self._waiting[job.owner][job] = Outcome.DONE if is_done else Outcome.UNDONE

    async def flush(self) -> None:
        """Settle what has ended since. Raises ServerOverloaded, and keeps what it could not settle."""
        while self._waiting:
            tenant, outcomes = self._waiting.popitem()
            self._num_waiting -= len(outcomes)
            try:
                await self.ledger.settle(tenant, outcomes)
            except ServerOverloaded:
                self._waiting[tenant] = outcomes | self._waiting[tenant]
                self._num_waiting += len(outcomes)
                raise
