"""Trains the scoring judge's network on renderings, broken things and autoencoder round trips.

Focal loss on the heat (as CenterNet, arXiv 1904.07850, equation 1), L1 on boxes, cross entropy on known colours.
Batches and their disturbances are functions of (seed, step): a run that was stopped goes on exactly as if it had not
been. Only the averaged weights are shipped; their batch statistics are measured at the end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import update_bn

from model.evaluation.judge import load_judge
from model.evaluation.judge_network import JudgeNetwork, JudgeShape, Maps, encode_labels
from model.evaluation.judge_report import choose_threshold
from model.training.dataset import load_dataset
from model.training.degrading import bend_slightly, degrade
from model.training.judge_scenes import (
    LabelledPictures,
    render_broken,
    render_held_out,
    render_round_trips,
    world_pictures,
)
from model.training.loop import TrainingLoop
from model.training.recolor import COLORS
from model.training.sprites import object_names

BOX_WEIGHT = 1.0
COLOR_WEIGHT = 0.5
NUM_STATISTICS_BATCHES = 64
VERSION = "2"


@dataclass(frozen=True, slots=True)
class JudgeTrainConfig:
    """One training run; `model.training.loop.LoopSettings` says what its budget and schedule mean.

    `shares` are the parts of a batch that come from the dataset, held-out combinations, broken scenes and round trips.
    """

    dataset: Path
    out_dir: Path
    autoencoder: Path
    num_held_out: int = 6_000
    num_broken: int = 12_000
    num_round_trips: int = 9_000
    shares: tuple[float, float, float, float] = (0.35, 0.15, 0.3, 0.2)
    channels: tuple[int, int, int] = (32, 64, 96)
    blocks: tuple[int, int, int] = (1, 2, 2)
    batch_size: int = 16
    max_steps: int = 6_700
    max_minutes: float = math.inf
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    decay_from: float = 0.4
    weight_decay: float = 0.02
    max_grad_norm: float = 10.0
    ema_decay: float = 0.998
    num_threads: int = 1
    seed: int = 0
    report_every: int = 50
    checkpoint_every: int = 250

    @property
    def checkpoint(self) -> Path:
        """File that an interrupted run goes on from."""
        return self.out_dir / "judge.checkpoint.safetensors"

    @property
    def result(self) -> Path:
        """The finished weights."""
        return self.out_dir / "judge.safetensors"


def judge_loss(said: Maps, wanted: Maps) -> Tensor:
    """The three losses' weighted sum, per centre cell."""
    if wanted.weight is None:
        raise ValueError("targets carry weights")
    num_centres = (wanted.heat == 1).sum().clamp_min(1)
    confidence = said.heat.sigmoid()
    found, missed = F.logsigmoid(said.heat), F.logsigmoid(-said.heat)
    at_centres = torch.where(wanted.heat == 1, found * (1 - confidence) ** 2, 0.0)
    elsewhere = torch.where(wanted.heat < 1, missed * confidence**2 * (1 - wanted.heat) ** 4, 0.0)
    heat = -(at_centres.sum() + elsewhere.sum()) / num_centres
    near = wanted.weight.sum().clamp_min(1)
    box = ((said.box - wanted.box).abs() * wanted.weight).sum() / near
    shades = F.cross_entropy(said.color, wanted.color, ignore_index=-1, reduction="none")
    color = (shades * wanted.weight[:, 0]).sum() / near
    return heat + BOX_WEIGHT * box + COLOR_WEIGHT * color


def make_batch(sources: tuple[LabelledPictures, ...], config: JudgeTrainConfig, step: int) -> tuple[Tensor, Tensor]:
    """Step number `step`'s pictures (B, 3, 128, 128), channels last, and labels (B, MAX_LABELS, 6)."""
    rng = np.random.default_rng((config.seed, step))
    chosen = rng.choice(len(sources), config.batch_size, p=config.shares)
    pictures, labels = [], []
    for index in chosen:
        source = sources[index]
        place = int(rng.integers(len(source.pixels)))
        pictures.append(degrade(source.pixels[place], rng, is_soft=source.is_soft))
        labels.append(source.labels[place])
    pixels = torch.from_numpy(bend_slightly(np.stack(pictures), rng))
    return pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.stack(labels))


def build_loop(sources: tuple[LabelledPictures, ...], config: JudgeTrainConfig) -> TrainingLoop:
    """A fresh run, seeded by the configuration."""
    torch.manual_seed(config.seed)
    shape = JudgeShape(len(object_names()), len(COLORS), config.channels, config.blocks)
    model = JudgeNetwork(shape)

    def objective(step: int) -> tuple[Tensor, Tensor]:
        pixels, labels = make_batch(sources, config, step)
        loss = judge_loss(model(pixels), encode_labels(labels, shape.num_classes))
        return loss, loss.detach()

    return TrainingLoop(model, config, objective)


def open_sources(config: JudgeTrainConfig, report: Callable[[str], None]) -> tuple[LabelledPictures, ...]:
    """All that `config.shares` share; what is not the dataset is rendered into `out_dir` where it is missing.

    Raises FileNotFoundError where the dataset is missing, ValueError where its pictures are not 128 px.
    """
    folder = config.out_dir
    world = world_pictures(config.dataset)
    own_world = load_dataset(config.dataset).world
    held_out = render_held_out(own_world, config.num_held_out, folder / "held_out.npy", report)
    broken = render_broken(config.num_broken, folder / "broken.npy", config.seed, report)
    round_trips = render_round_trips(
        (world, world, broken),
        config.num_round_trips,
        config.autoencoder,
        folder / "round_trips.npy",
        config.seed,
        report,
    )
    return world, held_out, broken, round_trips


def train_judge(
    config: JudgeTrainConfig,
    *,
    report: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Train, or go on training; returns the weights' file, or None where `should_stop` ended it early.

    Stopping saves a checkpoint first. Raises FileNotFoundError where the dataset is missing.
    """
    torch.set_num_threads(config.num_threads)
    sources = open_sources(config, report)
    loop = build_loop(sources, config)
    report(f"{sum(p.numel() for p in loop.parameters) / 1e6:.2f} M parameters")
    if not loop.run({}, report=report, should_stop=should_stop):
        return None
    model = cast(JudgeNetwork, loop.ema)
    # Batches beyond those that were trained on.
    beyond = range(config.max_steps, config.max_steps + NUM_STATISTICS_BATCHES)
    update_bn((make_batch(sources, config, step)[0] for step in beyond), model)
    write_weights(model, config.result)
    # Chosen for the weights as they will be read, rounded to float16.
    threshold = choose_threshold(load_judge(config.result), config.autoencoder)
    write_weights(model, config.result, threshold)
    report(f"finished at step {loop.step}, threshold {threshold}: {config.result}")
    return config.result


def write_weights(model: JudgeNetwork, target: Path, threshold: float = 0.5) -> None:
    """The network as float16 safetensors whose metadata says what its outputs mean, and from when on they count."""
    described = {
        "classes": json.dumps(object_names()),
        "colors": json.dumps(COLORS),
        "channels": json.dumps(model.shape.channels),
        "blocks": json.dumps(model.shape.blocks),
        "threshold": str(threshold),
        "version": VERSION,
    }
    tensors = {
        name: value.detach().half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    save_file(tensors, target, metadata=described)
