"""The training loop: schedules, parts, what is logged; a kill changes nothing, and several processes train as one."""

import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.training.checkpoints import read_meta
from model.training.devices import open_place
from model.training.loop import LoopOptions, TrainingLoop
from model.training.tracking import CURVE_NAME, LOGS_NAME, read_curve
from tests.support.processes import ENVIRONMENT
from tests.support.tiny_training import TinySettings, build, train

# Sums of float32 in another order; AdamW divides by what may be small.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The curve of twelve steps in one go."""
    settings = TinySettings(tmp_path_factory.mktemp("undisturbed"))
    train(settings)
    return curve_of(settings)


@pytest.fixture(scope="module")
def forker():
    """The program that forks trainings, as its input and its output."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.tiny_training"],
        env=ENVIRONMENT,
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            yield process.stdin, process.stdout
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def curve_of(settings):
    return list(read_curve(settings.out_dir / CURVE_NAME))


def figures(curve):
    """What must be the same whatever the clock says."""
    return [(p.step, p.loss, p.minimised, p.grad_norm, p.learning_rate, p.num_skipped) for p in curve]


@pytest.mark.timeout(300)
def test_a_killed_process_goes_on_as_if_it_had_not_been(forker, tmp_path, undisturbed):
    settings = TinySettings(tmp_path)
    orders, answers = forker
    orders.write(f"1 {tmp_path} 9:hang\n")
    word, pid = answers.readline().split()
    assert word == "hanging"
    os.kill(int(pid), signal.SIGKILL)
    assert answers.readline() == f"ended -{signal.SIGKILL:d}\n"
    assert read_meta(settings.checkpoint)["step"] == 5
    assert [point.step for point in curve_of(settings)] == [2, 4, 6, 8]
    train(settings)
    assert figures(curve_of(settings)) == figures(undisturbed)


@pytest.mark.timeout(300)
def test_two_processes_by_ddp_then_fsdp_then_one_alone_train_as_one(forker, tmp_path, undisturbed):
    settings = TinySettings(tmp_path)
    orders, answers = forker
    orders.write(f"2 {tmp_path} 5 9:sharded\n")
    assert answers.readline() == "ended 0\n"
    assert read_meta(settings.checkpoint)["step"] == 9
    train(settings)
    for point, expected in zip(curve_of(settings), undisturbed, strict=True):
        assert (point.step, point.num_skipped) == (expected.step, expected.num_skipped)
        for field in ("loss", "grad_norm"):
            assert getattr(point, field) == pytest.approx(getattr(expected, field), rel=TOLERANCE)


def test_the_step_that_is_not_finite_is_left_out_of_the_means(undisturbed):
    assert [point.num_skipped for point in undisturbed] == [0, 1, 1, 1, 1, 1]
    assert all(math.isfinite(point.loss) for point in undisturbed)


def test_parts_of_a_step_train_as_the_whole(tmp_path):
    settings = TinySettings(tmp_path)
    whole, parted = build(settings), build(settings, num_parts=4)
    for _ in range(3):
        assert parted.train_step() == pytest.approx(whole.train_step(), rel=TOLERANCE)


def test_a_batch_that_can_not_be_shared_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a batch of 8 can't be shared by 1 process\\(es\\) in 3 part\\(s\\)"):
        build(TinySettings(tmp_path), num_parts=3).train_step()


def test_the_rate_warms_up_then_stays_or_falls(tmp_path):
    settings = TinySettings(tmp_path)
    loop = build(settings)
    rates = []
    for loop.step in range(12):
        rates.append(loop.learning_rate() / settings.learning_rate)
    assert rates == pytest.approx([1 / 3, 2 / 3, *[1] * 10])
    falling = build(replace(settings, decay_from=0.5, warmup_steps=0))
    falling.step = 9
    assert falling.learning_rate() == pytest.approx(settings.learning_rate * 0.5)


def test_adams_constants_are_the_trainers_choice(tmp_path):
    options = LoopOptions(adam_betas=(0.9, 0.999), adam_eps=1e-10)
    settings = TinySettings(tmp_path)
    loop = TrainingLoop(torch.nn.Linear(2, 2), settings, lambda step: None, options=options)
    assert loop.optimizer.defaults["betas"] == (0.9, 0.999)
    assert loop.optimizer.defaults["eps"] == 1e-10


def test_without_an_average_the_model_stands_for_it(tmp_path):
    loop = build(replace(TinySettings(tmp_path), ema_decay=0.0))
    loop.train_step()
    loop.save({})
    assert loop.average() is loop.model
    again = build(loop.settings)
    again.restore()
    assert again.step == 1


def test_an_average_that_is_not_warmed_follows_slowly_from_the_first_step(tmp_path):
    loop = TrainingLoop(
        torch.nn.Linear(1, 1, bias=False),
        replace(TinySettings(tmp_path), ema_decay=0.99),
        lambda step: (loop.model.weight.sum(), loop.model.weight.detach().sum()),
        options=LoopOptions(is_ema_warmed=False),
    )
    before = loop.model.weight.item()
    loop.train_step()
    expected = 0.99 * before + 0.01 * loop.model.weight.item()
    assert loop.ema.weight.item() == pytest.approx(expected)


def test_tensorboard_tells_every_step_once_even_after_a_kill(tmp_path, undisturbed):
    settings = TinySettings(tmp_path)
    train(settings, stop_at=9)
    train(settings)
    events = EventAccumulator(str(tmp_path / LOGS_NAME)).Reload()
    names = {"loss", "minimised", "grad_norm", "learning_rate", "samples_per_s", "num_skipped", "elapsed_s"}
    assert set(events.Tags()["scalars"]) == {f"train/{name}" for name in names}
    told = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert told == [(point.step, pytest.approx(point.loss)) for point in undisturbed]


def test_a_trainer_of_one_process_refuses_company(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="one process only"):
        TrainingLoop(torch.nn.Linear(1, 1), TinySettings(tmp_path), lambda step: None)


def test_sharding_alone_is_refused():
    with pytest.raises(ValueError, match="sharding needs several processes"):
        open_place(torch.device("cpu"), is_sharded=True)


@pytest.mark.gpu
def test_a_gpu_trains_in_bfloat16_close_to_the_cpu(tmp_path):
    place = open_place(torch.device("cuda"), torch.bfloat16)
    settings = TinySettings(tmp_path)
    on_cpu, on_gpu = build(settings), build(settings, place)
    for _ in range(3):
        assert on_gpu.train_step() == pytest.approx(on_cpu.train_step(), rel=0.05)
