import pytest

from service.scheduler import Row, next_batch, smoothed_rate


def test_rows_of_one_size_share_a_forward():
    assert next_batch([Row(0, (64, 64), 3), Row(1, (64, 64), 5)]) == [0, 1]


def test_the_size_that_has_waited_longest_goes_first_and_sizes_take_turns():
    rows = [Row(0, (64, 64), 2), Row(1, (96, 96), 1), Row(2, (64, 64), 2)]
    assert next_batch(rows) == [1]
    assert next_batch([rows[0], Row(1, (96, 96), 3), rows[2]]) == [0, 2]


def test_no_rows_make_no_batch():
    assert next_batch([]) == []


def test_the_first_measurement_is_taken_as_it_is_and_later_ones_are_smoothed():
    rate = smoothed_rate(0.0, cost=10.0, duration_s=2.0)
    assert rate == pytest.approx(5.0)
    slower = smoothed_rate(rate, cost=1.0, duration_s=1.0)
    assert 1.0 < slower < 5.0
    for _ in range(100):
        slower = smoothed_rate(slower, cost=1.0, duration_s=1.0)
    assert slower == pytest.approx(1.0, rel=0.01)
