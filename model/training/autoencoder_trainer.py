"""Trains the demo's small DC-AE (arXiv 2410.10733; diffusers' AutoencoderDC) on rendered scenes.

The decoder sees latents with noise added, so that it forgives the denoiser's errors. At the end every latent channel
is normalised inside the network itself, so one scaling factor (1.0) serves all. Batches and noise are functions of
(seed, step): a run that was stopped goes on exactly as if it had not been.
Shapes: pixels (B, 3, H, W) in -1..1, latents (B, C, h, w).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderDC
from PIL import Image
from torch import Tensor, nn

from model.training.checkpoints import load_checkpoint, save_checkpoint
from model.training.dataset import SceneDataset, load_dataset
from model.training.recolor import ByteArray
from model.training.reconstruction import (
    latent_loss,
    normalize_latents,
    psnr,
    reconstruct,
    reconstruction_loss,
    to_network,
)

NUM_HELD_OUT = 128  # scenes beyond the dataset's last one, on which PSNR is measured


@dataclass(frozen=True, slots=True)
class AutoencoderTrainConfig:
    """One training run. It ends at `max_steps` or after `max_minutes` of training, whichever comes first.

    `channels` and `layers` are per stage from full resolution down, halving each time; the first stage has no layers,
    so that full resolution costs nothing. `latent_noise` is the largest noise added, in standard deviations.
    `frozen_encoder` is a finished autoencoder whose encoder is kept as it is, so that its latents stay valid, while
    the decoder learns on: from the finished one where `decoder_channels` and `decoder_layers` are the same, else anew.
    """

    dataset: Path
    out_dir: Path
    encoder_channels: tuple[int, ...] = (16, 16, 32, 64, 128)
    decoder_channels: tuple[int, ...] = (16, 16, 32, 64, 128)
    encoder_layers: tuple[int, ...] = (0, 1, 1, 1, 1)
    decoder_layers: tuple[int, ...] = (0, 1, 1, 1, 1)
    latent_channels: int = 32
    batch_size: int = 16
    max_steps: int = 30_000
    max_minutes: float = math.inf
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    decay_from: float = 0.5
    weight_decay: float = 0.01
    gradient_weight: float = 1.0
    latent_weight: float = 1e-3
    latent_noise: float = 0.2
    ema_decay: float = 0.999
    frozen_encoder: Path | None = None
    is_compiled: bool = True
    num_threads: int = 2
    seed: int = 0
    report_every: int = 50
    checkpoint_every: int = 500

    @property
    def checkpoint(self) -> Path:
        """File that an interrupted run goes on from."""
        return self.out_dir / "autoencoder.checkpoint.safetensors"

    @property
    def result(self) -> Path:
        """Folder of the finished AutoencoderDC."""
        return self.out_dir / "autoencoder"


def build_autoencoder(config: AutoencoderTrainConfig) -> AutoencoderDC:
    """A small, randomly initialised AutoencoderDC. No shortcuts around the latent: its normalisation is folded in."""
    num_stages = len(config.encoder_channels)
    blocks, no_attention = ("ResBlock",) * num_stages, ((),) * num_stages
    return AutoencoderDC(
        latent_channels=config.latent_channels,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=config.encoder_channels,
        decoder_block_out_channels=config.decoder_channels,
        encoder_layers_per_block=config.encoder_layers,
        decoder_layers_per_block=config.decoder_layers,
        encoder_qkv_multiscales=no_attention,
        decoder_qkv_multiscales=no_attention,
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
        scaling_factor=1.0,
    )


class _Run:
    """One training run's state: network, average, optimiser, step."""

    def __init__(self, config: AutoencoderTrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.model = build_autoencoder(config).to(memory_format=torch.channels_last)
        if config.frozen_encoder is not None:
            _start_from(self.model, config.frozen_encoder)
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )
        self.step, self.num_skipped, self.elapsed_s = 0, 0, 0.0
        self.encoder: Callable[[Tensor], Tensor] = self.model.encoder
        self.decoder: Callable[[Tensor], Tensor] = self.model.decoder
        if config.is_compiled:
            self.encoder = torch.compile(self.model.encoder, dynamic=False)
            self.decoder = torch.compile(self.model.decoder, dynamic=False)

    @property
    def progress(self) -> float:
        """0..1: how much of the budget, steps or minutes, is used up."""
        return min(1.0, max(self.step / self.config.max_steps, self.elapsed_s / 60 / self.config.max_minutes))

    def learning_rate(self) -> float:
        """Warm-up, constant, then down to zero in a straight line."""
        config = self.config
        warm = min(1.0, (self.step + 1) / config.warmup_steps)
        return config.learning_rate * warm * min(1.0, (1 - self.progress) / (1 - config.decay_from))

    def train_step(self, pixels: Tensor) -> float:
        """One update; returns the loss. A step whose loss or gradient is not finite changes nothing."""
        config = self.config
        noise_source = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        latents = self.encoder(pixels)
        sigma = torch.rand(len(pixels), 1, 1, 1, generator=noise_source) * config.latent_noise
        noise = torch.randn(latents.shape, generator=noise_source)
        output = self.decoder(latents + sigma * latents.detach().std() * noise)
        loss = reconstruction_loss(output, pixels, config.gradient_weight)
        torch.autograd.backward(loss + config.latent_weight * latent_loss(latents))
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if torch.isfinite(loss) and torch.isfinite(norm):
            self.optimizer.step()
            self._update_ema()
        else:
            self.num_skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        averages = [average for average in self.ema.state_dict().values() if average.is_floating_point()]
        values = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        torch._foreach_lerp_(averages, values, 1 - decay)

    def save(self, meta: dict[str, Any]) -> None:
        """Write the checkpoint."""
        values = {**meta, "step": self.step, "num_skipped": self.num_skipped, "elapsed_s": self.elapsed_s}
        save_checkpoint(self.config.checkpoint, values, {"model": self.model, "ema": self.ema}, self.optimizer)

    def restore(self) -> dict[str, Any]:
        """Continue from the checkpoint; returns its meta values."""
        modules = {"model": self.model, "ema": self.ema}
        meta = load_checkpoint(self.config.checkpoint, modules, self.optimizer)
        self.step, self.num_skipped, self.elapsed_s = meta["step"], meta["num_skipped"], meta["elapsed_s"]
        return meta


