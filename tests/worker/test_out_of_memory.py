# ruff: noqa: F401, F811  (the fixture that these tests share with test_worker.py)
"""A device that has no memory for a batch: halves in process, nobody's attempt is lost."""

import pytest
import torch

from model.memory import is_out_of_memory
from service.jobs import Failed, JobState
from service.row_limit import GROWS_AFTER, RowLimit
from tests.worker.test_worker import Bench, _Wrapped, engine, tiny_job

pytestmark = pytest.mark.anyio


class _Small(_Wrapped):
    """A device with memory for so many pictures at once in each stage."""

    def __init__(self, engine, **most):
        super().__init__(engine)
        self.most = most
        self.sizes = {"begin": [], "step": [], "decode": []}

    def begin(self, wanted):
        self._fit("begin", wanted)
        return self._engine.begin(wanted)

    def step(self, samples):
        self._fit("step", samples)
        self._engine.step(samples)

    def decode(self, samples, on_progress):
        self._fit("decode", samples)
        return self._engine.decode(samples, on_progress)

    def _fit(self, stage, items):
        if len(items) > self.most.get(stage, len(items)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.sizes[stage].append(len(items))


async def drawn(queue, device, tmp_path, jobs):
    for job in jobs:
        await queue.submit(job)
    async with Bench(queue, device, tmp_path).running() as bench:
        return bench, [await bench.ended(job) for job in jobs]


@pytest.mark.parametrize("stage", ["begin", "step", "decode"])
async def test_a_batch_too_large_for_the_device_is_halved_and_every_job_done_at_its_first_attempt(
    queue, engine, tmp_path, stage
):
    device = _Small(engine, **{stage: 1})
    jobs = [tiny_job(prompt=f"apple {index}") for index in range(4)]
    bench, ended = await drawn(queue, device, tmp_path, jobs)
    assert [(status.state, status.job.attempt) for status in ended] == [(JobState.DONE, 1)] * 4
    assert max(device.sizes[stage]) == 1
    label = {"begin": "text_encode", "step": "denoise", "decode": "decode"}[stage]
    assert bench.sample("emmdit_out_of_memory_total", stage=label) > 0


async def test_a_picture_that_fits_nowhere_fails_after_its_attempts(queue, engine, tmp_path):
    device = _Small(engine, step=0)
    _, (status,) = await drawn(queue, device, tmp_path, [tiny_job()])
    assert status.result == Failed("generation_failed", "drawing failed (OutOfMemoryError)")


async def test_the_forwards_after_it_are_smaller(queue, engine, tmp_path):
    device = _Small(engine, step=1)
    jobs = [tiny_job(prompt=f"apple {index}", steps=12) for index in range(4)]
    bench, _ = await drawn(queue, device, tmp_path, jobs)
    assert bench.sample("emmdit_out_of_memory_total", stage="denoise") <= 4


def test_the_limit_falls_at_once_and_grows_back_slowly():
    limit = RowLimit(8)
    limit.lower_to(3)
    for expected in (3, 5, 7, 8, 8):
        assert limit.value == expected
        for _ in range(GROWS_AFTER):
            limit.note_success(limit.value)


def test_small_forwards_say_nothing_about_large_ones():
    limit = RowLimit(8)
    limit.lower_to(4)
    for _ in range(10 * GROWS_AFTER):
        limit.note_success(2)
    assert limit.value == 4


def test_one_picture_with_guidance_always_fits():
    limit = RowLimit(8)
    limit.lower_to(1)
    assert limit.value == 2


def test_what_the_cpus_allocator_says_is_out_of_memory_too():
    with pytest.raises(RuntimeError) as refusal:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(refusal.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("device-side assert triggered"))
