import os
from pathlib import Path

# Tests run beside one another and beside whatever else the machine does: torch's threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.support.server import embedded_server, queue, raw, redis_url, service_url

__all__ = ["embedded_server", "queue", "raw", "redis_url", "service_url"]


def pytest_addoption(parser):
    parser.addoption(
        "--redis-server", metavar="PATH", help="the server to test against, in place of the one that is found"
    )


@pytest.fixture(scope="session", autouse=True)
def chosen_server(request, tmp_path_factory):
    """Puts the server of --redis-server first on the PATH, where the service looks for one."""
    path = request.config.getoption("--redis-server")
    if path is None:
        yield
        return
    folder = tmp_path_factory.mktemp("chosen")
    (folder / "valkey-server").symlink_to(Path(path).resolve(strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield


@pytest.fixture
def anyio_backend():
    return "asyncio"
