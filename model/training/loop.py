"""The loop that every trainer shares: warm-up and decay, update, running average, checkpoint, progress, stop.

A trainer brings a model and an objective, a pure function of the step's number: so no generator state is kept, and a
run that was stopped goes on exactly as if it had not been (where steps, not minutes, are its budget). Several
processes train as one does: each computes its share of a step's batch (model/training/devices.py).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.training.checkpoints import load_checkpoint, save_checkpoint
from model.training.devices import Place, has_company, whole
from model.training.repa import HEAD_PREFIX
from model.training.tracking import CurvePoint, RunLog, StepFigures, mean_figures

Objective = Callable[[int], tuple[Tensor, Tensor]]
"""Step -> (what is minimised, what is shown as the loss); with several parts, step * num_parts + part -> the same."""


class LoopSettings(Protocol):
    """The fields that a trainer's configuration, a frozen dataclass, has for the loop.

    A run ends at `max_steps` or after `max_minutes` of training, whichever comes first; the learning rate falls in a
    straight line over the last part of that budget, from `decay_from` (0..1) on; with 1 it stays. `batch_size` counts
    the samples of a step over all parts and processes. `ema_decay` 0 keeps no average.
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


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """What few trainers choose. `num_parts` forwards and backwards make one step (gradient accumulation).

    A warmed average follows closely at first: its decay is min(ema_decay, (1 + step) / (10 + step)).
    """

    adam_betas: tuple[float, float] = (0.9, 0.98)
    adam_eps: float = 1e-8
    num_parts: int = 1
    is_ema_warmed: bool = True


