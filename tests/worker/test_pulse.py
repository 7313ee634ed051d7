import time

import pytest

from service.pulse import Pulse


@pytest.fixture
def clock(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    return now_s


@pytest.fixture
def pulse(clock):
    pulse = Pulse(stall_limit_s=30, lease_s=15)
    pulse.begin()
    return pulse


def test_a_worker_is_idle_until_the_queue_has_heard_of_it(pulse):
    assert pulse.health(is_busy=False, is_stopping=False).idle == "the queue has not been reached"
    pulse.note_beat()
    pulse.note_heard()
    assert pulse.health(is_busy=False, is_stopping=False).idle is None
    assert pulse.health(is_busy=False, is_stopping=True).idle == "this worker is stopping"


def test_it_is_cut_off_once_its_last_heartbeat_is_older_than_a_lease(pulse, clock):
    pulse.note_beat()
    clock[0] += 10
    pulse.note_heard()  # of the one that was tried ten seconds ago
    clock[0] += 6
    assert pulse.is_cut_off()


def test_only_who_has_work_can_be_stalled(pulse, clock):
    clock[0] += 31
    pulse.note_beat()
    assert pulse.health(is_busy=True, is_stopping=False).stuck == "no step advanced for 30 s"
    assert pulse.health(is_busy=False, is_stopping=False).stuck is None
    pulse.note_progress()
    assert not pulse.is_stalled(is_busy=True)


def test_a_loop_that_does_not_turn_is_told_before_anything_else(pulse, clock):
    clock[0] += 40
    assert pulse.health(is_busy=True, is_stopping=False).stuck == "the event loop has stood still for 40 s"
