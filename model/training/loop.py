"""The loop that every trainer shares: warm-up and decay, update, running average, checkpoint, progress, stop.

A trainer brings a model and an objective, a pure function of the step's number: so no generator state is kept, and a
run that was stopped goes on exactly as if it had not been (where steps, not minutes, are its budget).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.training.checkpoints import load_checkpoint, save_checkpoint

Objective = Callable[[int], tuple[Tensor, Tensor]]
"""Step -> (what is minimised, what is shown as the loss)."""


class LoopSettings(Protocol):
    """The fields that a trainer's configuration, a frozen dataclass, has for the loop.

    A run ends at `max_steps` or after `max_minutes` of training, whichever comes first; the learning rate falls in a
    straight line over the last part of that budget, from `decay_from` (0..1) on.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def checkpoint(self) -> Path: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def max_steps(self) -> int: ...  # noqa: D102
    @property
    def max_minutes(self) -> float: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def warmup_steps(self) -> int: ...  # noqa: D102
    @property
    def decay_from(self) -> float: ...  # noqa: D102
    @property
    def weight_decay(self) -> float: ...  # noqa: D102
    @property
    def max_grad_norm(self) -> float: ...  # noqa: D102
    @property
    def ema_decay(self) -> float: ...  # noqa: D102
    @property
    def report_every(self) -> int: ...  # noqa: D102
    @property
    def checkpoint_every(self) -> int: ...  # noqa: D102


class TrainingLoop:
    """One training run's state: model, average, optimiser, step. Parameters that need no gradient stay as they are."""

    def __init__(self, model: nn.Module, settings: LoopSettings, objective: Objective) -> None:
        self.model = model
        self.settings = settings
        self.objective = objective
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        )
        self.step, self.num_skipped, self.elapsed_s = 0, 0, 0.0

    @property
    def progress(self) -> float:
        """0..1: how much of the budget, steps or minutes, is used up."""
        settings = self.settings
        return min(1.0, max(self.step / settings.max_steps, self.elapsed_s / 60 / settings.max_minutes))

    def learning_rate(self) -> float:
        """Warm-up, constant, then down to zero in a straight line."""
        settings = self.settings
        warm = min(1.0, (self.step + 1) / settings.warmup_steps)
        return settings.learning_rate * warm * min(1.0, (1 - self.progress) / (1 - settings.decay_from))

    def train_step(self) -> float:
        """One update; returns the loss. A step whose loss or gradient is not finite changes nothing."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        minimised, shown = self.objective(self.step)
        torch.autograd.backward(minimised)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        if torch.isfinite(minimised) and torch.isfinite(norm):
            self.optimizer.step()
            self._update_ema()
        else:
            self.num_skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return shown.item()

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def save(self, meta: dict[str, Any]) -> None:
        """Write the checkpoint: weights, average, optimiser, counters, configuration and `meta` (plain values)."""
        values = asdict(self.settings)
        config = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
        counters = {"step": self.step, "num_skipped": self.num_skipped, "elapsed_s": self.elapsed_s}
        modules = {"model": self.model, "ema": self.ema}
        save_checkpoint(self.settings.checkpoint, {**meta, **counters, "config": config}, modules, self.optimizer)

    def restore(self) -> None:
        """Continue from the checkpoint."""
        modules = {"model": self.model, "ema": self.ema}
        meta = load_checkpoint(self.settings.checkpoint, modules, self.optimizer)
        self.step, self.num_skipped, self.elapsed_s = meta["step"], meta["num_skipped"], meta["elapsed_s"]

    def run(
        self,
        meta: dict[str, Any],
        *,
        report: Callable[[str], None],
        should_stop: Callable[[], bool],
        on_checkpoint: Callable[[], None] = lambda: None,
    ) -> bool:
        """Train until the budget is used up (True) or `should_stop` says so (False); saves a checkpoint either way."""
        settings = self.settings
        if settings.checkpoint.exists():
            self.restore()
            report(f"continuing at step {self.step}")
        losses: list[float] = []
        reported_s, reported_step = time.monotonic(), self.step
        started_s, elapsed_before_s = reported_s, self.elapsed_s
        while self.progress < 1:
            losses.append(self.train_step())
            now_s = time.monotonic()
            self.elapsed_s = elapsed_before_s + now_s - started_s
            if self.step % settings.report_every == 0:
                rate = (self.step - reported_step) * settings.batch_size / (now_s - reported_s)
                report(self._progress_line(float(np.mean(losses)), rate))
                losses, reported_s, reported_step = [], now_s, self.step
            if self.step % settings.checkpoint_every == 0:
                self.save(meta)
                on_checkpoint()
            if should_stop():
                self.save(meta)
                return False
        self.save(meta)
        return True

    def _progress_line(self, loss: float, samples_per_s: float) -> str:
        left_min = self.elapsed_s / 60 * (1 - self.progress) / max(self.progress, 1e-9)
        return (
            f"step {self.step} loss {loss:.4f} {samples_per_s:.0f} samples/s lr {self.learning_rate():.1e} "
            f"skipped {self.num_skipped} left {left_min:.1f} min"
        )
