"""The policy of docs/scheduling.md, rule by rule."""

import random
from dataclasses import replace

import pytest

from service.scheduler import MAX_ABSENT_TAGS, RECENT_SERVICES, Policy, SchedulerState, Shares
from tests.support.schedules import LARGE, OTHER, PATIENT, SMALL, Worker, affine_s, ask, picture


def test_nobody_asks_and_nobody_is_chosen():
    assert ask([]) == ask([], SchedulerState({1: Shares(3.0)}))
    assert ask([]).indices == ()


def test_a_short_picture_behind_a_full_batch_of_long_ones_leaves_first():
    worker = Worker()
    worker.join(*(picture(i, steps_left=50, owner=f"tenant {i}") for i in range(8)))
    worker.step()
    worker.join(picture(8, steps_left=4, owner="late"))
    for _ in range(6):
        worker.step()
    assert worker.finished == [8]


def test_of_one_tenants_pictures_the_one_with_the_least_work_left_goes_first_then_the_earlier_one():
    crowd = [picture(0, steps_left=9), picture(1, steps_left=3), picture(2, steps_left=3), picture(3, steps_left=1)]
    assert ask(crowd, max_rows=3).indices == (3, 1, 2)


def test_large_pictures_and_small_ones_take_turns_by_device_time_and_number():
    worker = Worker()
    worker.join(picture(0, group=LARGE, steps_left=999), *(picture(i, steps_left=999) for i in range(1, 4)))
    for _ in range(200):
        worker.step()
    # One tenant's vote, split over its pictures: one of four is large.
    assert worker.device_s[LARGE] / worker.now_s == pytest.approx(0.25, abs=0.01)


def test_a_stream_of_small_pictures_does_not_starve_a_large_one():
    worker = Worker()
    worker.join(picture(0, group=LARGE, steps_left=20, owner="b"))
    for number in range(1, 400):
        worker.join(*(picture(10 * number + i, steps_left=2) for i in range(4)))
        worker.step()
        if 0 in worker.finished:
            break
    assert worker.device_s[LARGE] / worker.now_s == pytest.approx(0.5, abs=0.05)


def test_a_tenant_that_floods_leaves_the_others_their_share():
    worker = Worker()
    worker.join(*(picture(i, owner="flood", steps_left=999) for i in range(30)))
    worker.join(*(picture(100 + i, owner="calm", steps_left=999) for i in range(2)))
    for _ in range(50):
        worker.step()
    assert worker.charged == {"flood": 300, "calm": 100}  # both of the calm one's pictures in every forward


def test_a_tenant_gets_no_credit_for_the_time_it_was_away():
    worker = Worker(max_rows=2)
    worker.join(*(picture(i, owner=owner, steps_left=999) for i, owner in enumerate("aaabbb")))
    for _ in range(100):
        worker.step()
    worker.join(*(picture(10 + i, owner="c", steps_left=999) for i in range(3)))
    worker.charged.clear()
    for _ in range(30):
        worker.step()
    assert all(worker.charged[owner] == pytest.approx(20, abs=1) for owner in "abc")


def test_a_claim_outlasts_the_forward_that_serves_it():
    worker = Worker(max_rows=1)
    worker.join(picture(0, owner="cheap", steps_left=999), picture(1, owner="dear", steps_left=999, cost_per_step=4.0))
    for _ in range(100):
        worker.step()
        assert abs(worker.charged["cheap"] - worker.charged["dear"]) <= 4


def test_rows_that_nobody_else_could_use_are_no_debt():
    worker = Worker(max_rows=4)
    worker.join(*(picture(i, owner="alone", steps_left=999) for i in range(6)))
    worker.join(picture(10, owner="slow", steps_left=999))
    for _ in range(100):
        worker.step()
    worker.join(*(picture(20 + i, owner="new", steps_left=999) for i in range(6)))
    worker.charged.clear()
    for _ in range(20):
        worker.step()
    assert worker.charged["slow"] == 20
    assert worker.charged["alone"] == pytest.approx(worker.charged["new"], abs=1)


def test_a_picture_that_just_makes_its_deadline_goes_before_others_of_its_class_only():
    full_s = 20 * affine_s(SMALL, 8)
    crowd = [picture(i, steps_left=1) for i in range(8)]
    assert ask([*crowd, picture(8, deadline_s=1.2 * full_s)]).indices[0] == 8
    assert 8 not in ask([*crowd, picture(8, deadline_s=2 * full_s)]).indices
    higher = [replace(one, priority=0) for one in crowd]
    assert 8 not in ask([*higher, picture(8, deadline_s=1.2 * full_s)]).indices


def test_of_two_pressed_pictures_the_earlier_deadline_decides_also_on_the_group():
    crowd = [picture(0, deadline_s=20.0), picture(1, group=OTHER, deadline_s=19.0), picture(2)]
    assert ask(crowd).indices == (1,)


def test_a_picture_that_is_late_already_is_not_favoured():
    alone_s = 20 * affine_s(SMALL, 1)
    crowd = [picture(i, steps_left=1) for i in range(8)]
    assert 8 not in ask([*crowd, picture(8, deadline_s=0.99 * alone_s)]).indices
    assert 8 in ask([*crowd, picture(8, deadline_s=1.01 * alone_s)]).indices


