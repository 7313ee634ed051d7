"""LitServe: one worker process, its own dynamic batching, timeouts off."""

from __future__ import annotations

from typing import Any

import litserve
from fastapi import Response

from benchmarks.peers.drawing import PeerSettings, open_drawer


class DrawingAPI(litserve.LitAPI):
    """Bodies in, PNGs out."""

    def setup(self, device: str) -> None:
        """Load, in the worker process."""
        self.drawer = open_drawer(PeerSettings.from_environment())

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A batch is the list itself."""
        return list(inputs)

    def predict(self, bodies: list[dict[str, Any]]) -> list[bytes]:
        """Draw one batch."""
        return self.drawer.draw(bodies)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """One PNG for each request."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """As the service answers."""
        return Response(output, media_type="image/png")


if __name__ == "__main__":
    settings = PeerSettings.from_environment()
    api = DrawingAPI(max_batch_size=settings.batch_size, batch_timeout=settings.wait_s, api_path="/v1/generate")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=settings.port, num_api_servers=1, generate_client_file=False, log_level="warning")