def _start_from(model: AutoencoderDC, folder: Path) -> None:
    finished = AutoencoderDC.from_pretrained(folder)
    model.encoder.load_state_dict(finished.encoder.state_dict())
    model.encoder.requires_grad_(False)
    sizes = ("decoder_block_out_channels", "decoder_layers_per_block")
    if all(tuple(model.config[size]) == tuple(finished.config[size]) for size in sizes):
        model.decoder.load_state_dict(finished.decoder.state_dict())


def train_autoencoder(
    config: AutoencoderTrainConfig,
    *,
    report: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Train, or go on training; returns the finished AutoencoderDC folder, or None where `should_stop` ended it early.

    Stopping saves a checkpoint first. Raises FileNotFoundError where the dataset is missing.
    """
    torch.set_num_threads(config.num_threads)
    dataset = load_dataset(config.dataset)
    run = _Run(config)
    meta: dict[str, Any] = {"num_scenes": len(dataset.captions), "config": _plain(config)}
    if config.checkpoint.exists():
        meta = run.restore()
        report(f"continuing at step {run.step}")
    held_out = np.stack([dataset.world.scene(10**9 + index).pixels for index in range(NUM_HELD_OUT)])
    losses: list[float] = []
    started_s, elapsed_before_s, reported_step = time.monotonic(), run.elapsed_s, run.step
    reported_s = started_s
    while run.progress < 1:
        losses.append(run.train_step(_batch(dataset, meta["num_scenes"], config, run.step)))
        now_s = time.monotonic()
        run.elapsed_s = elapsed_before_s + now_s - started_s
        if run.step % config.report_every == 0:
            rate = (run.step - reported_step) * config.batch_size / (now_s - reported_s)
            report(_progress_line(run, float(np.mean(losses)), rate))
            losses, reported_step, reported_s = [], run.step, now_s
        if run.step % config.checkpoint_every == 0:
            run.save(meta)
            report(f"step {run.step} held-out PSNR {psnr(reconstruct(run.ema, held_out), held_out):.2f} dB")
        if should_stop():
            run.save(meta)
            return None
    run.save(meta)
    return _finish(run, dataset, held_out, report)


def _plain(config: AutoencoderTrainConfig) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}


def _batch(dataset: SceneDataset, num_scenes: int, config: AutoencoderTrainConfig, step: int) -> Tensor:
    choice = np.random.default_rng((config.seed, step)).integers(0, num_scenes, config.batch_size)
    return to_network(dataset.pixels[np.sort(choice)])


def _progress_line(run: _Run, loss: float, rate: float) -> str:
    left_s = run.elapsed_s * (1 - run.progress) / max(run.progress, 1e-9)
    return (
        f"step {run.step} loss {loss:.4f} {rate:.0f} pictures/s lr {run.learning_rate():.1e} "
        f"skipped {run.num_skipped} left {left_s / 60:.1f} min"
    )


def _finish(run: _Run, dataset: SceneDataset, held_out: ByteArray, report: Callable[[str], None]) -> Path:
    model = run.ema.eval()
    sample = np.random.default_rng(run.config.seed).choice(len(dataset.pixels), min(2048, len(dataset.pixels)), False)
    if run.config.frozen_encoder is None:
        normalize_latents(model, dataset.pixels[np.sort(sample)])
    model.save_pretrained(run.config.result)
    output = reconstruct(model, held_out)
    pairs = np.concatenate([held_out[:32], output[:32]], axis=2)  # (32, H, 2W, 3)
    rows = [np.concatenate(list(pairs[start : start + 8]), axis=1) for start in range(0, 32, 8)]
    Image.fromarray(np.concatenate(rows)).save(run.config.out_dir / "reconstructions.png")
    report(f"finished at step {run.step}: held-out PSNR {psnr(output, held_out):.2f} dB, {run.config.result}")
    return run.config.result


@torch.no_grad()
def encode_dataset(
    autoencoder: Path, dataset: Path, target: Path, *, batch_size: int = 64, report: Callable[[str], None] = print
) -> Path:
    """Scaled latents of every finished scene, float16 (N, C, h, w), written to the .npy file `target`."""
    model = AutoencoderDC.from_pretrained(autoencoder).eval().to(memory_format=torch.channels_last)
    pixels = load_dataset(dataset).pixels
    shape = model.encoder(to_network(pixels[:1])).shape[1:]
    draft = target.with_suffix(".partial")
    latents = np.lib.format.open_memmap(draft, mode="w+", dtype=np.float16, shape=(len(pixels), *shape))
    for start in range(0, len(pixels), batch_size):
        batch = model.encoder(to_network(pixels[start : start + batch_size])) * model.config.scaling_factor
        latents[start : start + batch_size] = batch.numpy().astype(np.float16)
        if start // batch_size % 100 == 0:
            report(f"encoded {start + len(batch)} of {len(pixels)}")
    latents.flush()
    draft.replace(target)
    return target
