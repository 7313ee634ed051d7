"""The faults that want a service of their own, each as promised."""

import os
from importlib.util import find_spec

import pytest

from service.delivery import Delivery
from service.settings import Settings
from tests.chaos.names import NAMES
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.scenarios.clocks import find_faketime

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.timeout(300)]

# What is promised and not built yet; an entry whose scenario passes fails the test, so that none stays behind.
MISSING = {
    11: "readers have no deadline: write_timeout_s" if "write_timeout_s" not in Settings.model_fields else "",
    12: "heads have no deadline: header_timeout_s" if "header_timeout_s" not in Settings.model_fields else "",
    17: "a full disk costs jobs their attempts: service/worker.py" if not hasattr(Delivery, "can_store") else "",
    22: "redis+sentinel:// is no address yet" if find_spec("tests.support.redis_servers") is None else "",
}
WANTED = {
    17: [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")],
    23: [
        pytest.mark.system,
        pytest.mark.skipif(find_faketime() is None, reason="libfaketime is not installed"),
    ],
}


def scenario(number):
    marks = WANTED.get(number, [])
    if MISSING.get(number):
        marks = [*marks, pytest.mark.xfail(reason=MISSING[number], strict=True)]
    return pytest.param(number, id=f"{number} {NAMES[number]}", marks=marks)


@pytest.mark.parametrize("number", [scenario(number) for number in sorted(SCENARIOS)])
async def test_a_fault_has_the_outcome_that_is_promised(nurseries, number):
    row = await SCENARIOS[number](nurseries)
    assert row.num_injected
    assert not row.broken
