"""What tests of the trainers share: small data, small networks, small settings, and how their reports are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC
from transformers import Dinov2Config, Dinov2Model

from model.training import dataset
from model.training.denoiser_trainer import DenoiserTrainConfig
from model.training.world import EmojiWorld
from tests.support.tiny_bundle import TINY_AUTOENCODER


def be_quiet(line: str) -> None:
    """A report that nobody reads."""


def losses_of(lines: Iterable[str]) -> list[float]:
    """The losses that a trainer reported."""
    return [float(line.split("loss ")[1].split()[0]) for line in lines if " loss " in line]


class StopAfter:
    """Says stop at the n-th question, which a trainer asks after every step."""

    def __init__(self, num_steps: int) -> None:
        self.left = num_steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def render_quietly(world: EmojiWorld, num_scenes: int, folder: Path, report: Callable[[str], None] = be_quiet) -> Path:
    """A rendered dataset, made by a thread of this process: a process of its own would take longer to start."""

    def threads(num_workers: int, context: object, initializer: Any, initargs: Any) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(num_workers, initializer=initializer, initargs=initargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "ProcessPoolExecutor", threads)
        patch.setattr(dataset, "_worlds", [])  # one a process
        return dataset.render_dataset(world, num_scenes, folder, num_workers=1, report=report)


def write_tiny_autoencoder(folder: Path, **changes: Any) -> Path:
    """An autoencoder of 4 channels and an eighth of the side."""
    AutoencoderDC(**{**TINY_AUTOENCODER, **changes}).save_pretrained(folder)
    return folder


def write_tiny_dinov2(folder: Path, **changes: int) -> Path:
    """A vision transformer of 16x16 patches and 24 features, seeded."""
    torch.manual_seed(0)
    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 2, "image_size": 32}
    Dinov2Model(Dinov2Config(**{**size, **changes})).save_pretrained(folder)
    return folder


def tiny_denoiser(scenes: Path, folder: Path, **changes: Any) -> DenoiserTrainConfig:
    """A denoiser's run on a dataset with made-up latents (4, 8, 8), written to `folder`: no picture is looked at."""
    shape = (len(dataset.load_dataset(scenes).pixels), 4, 8, 8)
    np.save(folder / "latents.npy", np.random.default_rng(0).normal(size=shape).astype(np.float16))
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "stages": (1, 1, 1),
        "text_hidden_size": 32,
        "text_layers": 1,
        "batch_size": 4,
        "max_steps": 4,
        "warmup_steps": 2,
        "num_threads": 1,
        "report_every": 1,
        "device": "cpu",
    }
    places = {"dataset": scenes, "latents": folder / "latents.npy", "out_dir": folder / "out"}
    return DenoiserTrainConfig(**{**places, **settings, **changes})