def test_deadlines_lend_a_tenant_no_more_than_so_many_steps():
    worker = Worker(max_rows=1, policy=replace(PATIENT, max_borrowed_steps=10))
    worker.join(picture(0, owner="calm", steps_left=999))
    for index in range(1, 200):  # each of them pressed, one after the other
        worker.join(picture(index, owner="pressed", steps_left=1, deadline_s=worker.now_s + 0.7))
        worker.step()
    assert worker.charged["pressed"] - worker.charged["calm"] <= 12


def test_deadlines_lend_a_group_no_more_than_so_many_forwards():
    worker = Worker(max_rows=1, policy=replace(PATIENT, max_borrowed_steps=10))
    worker.join(picture(0, owner="calm", group=OTHER, steps_left=999))
    for index in range(1, 200):
        worker.join(picture(index, owner="pressed", steps_left=1, deadline_s=worker.now_s + 0.7))
        worker.step()
    assert worker.device_s[SMALL] - worker.device_s[OTHER] <= 12 * affine_s(SMALL, 1)


def test_a_guided_picture_that_does_not_fit_is_passed_over_but_not_for_ever():
    worker = Worker(max_rows=3, policy=Policy(max_wait_forwards=4))
    worker.join(picture(0, num_rows=2, steps_left=50), *(picture(i, steps_left=10) for i in range(1, 4)))
    taken = [worker.step().indices for _ in range(5)]
    assert taken[:4] == [(1, 2, 3)] * 4
    assert taken[4] == (0, 1)


def test_a_low_class_waits_no_longer_than_its_turn():
    worker = Worker(policy=Policy(max_wait_forwards=5))
    worker.join(picture(0, priority=2, group=LARGE), *(picture(i, priority=0, steps_left=999) for i in range(1, 9)))
    taken = [0 in worker.step().indices for _ in range(18)]
    assert [number for number, is_taken in enumerate(taken) if is_taken] == [5, 11, 17]


def test_pictures_are_left_out_where_the_bucket_they_would_open_costs_more_than_their_own_forward():
    def stepwise_s(group, num_rows):
        return 0.1 + (8 if num_rows <= 8 else 16)

    crowd = [picture(i) for i in range(9)]
    assert ask(crowd[:8], max_rows=16, step_s=lambda g, n: 0.1 + next(s for s in (1, 8, 16) if s >= n)).num_rows == 8
    assert ask(crowd, max_rows=16, step_s=lambda g, n: 0.1 + next(s for s in (1, 8, 16) if s >= n)).num_rows == 8
    assert ask(crowd, max_rows=16, step_s=stepwise_s).num_rows == 9  # one row would cost as much as eight
    assert ask(crowd, max_rows=16).num_rows == 9  # without buckets company is always cheaper


def test_pictures_that_waited_too_long_are_never_left_out():
    crowd = [picture(i) for i in range(9)]
    choice = ask(
        crowd,
        max_rows=16,
        forward=50,
        policy=Policy(max_wait_forwards=8),
        step_s=lambda group, num_rows: 0.1 + next(size for size in (1, 8, 16) if size >= num_rows),
    )
    assert choice.num_rows == 9


def test_the_state_does_not_grow_with_tenants_and_groups_that_are_gone():
    source = random.Random(0)
    worker = Worker(max_rows=4, policy=Policy())
    worker.join(*(picture(i, owner="stays", steps_left=10**6) for i in range(8)))
    for number in range(500):
        group = ("v", 8 * (1 + number % 100), 8)
        here = [picture(10 + 3 * number + i, owner=f"t{number}", steps_left=1) for i in range(3)]
        worker.join(*here[:2], replace(here[2], group=group, priority=source.randrange(3)))
        worker.step()
        owners = {one.owner for one in worker.held.values()}
        accounts = {(one.priority, one.group) for one in worker.held.values()}
        assert len(worker.state.groups) <= 3
        assert len(worker.state.tenants) <= len(accounts) + 1
        assert all(len(shares.tags) <= MAX_ABSENT_TAGS + len(owners) for shares in worker.state.tenants.values())
        assert all(len(shares.tags) <= MAX_ABSENT_TAGS + len(accounts) for shares in worker.state.groups.values())
    worker.held = {0: worker.held[0]}
    for _ in range(RECENT_SERVICES):
        worker.step()
    assert worker.state.tenants == {(1, SMALL): Shares()}


def test_only_the_largest_debts_of_the_absent_are_kept():
    charges = {f"t{number}": float(number) for number in range(1, MAX_ABSENT_TAGS + 51)}
    shares = Shares().after(charges, {"waiting"}, {"waiting"})
    assert len(shares.tags) == MAX_ABSENT_TAGS
    assert shares.start("t50") == 0.0
    assert shares.start("t51") == 51.0


def test_a_picture_that_never_fits_is_refused():
    with pytest.raises(ValueError, match="2 rows never fits"):
        ask([picture(0, num_rows=2)], max_rows=1)


@pytest.mark.parametrize("values", [{"max_wait_forwards": 0}, {"deadline_margin": -1.0}, {"max_borrowed_steps": -1}])
def test_a_policy_that_makes_no_sense_is_refused(values):
    with pytest.raises(ValueError, match="must be >="):
        Policy(**values)
