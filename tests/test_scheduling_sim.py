"""The simulation behind docs/scheduling.md: it must serve both ways alike before their figures are compared."""

from statistics import fmean

import pytest

from benchmarks.scheduling import jain, percentile
from benchmarks.scheduling_sim import Machine, by_requests, by_steps, make_trace, simulate
from service.estimates import Line

MACHINE = Machine(
    steps={512: Line(0.02, 0.001), 1024: Line(0.02, 0.003)},
    decodes={512: Line(0.01, 0.01), 1024: Line(0.01, 0.04)},
    text=Line(0.01, 0.001),
)
TRACE = make_trace(MACHINE, 60, load=0.9, max_rows=8, seed=5)
WAYS = {
    "steps": by_steps(8, 24),
    "same steps": by_requests(8, same_steps=True),
    "any steps": by_requests(8, same_steps=False),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_request_is_served_once_after_it_came_and_the_run_can_be_repeated(way):
    run = simulate(WAYS[way], MACHINE, TRACE, seed=1)
    assert sorted(map(id, TRACE)) == sorted(id(picture.request) for picture in run.pictures)
    for picture in run.pictures:
        assert picture.steps_left == 0
        assert picture.done_at_s > picture.request.at_s
    assert simulate(WAYS[way], MACHINE, TRACE, seed=1) == run
    assert run.num_rows == sum(request.num_steps * request.num_rows for request in TRACE)


def test_short_requests_wait_less_where_pictures_can_pause():
    def mean_s(way):
        pictures = simulate(WAYS[way], MACHINE, TRACE, seed=1).pictures
        return fmean(p.done_at_s - p.request.at_s for p in pictures if p.request.num_steps == 4)

    assert mean_s("steps") < mean_s("same steps")
    assert mean_s("steps") < mean_s("any steps")


def test_percentiles_and_jains_index():
    assert [percentile([3.0, 1.0, 2.0, 4.0], percent) for percent in (50, 95, 99)] == [2.0, 4.0, 4.0]
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
