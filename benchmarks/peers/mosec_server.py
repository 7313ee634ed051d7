"""mosec: its Rust front, one worker process, its own dynamic batching."""

from __future__ import annotations

import os
from typing import Any

import mosec

from benchmarks.peers.drawing import PeerSettings, open_drawer

TIMEOUT_MS = 3_600_000


class DrawingWorker(mosec.Worker):
    """Bodies in, PNGs out."""

    resp_mime_type = "image/png"

    def __init__(self) -> None:
        super().__init__()
        self.drawer = open_drawer(PeerSettings.from_environment())

    def forward(self, data: list[dict[str, Any]]) -> list[bytes]:
        """Draw one batch."""
        return self.drawer.draw(data)

    def serialize(self, data: bytes) -> bytes:
        """A PNG is bytes already."""
        return data


if __name__ == "__main__":
    settings = PeerSettings.from_environment()
    os.environ |= {
        "MOSEC_ADDRESS": "127.0.0.1",
        "MOSEC_PORT": str(settings.port),
        "MOSEC_TIMEOUT": str(TIMEOUT_MS),
        "MOSEC_LOG_LEVEL": "warning",
    }
    server = mosec.Server()
    server.append_worker(
        DrawingWorker,
        num=1,
        max_batch_size=settings.batch_size,
        max_wait_time=max(1, round(settings.wait_s * 1000)),
        timeout=TIMEOUT_MS // 1000,
        route="/v1/generate",
    )
    server.run()
