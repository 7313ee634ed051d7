"""Reward tuning on a tiny bundle of random weights: rewards rise, runs resume, the best adapter is kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.bundle import read_bundle
from model.evaluation.prompts import TASKS, PromptEntry, Wanted
from model.training import reward_trainer
from model.training.adapted_bundle import write_adapted_bundle
from model.training.reward_trainer import train_rewards, world_prompts
from model.training.reward_tuning import RewardTrainConfig, RewardTuning
from model.training.tokenizer import known_words
from model.weights import load_bundle
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.trainer_runs import StopAfter, be_quiet


def redness(entries, pictures):
    """A scripted reward: how red the middle of each picture is."""
    middles = [picture[16:48, 16:48].mean((0, 1)) / 255 for picture in pictures]
    return np.array([0.5 + (red - (green + blue) / 2) / 2 for red, green, blue in middles])


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    write_tiny_bundle(folder / "tiny", vocabulary=known_words(("apple", "banana")), stages=(1, 1, 1), default_steps=2)
    return RewardTrainConfig(
        bundle=folder / "tiny",
        out_dir=folder / "out",
        guidance=0.0,
        rank=4,
        alpha=8,
        num_prompts=2,
        group_size=4,
        rollout_steps=2,
        num_draws=2,
        num_validation=2,
        max_steps=4,
        warmup_steps=1,
        decay_from=0.9,
        num_threads=1,
        report_every=2,
        checkpoint_every=2,
    )


@pytest.fixture(scope="module")
def model(config):
    """Loaded once: adapters are trained beside the network, not in it."""
    return load_bundle(read_bundle(config.bundle))


@pytest.fixture(autouse=True)
def load_once(model, monkeypatch):
    """Loading takes as long as a step here."""
    monkeypatch.setattr(reward_trainer, "load_bundle", lambda bundle, **place: model)


def tuning_of(config, model, on_step, reward=redness):
    """Asks for one apple again and again."""
    entry = PromptEntry("single_object", "an apple", (Wanted("apple", 1),))
    return RewardTuning(config, model, reward, lambda task, index: entry, on_step)


def lines_of(config, name):
    return [json.loads(line) for line in (config.out_dir / name).read_text().splitlines()]


def test_a_reward_rises_where_pictures_can_earn_it(config, model):
    """By half of what the pictures of one prompt differ, within six steps."""
    run = replace(config, group_size=6, num_validation=8, pull_weight=0.0, learning_rate=3e-2, max_steps=6)
    curve = []
    tuning = tuning_of(run, model, curve.append)
    before = tuning.validate().rewards.mean().item()
    for _ in range(run.max_steps):
        tuning.loop.train_step()
    assert tuning.validate().rewards.mean().item() > before + 0.5 * curve[0]["spread"]


@pytest.mark.slow
def test_the_pull_keeps_velocities_near_the_base(config, model):
    drifts = []
    for pull_weight in (0.0, 1.0):
        curve = []
        run = replace(config, pull_weight=pull_weight, learning_rate=3e-2, max_steps=6)
        tuning = tuning_of(run, model, curve.append)
        for _ in range(run.max_steps):
            tuning.loop.train_step()
        drifts.append(curve[-1]["drift"])
    assert drifts[1] < 0.7 * drifts[0]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(config, tmp_path):
    whole, parts = (
        replace(config, out_dir=tmp_path / name, guidance=2.0, num_prompts=1) for name in ("whole", "parts")
    )
    adapter = train_rewards(whole, redness, report=be_quiet)
    assert train_rewards(parts, redness, report=be_quiet, should_stop=StopAfter(3)) is None
    assert train_rewards(parts, redness, report=be_quiet) == parts.adapter
    for name in ("rewards.jsonl", "validation.jsonl"):
        assert lines_of(parts, name) == lines_of(whole, name)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, parts.adapter))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_each_task_is_asked_for_and_reported(config, tmp_path):
    said = []
    run = replace(config, out_dir=tmp_path, num_prompts=6, group_size=2, max_steps=1, num_validation=6, report_every=1)
    train_rewards(run, redness, report=said.append)
    (line,) = (line for line in said if line.startswith("step 1 reward"))
    assert all(task in line for task in TASKS)
    assert set(TASKS) <= set(lines_of(run, "rewards.jsonl")[0])
    assert (tmp_path / "sheets" / "000001.png").is_file()


def test_the_best_adapter_is_kept_and_a_run_that_gets_no_better_ends(config, tmp_path):
    """The reward falls with every picture judged, so the base stays the best."""
    judged = []

    def falling(entries, pictures):
        judged.extend(pictures)
        return np.full(len(pictures), 1 / len(judged))

    said = []
    run = replace(config, out_dir=tmp_path, max_steps=100, checkpoint_every=1, patience=2)
    folder = train_rewards(run, falling, report=said.append)
    assert [line["step"] for line in lines_of(run, "validation.jsonl")] == [0, 1, 2]
    assert said[-1].endswith("at step 0")
    tensors = load_file(folder / "adapter_model.safetensors")
    assert not any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)


def test_rollouts_of_a_step_are_the_same_every_time(config, model):
    prompts, figures = world_prompts(read_bundle(config.bundle)), []
    for _ in range(2):
        tuning = RewardTuning(replace(config, guidance=2.0), model, redness, prompts, figures.append)
        tuning.objective(3)
    assert figures[0] == figures[1]


def test_equal_rewards_leave_nothing_to_learn_but_the_pull(config, model):
    tuning = tuning_of(
        replace(config, guidance=2.0), model, be_quiet, lambda entries, pictures: np.full(len(pictures), 0.4)
    )
    loss, _ = tuning.objective(0)
    loss.backward()
    assert all(parameter.grad.abs().max() < 1e-6 for parameter in tuning.loop.parameters)


def test_a_bundle_with_an_adapter_or_without_objects_is_refused(config, tmp_path):
    folder = train_rewards(replace(config, out_dir=tmp_path / "out", max_steps=1), redness, report=be_quiet)
    base = read_bundle(config.bundle)
    adapted = write_adapted_bundle(base, folder, tmp_path / "adapted", name="tiny-grpo", version="1")
    with pytest.raises(ValueError, match="has an adapter already"):
        train_rewards(replace(config, bundle=adapted.folder), redness)
    with pytest.raises(ValueError, match="names 0 objects"):
        world_prompts(write_tiny_bundle(tmp_path / "mute"))
