"""What a worker learns about its own speed, and how it keeps from learning nonsense."""

import json
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cost_model import MAX_CURVES, WINDOW, CostModel, Curve, smoothed_rate
from service.estimates import CostSummary, Line

SMALL, LARGE = ("base", 512, 512), ("base", 1024, 1024)
TRUE = Line(0.02, 0.005)


def taught(line=TRUE, sizes=(1, 2, 4, 8), times=3, group=SMALL, **options):
    model = CostModel(**options)
    for num_rows in sizes:
        for _ in range(times):
            model.observe_step(group, num_rows, line(num_rows))
    return model


def test_it_converges_to_noisy_durations():
    model, source = CostModel(), random.Random(0)
    for _ in range(200):
        num_rows = source.randint(1, 8)
        model.observe_step(SMALL, num_rows, TRUE(num_rows) * source.lognormvariate(0, 0.1))
    for num_rows in range(1, 9):
        assert model.step_s(SMALL, num_rows) == pytest.approx(TRUE(num_rows), rel=0.15)


def test_what_was_not_measured_lies_on_the_line_between_and_beyond():
    model = taught(sizes=(2, 8))
    for num_rows in (1, 2, 5, 8, 16, 64):
        assert model.step_s(SMALL, num_rows) == pytest.approx(TRUE(num_rows))


def test_a_measured_duration_counts_more_than_the_line():
    model = taught(sizes=(1, 2, 4, 8))
    for _ in range(WINDOW):
        model.observe_step(SMALL, 4, TRUE(4) * 1.05)
    assert model.step_s(SMALL, 4) == pytest.approx(TRUE(4) * 1.05)
    assert model.step_s(SMALL, 8) == pytest.approx(TRUE(8))


def test_one_measurement_is_enough_to_have_an_opinion():
    model = taught(sizes=(4,), times=1)
    assert model.step_s(SMALL, 4) == pytest.approx(TRUE(4))
    assert model.step_s(SMALL, 1) < TRUE(4) < model.step_s(SMALL, 8) < 2 * TRUE(4)


def test_rows_are_padded_to_buckets():
    model = taught(sizes=(1, 5, 16), buckets=(16, 8, 1))
    assert model.step_s(SMALL, 9) == model.step_s(SMALL, 16) == pytest.approx(TRUE(16))
    assert model.step_s(SMALL, 2) == model.step_s(SMALL, 8) == pytest.approx(TRUE(5))
    assert model.step_s(SMALL, 17) > model.step_s(SMALL, 16)


def test_a_size_never_seen_is_concluded_by_pixels_from_its_own_variant_first():
    model = taught()
    model.observe_step(("slow", 512, 512), 4, 1.0)
    assert model.step_s(LARGE, 4) == pytest.approx(4 * TRUE(4))
    assert model.step_s(("slow", 1024, 512), 4) == pytest.approx(2.0)


def test_before_the_first_measurement_it_guesses_and_says_so():
    model = CostModel()
    assert not model.has_measured
    assert 0 < model.step_s(SMALL, 1) < model.step_s(SMALL, 2) < model.step_s(LARGE, 2)
    assert model.decode_s(SMALL) > 0
    assert model.text_s() > 0
    assert model.rate_cost_per_s("base") == 0
    assert taught().has_measured


def test_a_first_call_that_compiles_is_forgotten_at_the_second():
    model = CostModel()
    model.observe_step(SMALL, 4, 130.0)
    model.observe_step(SMALL, 4, TRUE(4))
    assert model.step_s(SMALL, 4) == pytest.approx(TRUE(4))


def test_a_small_batch_that_compiled_is_corrected_by_a_larger_one():
    model = CostModel()
    model.observe_step(SMALL, 1, 130.0)
    model.observe_step(SMALL, 8, TRUE(8))
    assert model.step_s(SMALL, 1) <= TRUE(8)


