import subprocess
import sys

import pytest

from model.own_thread import in_own_thread

HELPERS_LEFT = """
import time
import psutil, torch
from model.own_thread import in_own_thread

torch.set_num_threads(4)
before = psutil.Process().num_threads()
in_own_thread(lambda: torch.ones(1024, 1024).sin())
deadline_s = time.monotonic() + 20  # they are told to end, and not waited for
while (apart := psutil.Process().num_threads() - before) and time.monotonic() < deadline_s:
    time.sleep(0.01)
torch.ones(1024, 1024).sin()
here = psutil.Process().num_threads() - before
print(apart, here)
"""


def test_what_it_returns_and_raises_is_the_callers():
    assert in_own_thread(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        in_own_thread(lambda: 1 / 0)


def test_threads_that_helped_to_compute_end_with_it():
    """And stay where they are not made to: were torch to change that, this module would be for nothing."""
    done = subprocess.run([sys.executable, "-c", HELPERS_LEFT], capture_output=True, text=True, check=True)
    apart, here = map(int, done.stdout.split())
    assert apart == 0
    assert here >= 3
