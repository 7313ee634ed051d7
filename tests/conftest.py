import logging
import os
import sys
import threading
from pathlib import Path

# Tests run beside one another and beside whatever else the machine does: torch's threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from service.logs import LIBRARY_LEVELS, OUR_LOGGERS, JsonFormatter, TextFormatter
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


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Everything that a command's `start_logging` changes in the tests' own process, put back afterwards."""
    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in (*OUR_LOGGERS, *LIBRARY_LEVELS)]
    level, levels, hooks = root.level, [logger.level for logger in loggers], (sys.excepthook, threading.excepthook)
    yield
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks
    for handler in root.handlers[:]:
        if isinstance(handler.formatter, TextFormatter | JsonFormatter):
            root.removeHandler(handler)
    root.setLevel(level)
    for logger, before in zip(loggers, levels, strict=True):
        logger.setLevel(before)