def test_stalls_change_nothing_as_long_as_they_are_less_than_half():
    model = taught(times=WINDOW)
    for _ in range(WINDOW // 2):
        model.observe_step(SMALL, 8, 50.0)
    assert model.step_s(SMALL, 8) == pytest.approx(TRUE(8))


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_another_machine_is_believed_after_five_calls_at_every_size(factor):
    model = taught(times=WINDOW)
    for _ in range(WINDOW // 2 + 1):
        model.observe_step(SMALL, 8, factor * TRUE(8))
    assert model.step_s(SMALL, 8) == pytest.approx(factor * TRUE(8))
    assert model.step_s(SMALL, 2) < factor * TRUE(8) * 1.01
    assert model.step_s(SMALL, 2) > factor * TRUE(2) / 2


@pytest.mark.parametrize("nonsense", [0.0, -1.0, float("nan"), float("inf")])
def test_durations_that_cannot_be_are_ignored(nonsense):
    model = taught()
    model.observe_step(SMALL, 8, nonsense)
    assert model.step_s(SMALL, 8) == pytest.approx(TRUE(8))


measurements = st.lists(st.tuples(st.integers(1, 64), st.floats(1e-4, 1e3)), min_size=1, max_size=40)


@given(measurements, st.sampled_from([(), (1, 2, 4, 8, 16, 32, 64)]))
def test_more_rows_never_take_less_time_whatever_was_measured(measured, buckets):
    model = CostModel(buckets)
    for num_rows, duration_s in measured:
        model.observe_step(SMALL, num_rows, duration_s)
    durations = [model.step_s(SMALL, num_rows) for num_rows in range(1, 80)]
    assert durations[0] > 0
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(durations))


@given(measurements)
def test_the_line_of_any_measurements_neither_falls_nor_begins_below_nothing(measured):
    curve = Curve()
    for num_items, duration_s in measured:
        curve.observe(num_items, duration_s)
    assert curve.line.base_s >= 0
    assert curve.line.per_item_s >= 0
    assert curve.line(1) > 0


def test_decoding_and_text_have_curves_of_their_own():
    model = CostModel()
    for number in (1, 2, 4):
        model.observe_decode(SMALL, number, 0.1 + 0.2 * number)
        model.observe_text(number, 0.01 + 0.002 * number)
    model.observe_text(0, 5.0)
    assert model.decode_s(SMALL, 3) == pytest.approx(0.7)
    assert model.decode_s(LARGE, 1) == pytest.approx(1.2)
    assert model.decode_s(("another model", 512, 512), 3) == pytest.approx(0.7)
    assert model.text_s(8) == pytest.approx(0.026)
    assert model.text_s(0) == 0


def test_a_picture_takes_its_text_its_steps_in_company_and_its_decoding():
    model = taught()
    model.observe_decode(SMALL, 1, 0.3)
    model.observe_text(1, 0.05)
    assert model.picture_s(SMALL, 20, 2) == pytest.approx(0.05 + 20 * TRUE(2) + 0.3)
    assert model.picture_s(SMALL, 20, 2, num_rows_shared=8) == pytest.approx(0.05 + 20 * TRUE(8) + 0.3)


def test_the_summary_survives_its_way_through_json_exactly():
    model = taught()
    model.observe_step(LARGE, 3, 1 / 3)
    model.observe_decode(SMALL, 1, 0.3)
    model.observe_text(1, 0.05)
    model.observe_work("base", 5.0, 2.0)
    model.observe_work("slow", 1.0, 2.0)
    summary = model.summary("base", max_rows=8, num_rows_held=5, share=0.5)
    assert (summary.rate_cost_per_s, summary.rate_shared_cost_per_s) == (2.5, 1.25)
    assert model.summary("slow", 8, 5).rate_cost_per_s == 0.5
    assert summary.steps[SMALL] == TRUE
    assert CostSummary.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary


def test_what_it_remembers_is_bounded_and_the_latest_used_sizes_stay():
    model = taught()
    for number in range(1, 3 * MAX_CURVES):
        model.observe_step(("base", 8 * number, 8), 1, 0.01)
        model.observe_step(SMALL, 8, TRUE(8))
    steps = model.summary("base", 8, 0).steps
    assert len(steps) == MAX_CURVES
    assert SMALL in steps


def test_the_first_rate_is_taken_as_it_is_and_later_ones_are_smoothed():
    rate = smoothed_rate(0.0, cost=10.0, duration_s=2.0)
    assert rate == pytest.approx(5.0)
    slower = smoothed_rate(rate, cost=1.0, duration_s=1.0)
    assert 1.0 < slower < 5.0
    for _ in range(100):
        slower = smoothed_rate(slower, cost=1.0, duration_s=1.0)
    assert slower == pytest.approx(1.0, rel=0.01)
    assert smoothed_rate(rate, cost=1.0, duration_s=0.0) == rate
