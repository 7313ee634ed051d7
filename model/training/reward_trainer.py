"""Runs reward tuning: from a bundle to the adapter of its best validation. The method is DiffusionNFT (see nft.py).

Chosen over Flow-GRPO because it learns from finished pictures alone, so that any solver may draw them and no trajectory
is kept; and because a training row costs one forward and backward of a small batch, which two CPU cores can afford.
Everything drawn is a function of (seed, step) and of the adapter: a run that was stopped goes on exactly as if it had
not been.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from model.bundle import Bundle, read_bundle
from model.engine import choose_device, choose_dtype
from model.evaluation.prompt_sets import DATA
from model.evaluation.prompts import read_entries
from model.training.checkpoints import read_meta
from model.training.reward_log import RewardLog
from model.training.reward_prompts import known_objects, reward_entry
from model.training.reward_tuning import PromptSource, Reward, RewardTrainConfig, RewardTuning
from model.training.world import EmojiWorld
from model.weights import load_bundle


def train_rewards(
    config: RewardTrainConfig,
    reward: Reward,
    *,
    report: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Tune, or go on tuning; returns the PEFT folder of the best adapter, None where `should_stop` ended it early.

    Stopping saves a checkpoint first. Raises ValueError for a bundle that has an adapter, or that names no objects.
    """
    torch.set_num_threads(config.num_threads)
    bundle = read_bundle(config.bundle)
    if bundle.parts.adapter is not None:
        raise ValueError(f"{config.bundle} has an adapter already; tune the model that it was made from")
    device = choose_device(config.device)
    model = load_bundle(bundle, device=device, dtype=choose_dtype(config.dtype, device))
    log = RewardLog(config, read_meta(config.checkpoint)["step"] if config.checkpoint.exists() else None)
    tuning = RewardTuning(config, model, reward, world_prompts(bundle), log.add_step)
    if config.checkpoint.exists():
        tuning.loop.restore()

    def validate() -> None:
        if not log.has_validated(tuning.loop.step):
            report(log.add_validation(tuning.loop.step, tuning.validate(), tuning.average))

    def is_over() -> bool:
        if tuning.loop.step % config.report_every == 0:
            report(log.reward_line())
        return should_stop() or log.is_stale

    if tuning.loop.step % config.checkpoint_every == 0:  # not where a run was stopped between two checkpoints
        validate()
    if not log.is_stale:
        is_finished = tuning.loop.run({}, report=report, should_stop=is_over, on_checkpoint=validate)
        if not is_finished and not log.is_stale:
            return None
        validate()
    report(log.summary())
    return config.adapter


def world_prompts(bundle: Bundle) -> PromptSource:
    """Training prompts over the objects that `bundle` knows, none of them one that EmojiGenEval's files hold.

    Raises ValueError where the bundle's vocabulary names fewer than two objects of the emoji world.
    """
    size = int(bundle.card.sizes[0].partition("x")[0])
    objects = known_objects(bundle.card.vocabulary or ())
    if len(objects) < 2:
        raise ValueError(f"{bundle.folder}: its vocabulary names {len(objects)} objects of the emoji world, not two")
    files = sorted(DATA.glob("*.jsonl"))
    forbidden = frozenset(entry.prompt for path in files for entry in read_entries(path))
    return partial(reward_entry, EmojiWorld(objects, size), forbidden=forbidden)
