import threading

import pytest
import torch

from model.row_threads import RowThreads, computing_with


class Recorder:
    """A forward that doubles latents, and notes who computed how many rows with how many threads."""

    def __init__(self, num_meeting=1):
        self._meeting = threading.Barrier(num_meeting)
        self.calls = []

    def __call__(self, latents, text, timestep):
        self._meeting.wait(30)
        self.calls.append((threading.get_ident(), len(latents), torch.get_num_threads()))
        return 2 * latents + text.mean(dim=(1, 2))[:, None, None, None] + timestep[:, None, None, None]


def inputs(num_rows):
    return torch.randn(num_rows, 3, 4, 4), torch.randn(num_rows, 5, 6), torch.arange(num_rows, dtype=torch.float32)


@pytest.fixture(autouse=True)
def four_threads():
    with computing_with(4):
        yield


@pytest.mark.parametrize(
    ("num_rows", "parts"), [(1, [(1, 4)]), (2, [(1, 2)] * 2), (3, [(1, 1)] * 3), (6, [(2, 1), (2, 1), (1, 1), (1, 1)])]
)
def test_rows_are_dealt_out_to_threads_that_compute_at_the_same_time(num_rows, parts):
    recorder = Recorder(num_meeting=len(parts))  # which nobody leaves before all have come
    given = inputs(num_rows)
    velocity = RowThreads(recorder, 4)(*given)
    torch.testing.assert_close(velocity, Recorder()(*given))
    assert sorted(call[1:] for call in recorder.calls) == sorted(parts)
    assert len({call[0] for call in recorder.calls}) == len(parts)


def test_afterwards_the_caller_computes_with_as_many_threads_as_before():
    RowThreads(Recorder(num_meeting=4), 4)(*inputs(4))
    assert torch.get_num_threads() == 4


def test_the_caller_is_not_left_before_every_thread_has_ended():
    """Latents that a caller has taken back must not be computed with any more."""
    is_failed, ended = threading.Event(), []

    def forward(latents, text, timestep):
        if timestep[0] == 0:
            is_failed.set()
            raise MemoryError("the first part")
        assert is_failed.wait(30)
        ended.append(len(latents))
        return latents

    with pytest.raises(MemoryError, match="the first part"):
        RowThreads(forward, 2)(*inputs(4))
    assert ended == [2]


def test_an_error_of_any_thread_is_the_callers():
    def forward(latents, text, timestep):
        if timestep[-1] == 3:
            raise MemoryError("the last part")
        return latents

    with pytest.raises(MemoryError, match="the last part"):
        RowThreads(forward, 2)(*inputs(4))
    assert torch.get_num_threads() == 4
