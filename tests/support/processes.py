"""Programs that start processes of their own, run so that none of them stays behind."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

# Each on one thread: they run beside one another.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run_all(command: Sequence[str], timeout_s: float) -> None:
    """Run a launcher to its end. Raises AssertionError with what it said where it fails."""
    with subprocess.Popen(
        command,
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as launcher:
        try:
            output, _ = launcher.communicate(timeout=timeout_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
    assert launcher.returncode == 0, output
