"""How many rows a forward may have now: the worker's own number, or fewer after the device had no memory for it."""

from __future__ import annotations

LEAST_ROWS = 2  # one picture with guidance
GROWS_AFTER = 64  # full forwards without trouble: a device that is short of memory fails one in so many, at most
GROWTH_ROWS = 2


class RowLimit:
    """Falls at once, grows back slowly. `value` is the limit now."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._num_good = 0
        self.value = max_rows

    def lower_to(self, num_rows: int) -> None:
        """The device had memory for so many rows and not for twice as many."""
        self.value = max(min(self.value, num_rows), LEAST_ROWS)
        self._num_good = 0

    def note_success(self, num_rows: int) -> None:
        """A forward of so many rows went well. Only those that are about as large as allowed say anything."""
        if self.value == self._max_rows or num_rows < self.value - 1:
            return
        self._num_good += 1
        if self._num_good >= GROWS_AFTER:
            self.value = min(self.value + GROWTH_ROWS, self._max_rows)
            self._num_good = 0