class TrainingLoop:
    """One training run's state: model, average, optimiser, step. Parameters that need no gradient stay as they are.

    The objective calls `network`: the model, or what makes many processes of it. A trainer whose forward pass is not
    the model's own brings it as `network`, a module that holds the model. `ema` is the model itself without average.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: LoopSettings,
        objective: Objective,
        *,
        place: Place | None = None,
        network: nn.Module | None = None,
        options: LoopOptions = LoopOptions(),
    ) -> None:
        if place is None:
            if has_company():
                raise RuntimeError("this trainer knows one process only; start it without torchrun")
            place = Place(next(model.parameters()).device)
        self.model = model
        self.settings = settings
        self.objective = objective
        self.place = place
        self.options = options
        self.ema = copy.deepcopy(model).requires_grad_(False) if settings.ema_decay else model
        self._whole = self.ema if place.mesh is None else copy.deepcopy(model).requires_grad_(False).cpu()
        self.network = place.spread(model if network is None else network, self.ema)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=settings.learning_rate,
            betas=options.adam_betas,
            eps=options.adam_eps,
            weight_decay=settings.weight_decay,
            fused=True,  # a fifth more samples a second on two cores: small networks have many small tensors
        )
        self.step, self.num_skipped, self.elapsed_s = 0, 0, 0.0
        self._log: RunLog | None = None  # the main process's, while it runs
        self._window: list[StepFigures] = []  # steps since the last report

    @property
    def progress(self) -> float:
        """0..1: how much of the budget, steps or minutes, is used up."""
        settings = self.settings
        return min(1.0, max(self.step / settings.max_steps, self.elapsed_s / 60 / settings.max_minutes))

    def learning_rate(self) -> float:
        """Warm-up, constant, then down to zero in a straight line."""
        settings = self.settings
        warm = min(1.0, (self.step + 1) / max(1, settings.warmup_steps))
        if settings.decay_from >= 1:
            return settings.learning_rate * warm
        return settings.learning_rate * warm * min(1.0, (1 - self.progress) / (1 - settings.decay_from))

    def train_step(self) -> float:
        """One update; returns the loss. A step whose loss or gradient is not finite changes nothing."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        losses = self.place.mean(self._backward())
        norm = whole(nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))
        minimised, shown, grad_norm = torch.cat([losses, norm.float().view(1)]).tolist()
        figures = StepFigures(loss=shown, minimised=minimised, grad_norm=grad_norm)
        if figures.is_finite:
            self.optimizer.step()
            self._update_ema()
        else:
            self.num_skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._window.append(figures)
        return figures.loss

    def _backward(self) -> Tensor:
        """Add up the step's gradients; returns (what was minimised, what is shown), means over the parts."""
        num_parts = self.options.num_parts
        losses = torch.zeros(2, device=self.place.device)
        for part in range(num_parts):
            with self.place.deferred(self.network, is_deferred=part < num_parts - 1):
                with self.place.autocast():
                    minimised, shown = self.objective(self.step * num_parts + part)
                torch.autograd.backward(minimised / num_parts)
                losses += torch.stack([minimised.detach().float(), shown.detach().float()]) / num_parts
        return losses

    @torch.no_grad()
    def _update_ema(self) -> None:
        if self.ema is self.model:
            return
        decay = self.settings.ema_decay
        if self.options.is_ema_warmed:
            decay = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model} if self.ema is self.model else {"model": self.model, "ema": self.ema}

    def save(self, meta: dict[str, Any]) -> None:
        """Write the checkpoint: weights, average, optimiser, counters, configuration and `meta` (plain values)."""
        values = asdict(self.settings)
        config = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
        counters = {"step": self.step, "num_skipped": self.num_skipped, "elapsed_s": self.elapsed_s}
        state = {**meta, **counters, "window": [astuple(figures) for figures in self._window], "config": config}
        is_writer = self.place.is_main
        save_checkpoint(self.settings.checkpoint, state, self._modules(), self.optimizer, is_writer=is_writer)
        self.place.wait()

    def restore(self) -> None:
        """Continue from the checkpoint."""
        meta = load_checkpoint(self.settings.checkpoint, self._modules(), self.optimizer, HEAD_PREFIX)
        self.step, self.num_skipped, self.elapsed_s = meta["step"], meta["num_skipped"], meta["elapsed_s"]
        self._window = [StepFigures(*figures) for figures in meta.get("window", [])]

    def tell(self, name: str, value: float) -> None:
        """Show a figure of this step in TensorBoard, while `run` is."""
        if self._log is not None:
            self._log.add_scalar(name, value, self.step)

    def show(self, name: str, picture: NDArray[np.uint8]) -> None:
        """Show a picture (H, W, 3) of this step in TensorBoard, while `run` is."""
        if self._log is not None:
            self._log.add_picture(name, picture, self.step)

    def average(self) -> nn.Module:
        """The averaged model, whole and free of other processes. All of them must ask for it at once."""
        if self.place.mesh is not None:
            self._whole.load_state_dict({name: whole(value) for name, value in self.ema.state_dict().items()})
        return self._whole

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
        report = self.place.only_main(report)
        if settings.checkpoint.exists():
            self.restore()
            report(f"continuing at step {self.step}")
        self._log = RunLog(settings.checkpoint.parent, self.step) if self.place.is_main else None
        try:
            return self._run(meta, report, should_stop, on_checkpoint)
        finally:
            if self._log is not None:
                self._log.close()
                self._log = None

    def _run(
        self,
        meta: dict[str, Any],
        report: Callable[[str], None],
        should_stop: Callable[[], bool],
        on_checkpoint: Callable[[], None],
    ) -> bool:
        settings = self.settings
        reported_s, reported_step = time.monotonic(), self.step
        started_s, elapsed_before_s = reported_s, self.elapsed_s
        while self.progress < 1:
            self.train_step()
            now_s = time.monotonic()
            self.elapsed_s = self.place.of_main(elapsed_before_s + now_s - started_s)
            if self.step % settings.report_every == 0:
                rate = (self.step - reported_step) * settings.batch_size / (now_s - reported_s)
                report(self._report(rate))
                reported_s, reported_step = now_s, self.step
            if self.step % settings.checkpoint_every == 0:
                self.save(meta)
                on_checkpoint()
            if self.place.any(should_stop()):
                self.save(meta)
                return False
        self.save(meta)
        return True

    def _report(self, samples_per_s: float) -> str:
        """Log the steps since the last report; returns the line that tells of them."""
        mean, rate = mean_figures(self._window), self.learning_rate()
        self._window = []
        if self._log is not None:
            self._log.add(
                CurvePoint(
                    self.step,
                    mean.loss,
                    mean.minimised,
                    mean.grad_norm,
                    rate,
                    samples_per_s,
                    self.num_skipped,
                    self.elapsed_s,
                )
            )
        left_min = self.elapsed_s / 60 * (1 - self.progress) / max(self.progress, 1e-9)
        return (
            f"step {self.step} loss {mean.loss:.4f} {samples_per_s:.0f} samples/s lr {rate:.1e} "
            f"skipped {self.num_skipped} left {left_min:.1f} min"
        )
