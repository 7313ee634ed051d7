"""Trains E-MMDiT alone, as published: on prepared latents and frozen text embeddings, by a recipe (arXiv 2510.27135).

Stage 1 adds REPA, stage 2 an average of the weights. The loop, devices and checkpoints are those of every trainer; what
a step trains on is a function of (seed, step, device) (`batches.py`).
Shapes: latents (b, c, h, w), text (b, t, channels), features (b, n, channels).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.autoencoder import Autoencoder
from model.bundle import read_bundle
from model.engine import choose_device
from model.schedule import NUM_TRAIN_TIMESTEPS
from model.text import TextEncoder
from model.training.aligned_transformer import AlignedTransformer, start_from
from model.training.batches import ReadAhead, RecipeBatches, Rows, deal
from model.training.checkpoints import read_meta
from model.training.devices import Place, open_place
from model.training.dinov2 import GRID
from model.training.encoders import load_text_encoder
from model.training.flow_matching import add_noise, logit_normal, velocity_loss
from model.training.loop import LoopOptions, TrainingLoop
from model.training.prepared_data import PreparedData
from model.training.recipe import Recipe, RecipeError
from model.training.repa import repa_loss, to_grid
from model.training.sample_grid import NUM_SAMPLES, SAMPLES_NAME, SampleGrids

NUM_READERS = 4  # threads that read and draw what comes next
# What may differ between a run and its continuation: how long, on what, and how much is told.
_FREE_KEYS = ("max_steps", "rows_per_forward", "report_every", "checkpoint_every")


@dataclass(frozen=True, slots=True)
class RecipeRun:
    """One run of a recipe. `data`: folders of `emmdit train prepare`, taken together.

    `start_from` is a bundle's folder, a transformer file or a checkpoint whose weights a new run begins with. `bundle`
    holds the text encoder, where the data has captions only; the one that prepared the data, unless given. Its parts
    also draw sample grids, one every `sample_every_min` minutes at most; 0 draws none and loads nothing for it.
    """

    recipe: Recipe
    data: tuple[Path, ...]
    out_dir: Path
    start_from: Path | None = None
    bundle: Path | None = None
    rows_per_forward: int | None = None
    device: str = "auto"
    is_sharded: bool = False
    is_compiled: bool = False
    sample_every_min: float = 0.0


@dataclass(frozen=True, slots=True)
class RecipeSettings:
    """What the loop needs of a recipe (`model.training.loop.LoopSettings`); the published rate never falls."""

    recipe: Recipe
    checkpoint: Path
    batch_size: int
    max_steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    ema_decay: float
    report_every: int
    checkpoint_every: int
    max_minutes: float = math.inf
    decay_from: float = 1.0

    @classmethod
    def of(cls, recipe: Recipe, out_dir: Path) -> RecipeSettings:
        """The settings of a recipe's run in `out_dir`."""
        values = recipe.training
        return cls(
            recipe=recipe,
            checkpoint=out_dir / "recipe.checkpoint.safetensors",
            batch_size=values.batch_size,
            max_steps=values.max_steps,
            learning_rate=values.learning_rate,
            warmup_steps=values.warmup_steps,
            weight_decay=values.weight_decay,
            max_grad_norm=values.max_grad_norm,
            ema_decay=values.ema_decay,
            report_every=values.report_every,
            checkpoint_every=values.checkpoint_every,
        )


