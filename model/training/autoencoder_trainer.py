"""Trains the demo's small DC-AE (arXiv 2410.10733; diffusers' AutoencoderDC) on rendered scenes.

The decoder sees latents with noise added, so that it forgives the denoiser's errors. At the end every latent channel
is normalised inside the network itself, so one scaling factor (1.0) serves all. Batches and noise are functions of
(seed, step): a run that was stopped goes on exactly as if it had not been.
Shapes: pixels (B, 3, H, W) in -1..1, latents (B, C, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from PIL import Image
from torch import Tensor, nn

from model.engine import choose_device, choose_dtype
from model.training.checkpoints import read_meta
from model.training.dataset import SceneDataset, load_dataset
from model.training.devices import CPU, Place, open_place
from model.training.loop import TrainingLoop
from model.training.recolor import ByteArray
from model.training.reconstruction import (
    encode,
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
    """One training run; `model.training.loop.LoopSettings` says what its budget and schedule mean.

    `channels` and `layers` are per stage from full resolution down, halving each time; the first stage has no layers,
    so that full resolution costs nothing. `latent_noise` is the largest noise added, in standard deviations.
    `frozen_encoder` is a finished autoencoder whose encoder is kept as it is, so that its latents stay valid, while
    the decoder learns on: from the finished one where `decoder_channels` and `decoder_layers` are the same, else anew.
    `is_sharded` is FSDP instead of DDP, where torchrun started several processes.
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
    max_grad_norm: float = 1.0
    gradient_weight: float = 1.0
    latent_weight: float = 1e-3
    latent_noise: float = 0.2
    ema_decay: float = 0.999
    frozen_encoder: Path | None = None
    is_compiled: bool = True
    device: str = "auto"
    dtype: str = "auto"
    is_sharded: bool = False
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


