"""What the clients saw, in order and in their own words: the evidence that the checks start from.

Nothing in it comes from the service's own books. One line each: the time in seconds since the beginning, what
happened, and to which request (a number) or job (an id).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Record:
    """Lines in memory and, with a path, in a file of JSON lines as well. Only ever added to.

    What is written:
    sent        request, kind, params, n, timeout_s, key         a request goes out (again: the same key)
    refused     request, status, code, retry_after, took_s      and does not become a job
    broken      request                                         nobody knows whether it became one
    accepted    request, job, took_s                            the service has said that it is one
    ended       job, state, code, by                            a client was told the job's end
    picture     job, request, index, pixels                     a client got it; a hash of its pixels
    cancelling  job                                             a client asked for the job's end
    hung_up     request, job                                    a waiting client left
    gone        job, status                                     an accepted job is said not to exist
    hung        request, job, after_s                           no answer within any bound
    wrong       request, job, why                               an answer that must not be
    intruded    request, job, why                               another tenant got at it
    told_twice  job, event                                      an event stream repeated itself
    fault       name, seconds                                   what was done to the service
    """

    def __init__(self, path: Path | None = None) -> None:
        self.lines: list[Line] = []
        self._began_s = time.monotonic()
        self._file = path.open("w") if path else None

    def now_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began_s

    def add(self, what: str, **values: Any) -> None:
        """One more line."""
        line = {"t": round(self.now_s(), 4), "what": what, **values}
        self.lines.append(line)
        if self._file:
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """The file is whole from here on."""
        if self._file:
            self._file.close()

    def of(self, *kinds: str) -> Iterator[Line]:
        """The lines of these kinds, in order."""
        return (line for line in self.lines if line["what"] in kinds)

    def count(self, *kinds: str) -> int:
        """How many there are."""
        return sum(1 for _ in self.of(*kinds))