class RecipeTrainer:
    """A run, built and ready: loop, data and the readers ahead of it."""

    def __init__(self, run: RecipeRun, place: Place) -> None:
        """Raises RecipeError, ShardError or a BundleError for whatever does not fit."""
        recipe, values = run.recipe, run.recipe.training
        self.place = place
        self.recipe = recipe
        self.data = PreparedData(run.data)
        self.config = recipe.model_config(self.data)
        self.deal = deal(
            values.batch_size, run.rows_per_forward or values.rows_per_forward, place.rank, place.num_processes
        )
        self.bundle = run.bundle or Path(self.data.manifest.bundle)
        self.text = None if self.data.manifest.has_text else self.load_text_encoder(place.dtype)
        torch.manual_seed(values.seed)
        model = AlignedTransformer(self.config, recipe.repa)
        settings = RecipeSettings.of(recipe, run.out_dir)
        if run.start_from is not None and not settings.checkpoint.exists():
            start_from(model.transformer, run.start_from)
        if run.is_compiled:
            model.transformer.compile(dynamic=False)
        options = LoopOptions(
            adam_betas=values.adam_betas,
            adam_eps=values.adam_eps,
            num_parts=self.deal.num_parts,
            is_ema_warmed=False,
        )
        self.loop = TrainingLoop(model.to(place.device), settings, self.objective, place=place, options=options)
        batches = RecipeBatches(self.data, values, self.deal, with_features=recipe.repa is not None)
        self.rows = ReadAhead(
            lambda number: self._pinned(batches.rows(*divmod(number, self.deal.num_parts))),
            num_ahead=NUM_READERS,
            num_threads=NUM_READERS,
        )

    def objective(self, number: int) -> tuple[Tensor, Tensor]:
        """Loss of forward number `number` (step * parts + part): with REPA, and without it as it is shown."""
        values, device = self.recipe.training, self.place.device
        rows = self.rows.get(number)
        clean = rows.clean.to(device, non_blocking=True).float()
        noise = rows.noise.to(device, non_blocking=True)
        normal = rows.normal.to(device, non_blocking=True)
        sigma = logit_normal(normal, values.timestep_mean, values.timestep_std, values.timestep_shift)
        noisy = add_noise(clean, noise, sigma)
        velocity, projected = self.loop.network(noisy, self._embed(rows), sigma * NUM_TRAIN_TIMESTEPS)
        loss = velocity_loss(velocity, clean, noise)
        if projected is None or rows.features is None or self.recipe.repa is None:
            return loss, loss.detach()
        features = rows.features.to(device, non_blocking=True).unflatten(1, (GRID, GRID))
        target = to_grid(features, (clean.shape[-2], clean.shape[-1]))
        return loss + self.recipe.repa.weight * repa_loss(projected, target), loss.detach()

    def meta(self) -> dict[str, Any]:
        """What a checkpoint says beside its tensors and the recipe: for continuing, and for export."""
        manifest = self.data.manifest
        return {
            "data": self.data.fingerprint,
            "architecture": self.config.to_dict(),
            "bundle": str(self.bundle.resolve()),
            "size_px": manifest.size_px,
        }

    def refuse_other_runs(self) -> None:
        """Raise RecipeError where the checkpoint is of another recipe or other data."""
        if not self.loop.settings.checkpoint.exists():
            return
        path, found = self.loop.settings.checkpoint, read_meta(self.loop.settings.checkpoint)
        wanted = json.loads(json.dumps(asdict(self.recipe)))
        for values in (found["config"]["recipe"]["training"], wanted["training"]):
            for key in _FREE_KEYS:
                del values[key]
        before, after = _flat(found["config"]["recipe"]), _flat(wanted)
        if differing := sorted(key for key in before | after if before.get(key) != after.get(key)):
            raise RecipeError(f"{path} is of another recipe ({', '.join(differing)} differ); choose another --out")
        if found["data"] != self.data.fingerprint:
            raise RecipeError(f"{path} was trained on other data; choose another --out, or the same --data")

    def _embed(self, rows: Rows) -> Tensor:
        device = self.place.device
        if rows.text is not None:
            return rows.text.to(device, non_blocking=True).to(self.place.dtype)
        assert self.text is not None
        with torch.autocast(device.type, enabled=False):  # the encoder speaks as it does when serving
            return self.text.encode(rows.captions).to(self.place.dtype)

    def _pinned(self, rows: Rows) -> Rows:
        """In memory that a GPU copies from without stopping."""
        if self.place.device.type != "cuda":
            return rows
        return Rows(
            rows.clean.pin_memory(),
            rows.noise.pin_memory(),
            rows.normal.pin_memory(),
            None if rows.text is None else rows.text.pin_memory(),
            rows.captions,
            None if rows.features is None else rows.features.pin_memory(),
        )

    def load_text_encoder(self, dtype: torch.dtype) -> TextEncoder:
        """The frozen encoder that the data's text comes from. Raises RecipeError where another is named."""
        bundle = read_bundle(self.bundle)
        bundle.refuse_unsafe_files()
        shape = (bundle.config.num_text_tokens, bundle.config.caption_channels)
        if shape != self.data.manifest.text_shape:
            raise RecipeError(
                f"{self.bundle} encodes text as {shape}, but the data needs {self.data.manifest.text_shape}"
            )
        return load_text_encoder(bundle, self.place.device, dtype)


def train_recipe(
    run: RecipeRun,
    *,
    report: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Train, or go on training; returns the checkpoint, or None where `should_stop` ended it early.

    Stopping saves a checkpoint first. Raises RecipeError, ShardError or a BundleError for whatever does not fit.
    """
    dtype = torch.bfloat16 if run.recipe.training.precision == "bf16" else torch.float32
    place = open_place(choose_device(run.device), dtype, is_sharded=run.is_sharded)
    tell = place.only_main(report)
    try:
        trainer = RecipeTrainer(run, place)
        trainer.refuse_other_runs()
        loop, deal = trainer.loop, trainer.deal
        tell(
            f"{run.recipe.name}: {len(trainer.data)} samples, {sum(p.numel() for p in loop.parameters) / 1e6:.2f} M "
            f"parameters, {place.num_processes} device(s) x {deal.num_parts} forward(s) x {deal.rows_per_part} rows"
        )
        try:
            show = _show_samples(run, trainer) if run.sample_every_min else _show_nothing
            is_finished = loop.run(trainer.meta(), report=tell, should_stop=should_stop, on_checkpoint=show)
        finally:
            trainer.rows.close()
        tell(f"waited {trainer.rows.waited_s:.1f} s for data")
    finally:
        place.close()
    return loop.settings.checkpoint if is_finished else None


def _show_samples(run: RecipeRun, trainer: RecipeTrainer) -> Callable[[], None]:
    """What draws a grid of the data's first captions, when one is due. All processes must call it together."""
    loop, place = trainer.loop, trainer.place
    autoencoder = Autoencoder.load(
        read_bundle(trainer.bundle).parts.autoencoder, num_channels=trainer.config.in_channels, device=place.device
    )
    captions = trainer.data.captions(np.arange(min(NUM_SAMPLES, len(trainer.data))))
    grids = SampleGrids(autoencoder, captions, run.out_dir, run.sample_every_min)
    text = trainer.load_text_encoder(torch.float32) if place.is_main else None

    def show() -> None:
        if not grids.is_due(loop.elapsed_s):
            return
        average = loop.average()
        if text is not None and isinstance(average, AlignedTransformer):
            average.to(place.device)  # where it was sharded, it has been put together on the CPU
            loop.show(SAMPLES_NAME, grids.draw(text, average.transformer, loop.step))

    return show


def _show_nothing() -> None: ...


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