class RoundTrip(nn.Module):
    """An autoencoder's forward pass as it is trained, in one call, so that several processes can share it."""

    def __init__(self, autoencoder: AutoencoderDC, place: Place) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self._place = place

    def forward(self, pixels: Tensor, sigma: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) -> latents of the whole batch and what the decoder makes of the disturbed ones.

        `sigma` (B, 1, 1, 1) is the strength of `noise`, like the latents, in standard deviations.
        """
        latents = self.autoencoder.encoder(pixels)
        of_all = self._place.all_rows(latents)
        return of_all, self.autoencoder.decoder(latents + sigma * of_all.detach().std() * noise)


def build_loop(config: AutoencoderTrainConfig, batch_of: Callable[[int], Tensor], place: Place = CPU) -> TrainingLoop:
    """A fresh run, seeded by the configuration. `batch_of` gives a step's pixels (B, 3, H, W)."""
    torch.manual_seed(config.seed)
    model = build_autoencoder(config)
    if config.frozen_encoder is not None:
        _start_from(model, config.frozen_encoder)
    layout = torch.channels_last if place.mesh is None else torch.contiguous_format  # all that FSDP can shard
    model = model.to(place.device, memory_format=layout)
    if config.is_compiled:
        model.encoder.compile(dynamic=False)
        model.decoder.compile(dynamic=False)

    def objective(step: int) -> tuple[Tensor, Tensor]:
        whole = batch_of(step)
        source = torch.Generator(place.device).manual_seed(config.seed * 1_000_003 + step)
        sigma = torch.rand(len(whole), 1, 1, 1, generator=source, device=place.device) * config.latent_noise
        side_px = model.spatial_compression_ratio
        shape = (len(whole), config.latent_channels, whole.shape[2] // side_px, whole.shape[3] // side_px)
        noise = torch.randn(shape, generator=source, device=place.device)
        pixels = place.own_rows(whole).to(place.device)
        latents, output = loop.network(pixels, place.own_rows(sigma), place.own_rows(noise))
        loss = reconstruction_loss(output, pixels, config.gradient_weight)
        return loss + config.latent_weight * latent_loss(latents), loss.detach()

    loop = TrainingLoop(model, config, objective, place=place, network=RoundTrip(model, place))
    return loop


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
    device = choose_device(config.device)
    with closing(open_place(device, choose_dtype(config.dtype, device), is_sharded=config.is_sharded)) as place:
        if place.num_processes == 1:  # otherwise torchrun's OMP_NUM_THREADS says
            torch.set_num_threads(config.num_threads)
        dataset = load_dataset(config.dataset)
        # A dataset may still grow while it is rendered: a run keeps to the scenes that were there when it began.
        found = read_meta(config.checkpoint) if config.checkpoint.exists() else {}
        meta = {"num_scenes": int(place.of_main(found.get("num_scenes", len(dataset.captions))))}
        loop = build_loop(config, lambda step: _batch(dataset, meta["num_scenes"], config, step), place)
        held_out = np.stack([dataset.world.scene(10**9 + index).pixels for index in range(NUM_HELD_OUT)])

        def tell_quality() -> None:
            average = loop.average()
            if place.is_main:
                quality = psnr(reconstruct(average, held_out), held_out)
                report(f"step {loop.step} held-out PSNR {quality:.2f} dB")
                loop.tell("held_out_psnr_db", quality)

        is_finished = loop.run(meta, report=report, should_stop=should_stop, on_checkpoint=tell_quality)
        average = loop.average().eval()
        if is_finished and place.is_main:
            _finish(config, average, loop.step, dataset, held_out, report)
        place.wait()
        return config.result if is_finished else None


def _batch(dataset: SceneDataset, num_scenes: int, config: AutoencoderTrainConfig, step: int) -> Tensor:
    choice = np.random.default_rng((config.seed, step)).integers(0, num_scenes, config.batch_size)
    return to_network(dataset.pixels[np.sort(choice)])


def _finish(
    config: AutoencoderTrainConfig,
    model: AutoencoderDC,
    step: int,
    dataset: SceneDataset,
    held_out: ByteArray,
    report: Callable[[str], None],
) -> None:
    sample = np.random.default_rng(config.seed).choice(len(dataset.pixels), min(2048, len(dataset.pixels)), False)
    if config.frozen_encoder is None:
        normalize_latents(model, dataset.pixels[np.sort(sample)])
    model.save_pretrained(config.result)
    output = reconstruct(model, held_out)
    pairs = np.concatenate([held_out[:32], output[:32]], axis=2)  # (32, H, 2W, 3)
    rows = [np.concatenate(list(pairs[start : start + 8]), axis=1) for start in range(0, 32, 8)]
    Image.fromarray(np.concatenate(rows)).save(config.out_dir / "reconstructions.png")
    report(f"finished at step {step}: held-out PSNR {psnr(output, held_out):.2f} dB, {config.result}")


@torch.no_grad()
def encode_dataset(
    autoencoder: Path,
    dataset: Path,
    target: Path,
    *,
    batch_size: int = 64,
    device: str = "auto",
    report: Callable[[str], None] = print,
) -> Path:
    """Scaled latents of every finished scene, float16 (N, C, h, w), written to the .npy file `target`."""
    model = AutoencoderDC.from_pretrained(autoencoder).eval()
    model = model.to(choose_device(device), memory_format=torch.channels_last)
    pixels = load_dataset(dataset).pixels
    shape = encode(model, pixels[:1]).shape[1:]
    draft = target.with_suffix(".partial")
    latents = np.lib.format.open_memmap(draft, mode="w+", dtype=np.float16, shape=(len(pixels), *shape))
    for start in range(0, len(pixels), batch_size):
        batch = encode(model, pixels[start : start + batch_size]) * model.config.scaling_factor
        latents[start : start + batch_size] = batch.cpu().numpy().astype(np.float16)
        if start // batch_size % 100 == 0:
            report(f"encoded {start + len(batch)} of {len(pixels)}")
    latents.flush()
    draft.replace(target)
    return target
