"""How loads are counted up from measured costs."""

import pytest

from benchmarks.growth import DEVICES, NUM_WORKERS, USABLE, load_of, most_workers, smallest
from benchmarks.queue_costs import HELD, Cost

CALLS = (
    "submit",
    "claim",
    "claim nothing",
    "status",
    "finish",
    "inbox, an event",
    f"heartbeat of {HELD} jobs",
    "reap, nothing due",
    "preview",
    "look at a watched job",
    *(f"workers {num}" for num in NUM_WORKERS),
)
COSTS = {name: Cost(10.0, 100.0, 50.0) for name in CALLS}


def test_a_job_costs_the_server_its_five_calls():
    load = load_of(COSTS, DEVICES[0], 10, share_watched=0.0)
    assert load.jobs_per_s == pytest.approx(188.3)
    assert load.share_us["jobs"] == pytest.approx(188.3 * 5 * 10)
    assert load.bytes_per_s == pytest.approx(load.calls_per_s * 150)


def test_watched_pictures_cost_more_and_dearer_looks_at_workers_do_too():
    dear = COSTS | {"workers 1000": Cost(10_000.0, 100.0, 400_000.0)}
    assert load_of(COSTS, DEVICES[0], 10, share_watched=0.5).cores > load_of(COSTS, DEVICES[0], 10).cores
    assert load_of(dear, DEVICES[0], 550).cores > load_of(COSTS, DEVICES[0], 550).cores


def test_the_most_workers_fill_the_usable_part_and_one_more_would_not_fit():
    num = most_workers(COSTS, DEVICES[0])
    assert load_of(COSTS, DEVICES[0], num).cores <= USABLE < load_of(COSTS, DEVICES[0], num + 1).cores


def test_of_each_call_the_round_that_was_disturbed_least_counts():
    rounds = [
        {"submit": Cost(9.0, 1, 1), "claim": Cost(5.0, 1, 1)},
        {"submit": Cost(7.0, 1, 1), "claim": Cost(6.0, 1, 1)},
    ]
    assert {name: cost.server_us for name, cost in smallest(rounds).items()} == {"submit": 7.0, "claim": 5.0}
