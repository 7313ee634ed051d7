"""What a worker's device is told to do wrong: one small JSON file, read by device.py, written by faults."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Control:
    """The orders in one small JSON file, which may be missing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        """The orders as they are now."""
        try:
            return dict(json.loads(self._path.read_text()))
        except FileNotFoundError:
            return {}

    def write(self, **orders: Any) -> None:
        """Replace the orders, at once for whoever reads."""
        temporary = self._path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(orders))
        temporary.replace(self._path)

    def remove(self, name: str) -> None:
        """Take one order back."""
        self.write(**{key: value for key, value in self.read().items() if key != name})
