"""Fits the projection that a bundle's previews are drawn with, from pictures and what its autoencoder makes of them.

Closed form: the pictures pass once, in batches, and the fit is seconds beside their encoding. Every tenth picture is
kept out of it, to say how good previews are, and how good they would be without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.autoencoder import Autoencoder
from model.bundle import name_preview, read_bundle
from model.engine import choose_device, choose_dtype
from model.errors import BundleError
from model.preview import PREVIEW_NAME, Previews, Projection
from model.preview_fit import PREVIEW_SCALE, RidgeFit, downscaled
from model.training.recolor import ByteArray
from model.training.sources import SourceError, Unusable, open_sample, open_source

HELD_OUT_EVERY = 10
FEW_PICTURES = 16  # after which the fallback is measured
MIN_PICTURES = 20
_SHARD_SAMPLES = 256
_LINES = 10  # of progress


@dataclass(frozen=True, slots=True)
class PreviewConfig:
    """One fit: the bundle's folder, and a source of pictures as `emmdit train prepare` takes it."""

    bundle: Path
    pictures: Path
    max_pictures: int = 2000
    batch_size: int = 8
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class PreviewReport:
    """Mean PSNR in dB of previews of held-out pictures, against the pictures as small as they are.

    Of the fitted projection, and of a bundle without one: before it has decoded anything, and after a few pictures.
    """

    num_fitted: int
    num_held_out: int
    fitted_db: float
    grey_db: float
    learnt_db: float

    def lines(self) -> tuple[str, ...]:
        """For the operator."""
        return (
            f"fitted to {self.num_fitted} pictures; on {self.num_held_out} others previews reach:",
            f"  {self.fitted_db:5.2f} dB  fitted",
            f"  {self.learnt_db:5.2f} dB  without it, once {FEW_PICTURES} pictures have been decoded",
            f"  {self.grey_db:5.2f} dB  without it, before the first",
        )


def fit_preview(config: PreviewConfig, *, report: Callable[[str], None] = print) -> PreviewReport:
    """Fit, measure, write `preview.safetensors` into the bundle's folder and name it in its manifest.

    Raises SourceError for pictures that can't be read or are too few, a BundleError for the bundle.
    """
    bundle = read_bundle(config.bundle)
    bundle.refuse_unsafe_files()
    device = choose_device(config.device)
    autoencoder = Autoencoder.load(
        bundle.parts.autoencoder,
        num_channels=bundle.config.in_channels,
        device=device,
        dtype=choose_dtype("auto", device),
    )
    size_px = bundle.config.sample_size * autoencoder.spatial_compression
    fit, fallback = RidgeFit(autoencoder.num_channels), Previews(autoencoder.num_channels)
    held_out: list[_HeldOut] = []
    first: list[tuple[Tensor, ByteArray]] = []
    num_done = 0
    for pixels in _batches(config, size_px, report):
        latents = autoencoder.encode(pixels).float().cpu()
        kept = (np.arange(num_done, num_done + len(pixels)) + 1) % HELD_OUT_EVERY > 0
        fit.add(latents[kept], pixels[kept])
        held_out += [_HeldOut.of(latents[row], pixels[row]) for row in np.flatnonzero(~kept)]
        if len(first) < FEW_PICTURES:
            first += zip(latents[kept], pixels[kept], strict=True)
        before, num_done = num_done, num_done + len(pixels)
        if before * _LINES // config.max_pictures < num_done * _LINES // config.max_pictures:
            report(f"{num_done} pictures encoded")
    if num_done < MIN_PICTURES:
        raise SourceError(f"{config.pictures}: {num_done} pictures that can be read; {MIN_PICTURES} are needed")
    grey_db = _mean_psnr(fallback, held_out)
    for one, picture in first[:FEW_PICTURES]:
        fallback.learn(one[None], picture[None])
    learnt_db = _mean_psnr(fallback, held_out)
    path = bundle.folder / PREVIEW_NAME
    try:
        Projection(*fit.solve()).save(path)
        name_preview(bundle, PREVIEW_NAME)
    except OSError as error:
        raise BundleError(f"{path}: can't be written: {error}") from error
    fitted = Previews(autoencoder.num_channels)
    fitted.given = Projection.load(path, autoencoder.num_channels)  # as it will be: rounded to float16
    fitted_db = _mean_psnr(fitted, held_out)
    figures = PreviewReport(num_done - len(held_out), len(held_out), fitted_db, grey_db, learnt_db)
    report("\n".join((*figures.lines(), f"written: {path}, {path.stat().st_size:,} bytes")))
    return figures


@dataclass(frozen=True, slots=True, eq=False)
class _HeldOut:
    """Latents (c, h, w) of a picture, and the picture (3, 4 h, 4 w) in [0, 1] as small as its preview."""

    latents: Tensor
    small: Tensor

    @classmethod
    def of(cls, latents: Tensor, picture: ByteArray) -> _HeldOut:
        _, height, width = latents.shape
        return cls(latents, downscaled(picture[None], (height * PREVIEW_SCALE, width * PREVIEW_SCALE))[0])


def _mean_psnr(previews: Previews, pictures: Sequence[_HeldOut]) -> float:
    shown = [torch.from_numpy(previews.draw(picture.latents)).permute(2, 0, 1) / 255 for picture in pictures]
    errors = [float((one - picture.small).square().mean()) for one, picture in zip(shown, pictures, strict=True)]
    return float(np.mean([-10 * np.log10(max(error, 1e-10)) for error in errors]))


def _batches(config: PreviewConfig, size_px: int, report: Callable[[str], None]) -> Iterator[ByteArray]:
    """Pictures (b, size, size, 3). What can't be read is told and passed over."""
    pictures = islice(_pictures(config.pictures, size_px, report), config.max_pictures)
    while batch := list(islice(pictures, config.batch_size)):
        yield np.stack(batch)


def _pictures(path: Path, size_px: int, report: Callable[[str], None]) -> Iterator[ByteArray]:
    source = open_source(path, _SHARD_SAMPLES)
    for shard in range(source.num_shards):
        try:
            for sample in source.read(shard):
                try:
                    yield open_sample(replace(sample, caption="none needed"), size_px).pixels
                except Unusable as problem:
                    report(f"passed over: {sample.name}: {problem}")
        except Unusable as problem:
            report(f"shard {shard}: {problem}")
