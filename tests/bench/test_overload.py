"""What an overloaded service told those whom it refused, against what came true."""

import pytest

from benchmarks.overload import honesty
from service.bench.load import Outcome
from service.bench.plan import PlannedRequest


def drawn(sent_s, begun_s):
    return Outcome(PlannedRequest(sent_s, "a cat", 0), sent_s, begun_s + 7.0, None, queue_s=begun_s - sent_s)


def refused(at_s, retry_after_s, error="rate_limit_exceeded"):
    return Outcome(PlannedRequest(at_s, "a cat", 0), at_s, at_s, error, retry_after_s=retry_after_s)


def test_the_truth_is_when_the_last_request_accepted_before_has_left_the_queue():
    backlog = [drawn(0.0, 10.0), drawn(1.0, 20.0), drawn(30.0, 99.0)]
    found = honesty([*backlog, refused(5.0, 15.0)])
    assert found["p50"] == pytest.approx(1.0)
    assert found["share_honest"] == 1.0


def test_a_wait_told_three_times_too_long_or_too_short_is_not_honest():
    found = honesty([drawn(0.0, 20.0), refused(10.0, 30.0), refused(10.0, 3.0), refused(10.0, 10.0)])
    assert found["share_honest"] == pytest.approx(1 / 3)


def test_refusals_that_nobody_stood_before_and_other_failures_say_nothing():
    assert honesty([refused(0.0, 5.0), drawn(1.0, 2.0), refused(3.0, 5.0), refused(1.5, 5.0, "invalid_value")]) is None
