"""Load and faults by seed against the real service: the short run. The long one is in docs/chaos.md."""

import pytest

from tests.chaos.report import num_violations, summary, table
from tests.chaos.run import random_run

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.timeout(600)]

NUM_JOBS, NUM_FAULTS = 1000, 19


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_promised_is_broken_by_a_thousand_jobs_and_every_fault_once(nurseries, seed):
    result = await random_run(nurseries, seed=seed, num_jobs=NUM_JOBS, num_faults=NUM_FAULTS, num_drawn_anew=200)
    found = summary([result], {}, commit="this")
    print(table(found))
    assert result.num_jobs >= NUM_JOBS
    assert num_violations(found) == 0, table(found) + result.logs[-20_000:]
