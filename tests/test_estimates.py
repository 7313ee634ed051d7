"""What the gateway tells of the time a job takes, from what workers publish."""

from dataclasses import replace

import pytest

from service.estimates import SURE_SHARE, CostSummary, Line, Work, can_finish_by, seconds_left

SMALL, LARGE = ("base", 512, 512), ("base", 1024, 1024)
STEP, DECODE = Line(0.1, 0.1), Line(0.5, 0.5)
IDLE = CostSummary(2.0, 8, 0, {SMALL: STEP}, {SMALL: DECODE}, Line(0.2, 0.1))
BUSY = CostSummary(2.0, 8, 24, IDLE.steps, IDLE.decodes, IDLE.text)
WORK = Work(SMALL, num_steps=10)


def test_a_job_alone_takes_its_steps_and_its_decoding():
    assert IDLE.job_s(WORK) == pytest.approx(10 * STEP(1) + DECODE(1))
    assert IDLE.job_s(Work(SMALL, 10, rows_per_picture=2, num_pictures=4)) == pytest.approx(10 * STEP(8) + DECODE(4))


def test_pictures_that_do_not_fit_into_one_forward_take_turns():
    assert IDLE.job_s(Work(SMALL, 10, num_pictures=16)) == pytest.approx(20 * STEP(8) + DECODE(16))
    assert IDLE.job_s(WORK, num_rows_beside=15) == pytest.approx(20 * STEP(8) + DECODE(1))


def test_a_size_that_was_never_drawn_is_concluded_by_its_pixels():
    assert IDLE.job_s(Work(LARGE, 10)) == pytest.approx(4 * IDLE.job_s(WORK))


def test_a_waiting_job_waits_for_the_backlog_and_then_shares_the_forwards():
    idle_s = 10 * STEP(1) + DECODE(1) + 0.3
    assert seconds_left(WORK, [IDLE], cost_ahead=0.0) == pytest.approx(idle_s)
    assert seconds_left(WORK, [IDLE], cost_ahead=8.0) == pytest.approx(idle_s + 4)
    assert seconds_left(WORK, [IDLE, IDLE], cost_ahead=8.0) == pytest.approx(idle_s + 2)
    shared_s = 10 * 25 / 8 * STEP(8) + DECODE(1) + 0.3
    assert seconds_left(WORK, [BUSY], cost_ahead=0.0) == pytest.approx(shared_s)


def test_a_model_that_shares_its_worker_gets_its_part_of_the_time_but_is_refused_nothing_for_it():
    shared = replace(IDLE, share=0.5)
    alone_s, text_s = 10 * STEP(1) + DECODE(1), 0.3
    assert seconds_left(WORK, [shared], cost_ahead=8.0) == pytest.approx(2 * alone_s + text_s + 8)
    assert can_finish_by(WORK, [shared], alone_s + text_s)


def test_a_running_job_is_among_the_rows_that_its_worker_holds():
    assert seconds_left(WORK, [BUSY], cost_ahead=None) == pytest.approx(10 * 3 * STEP(8) + DECODE(1))
    assert seconds_left(WORK, [IDLE], cost_ahead=None) == pytest.approx(10 * STEP(1) + DECODE(1))


def test_where_nothing_was_measured_nothing_is_claimed_and_nothing_refused():
    assert seconds_left(WORK, [], cost_ahead=3.0) is None
    assert seconds_left(WORK, [CostSummary()], cost_ahead=3.0) is None
    assert CostSummary().job_s(WORK) is None
    assert can_finish_by(WORK, [], 0.1)
    assert can_finish_by(WORK, [CostSummary()], 0.1)


def test_a_worker_that_has_not_measured_yet_does_not_hide_the_others():
    assert seconds_left(WORK, [CostSummary(), IDLE], cost_ahead=0.0) == seconds_left(WORK, [IDLE], cost_ahead=0.0)


def test_a_deadline_that_no_worker_could_meet_alone_is_known_beforehand():
    alone_s = 10 * STEP(1) + DECODE(1) + 0.3
    slow = CostSummary(2.0, 8, 0, {SMALL: Line(9.0, 9.0)})
    assert can_finish_by(WORK, [slow, BUSY], alone_s)
    assert can_finish_by(WORK, [slow, BUSY], 1.01 * SURE_SHARE * alone_s)
    assert not can_finish_by(WORK, [slow, BUSY], 0.99 * SURE_SHARE * alone_s)
    assert not can_finish_by(WORK, [slow, BUSY], alone_s, cost_ahead=8.0)


@pytest.mark.parametrize("values", [{}, {**IDLE.to_dict(), "steps": [["base", 512]]}, {**IDLE.to_dict(), "rate": None}])
def test_what_is_no_summary_is_refused(values):
    with pytest.raises(ValueError, match="not a summary of costs"):
        CostSummary.from_dict(values)
