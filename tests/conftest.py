import os

# Tests run beside one another and beside whatever else the machine does: torch's threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.support.server import embedded_server, queue, raw, redis_url

__all__ = ["embedded_server", "queue", "raw", "redis_url"]


@pytest.fixture
def anyio_backend():
    return "asyncio"
