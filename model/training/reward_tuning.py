"""Tunes a bundle's network by rewards (DiffusionNFT, model/training/nft.py) as LoRA on its attention projections.

One step: the running average draws a group of pictures for each of a few prompts, the reward judges them, one update
follows; nothing is kept but the adapter, so a checkpoint is small and exact. With guidance above 1 the policy that
draws is the guided one and the update is the conditional velocity's, while the empty prompt's is held where it was:
guidance multiplies what the prompt's velocity learns, and nothing is learnt by spoiling the other.
Legend: p prompts a step, g pictures of each, m training rows of each picture, b = p * g, v validation pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from model.evaluation.prompts import TASKS, PromptEntry
from model.schedule import flow_sigmas
from model.training.loop import TrainingLoop
from model.training.lora import LowRankAdapter, velocity
from model.training.nft import nft_loss, optimality
from model.training.rollout import Velocity, draw_latents, rollout_sigmas
from model.weights import LoadedModel

Reward = Callable[[Sequence[PromptEntry], Sequence[NDArray[np.uint8]]], NDArray[np.float64]]
"""Prompts and their pictures (H, W, 3) -> how well each shows what was asked for, 0..1."""
PromptSource = Callable[[str, int], PromptEntry]
"""(task, index) -> that task's index-th prompt; always the same one."""

FIRST_VALIDATION_INDEX = 10**6  # prompts before it are for rollouts
MAX_FORWARD_ROWS = 64  # pictures drawn, and decoded, together


@dataclass(frozen=True, slots=True)
class RewardTrainConfig:
    """One run; `model.training.loop.LoopSettings` says what its budget and schedule mean.

    `guidance` None is the bundle's own. `rollout_steps` are forwards a picture (twice as many with guidance).
    `num_draws` are training rows of each picture, within `sigma_range`: there layout, names and colours are decided,
    and the gradients of different prompts agree (docs/decisions/reward-tuning.md). `beta` is how far from the policy
    that drew a step may lead (a small one leads further); `pull_weight` ties the velocities to the base's. `ema_decay`
    is also how slowly the policy that draws follows. A run ends early after `patience` validations, one every
    `checkpoint_every` steps, without a better one.
    """

    bundle: Path
    out_dir: Path
    guidance: float | None = None
    rank: int = 32
    alpha: int = 64
    num_prompts: int = 6
    group_size: int = 8
    rollout_steps: int = 7
    num_draws: int = 4
    sigma_range: tuple[float, float] = (0.65, 0.95)
    beta: float = 1.0
    pull_weight: float = 0.02
    num_validation: int = 96
    patience: int = 4
    max_steps: int = 10_000
    max_minutes: float = math.inf
    learning_rate: float = 2e-3
    warmup_steps: int = 5
    decay_from: float = 0.7
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema_decay: float = 0.9
    device: str = "auto"
    dtype: str = "auto"
    num_threads: int = 2
    seed: int = 0
    report_every: int = 5
    checkpoint_every: int = 25

    @property
    def batch_size(self) -> int:
        """Pictures drawn and judged in a step."""
        return self.num_prompts * self.group_size

    @property
    def checkpoint(self) -> Path:
        """The file that a run continues from."""
        return self.out_dir / "reward.checkpoint.safetensors"

    @property
    def adapter(self) -> Path:
        """PEFT folder of the best validation so far."""
        return self.out_dir / "adapter"


@dataclass(frozen=True, slots=True)
class Judged:
    """Pictures with prompts and rewards. `latents` are (b, c, h, w), `embeddings` (b, t, channels), `rewards` (b,)."""

    entries: tuple[PromptEntry, ...]
    latents: Tensor
    embeddings: Tensor
    pictures: tuple[NDArray[np.uint8], ...]
    rewards: Tensor

    def means(self) -> dict[str, float]:
        """Mean reward of each task that was asked for, and of all pictures as "reward"."""
        means = {"reward": float(self.rewards.mean())}
        for task in TASKS:
            of_task = [float(r) for entry, r in zip(self.entries, self.rewards, strict=True) if entry.tag == task]
            if of_task:
                means[task] = float(np.mean(of_task))
        return means


class RewardTuning:
    """One run's network, adapter and loop. `model` must hold no adapter yet; `on_step` gets each step's figures."""

    def __init__(
        self,
        config: RewardTrainConfig,
        model: LoadedModel,
        reward: Reward,
        prompts: PromptSource,
        on_step: Callable[[dict[str, Any]], None] = lambda figures: None,
    ) -> None:
        self.config = config
        self.guidance = model.card.default_guidance if config.guidance is None else config.guidance
        self._model = model
        self._reward = reward
        self._prompts = prompts
        self._on_step = on_step
        self._empty = model.text.encode([""])[0].clone()
        self._device = model.transformer.proj_out.weight.device
        self._adapter = LowRankAdapter(model.transformer, config.rank, config.alpha, config.seed)
        self.loop = TrainingLoop(self._adapter, config, self.objective)

    def objective(self, step: int) -> tuple[Tensor, Tensor]:
        """Draw and judge step number `step`'s pictures with the running average; the loss of the adapter on them."""
        config = self.config
        source = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        numbers = range(step * config.num_prompts, (step + 1) * config.num_prompts)
        entries = [self._prompts(TASKS[number % len(TASKS)], number) for number in numbers]
        noise = torch.randn(config.batch_size, *self._latent_shape, generator=source)
        sigmas = rollout_sigmas(config.rollout_steps)
        judged = self._draw([e for e in entries for _ in range(config.group_size)], noise, sigmas, is_second_order=True)
        loss, drift = self._loss(judged, source)
        spread = float(judged.rewards.view(-1, config.group_size).std(1).mean())
        figures = {**judged.means(), "spread": spread, "drift": drift}
        for name, value in figures.items():
            self.loop.tell(f"reward/{name}", value)
        self._on_step({"step": step, **figures})
        return loss, loss.detach()

    def validate(self) -> Judged:
        """The running average at the bundle's own number of steps, always on the same prompts and noise."""
        numbers = range(FIRST_VALIDATION_INDEX, FIRST_VALIDATION_INDEX + self.config.num_validation)
        entries = [self._prompts(TASKS[number % len(TASKS)], number) for number in numbers]
        source = torch.Generator().manual_seed(self.config.seed)
        noise = torch.randn(len(entries), *self._latent_shape, generator=source)
        return self._draw(entries, noise, flow_sigmas(self._model.card.default_steps), is_second_order=False)

    @property
    def average(self) -> LowRankAdapter:
        """The adapter that draws, and that is kept in the end."""
        return cast(LowRankAdapter, self.loop.ema)

    @property
    def _latent_shape(self) -> tuple[int, int, int]:
        width, height = (int(side) for side in self._model.card.sizes[0].split("x"))
        compression = self._model.autoencoder.spatial_compression
        return (self._model.config.in_channels, height // compression, width // compression)

    def _draw(
        self, entries: Sequence[PromptEntry], noise: Tensor, sigmas: Sequence[float], *, is_second_order: bool
    ) -> Judged:
        """One judged picture an entry, by the running average."""
        text, policy = self._model.text, self._policy(self.average)
        embeddings = text.encode([text.clean(entry.prompt) for entry in entries]).clone()
        latents, pictures = [], []
        for start in range(0, len(entries), MAX_FORWARD_ROWS):
            rows = slice(start, start + MAX_FORWARD_ROWS)
            drawn = draw_latents(
                policy,
                noise[rows].to(self._device),
                embeddings[rows],
                self._empty,
                sigmas=sigmas,
                guidance=self.guidance,
                is_second_order=is_second_order,
            )
            latents.append(drawn)
            pictures += list(self._model.autoencoder.decode(drawn))
        rewards = torch.from_numpy(np.asarray(self._reward(entries, pictures), dtype=np.float32))
        return Judged(tuple(entries), torch.cat(latents), embeddings, tuple(pictures), rewards)

    @torch.no_grad()
    def _policy(self, adapter: LowRankAdapter | None) -> Velocity:
        """The velocity with this adapter's weights of now, None for the base's; no gradient reaches them."""
        network = self._model.transformer
        return partial(velocity, network, {} if adapter is None else adapter.merged(network))

    def _loss(self, judged: Judged, source: torch.Generator) -> tuple[Tensor, float]:
        """NFT's objective on m noised copies of each picture, plus the pull; and how far the velocities have drifted.

        A group shares sigma and noise: what its pictures have in common then cancels, as their advantages sum to zero.
        """
        config, network = self.config, self._model.transformer
        p, g, m = config.num_prompts, config.group_size, config.num_draws
        low, high = config.sigma_range
        sigma = (torch.arange(m)[:, None] + torch.rand(m, p, generator=source)) / m  # one from each m-th of 0..1
        sigma = low + (high - low) * sigma
        noise = torch.randn(m, p, *self._latent_shape, generator=source)
        sigma = sigma.repeat_interleave(g, 1).flatten().to(self._device)  # (m * b,)
        noise = noise.repeat_interleave(g, 1).flatten(0, 1).to(self._device)  # (m * b, c, h, w)
        clean = judged.latents.repeat(m, 1, 1, 1)
        embeddings = judged.embeddings.repeat(m, 1, 1)
        optimal = optimality(judged.rewards.view(p, g)).flatten().repeat(m).to(self._device)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1))

        # The pull looks at one row of each group, and with guidance at the same row without its prompt.
        tied = [(noisy[::g], embeddings[::g], sigma[::g])]
        if self.guidance > 1:
            tied.append((noisy[::g], self._empty.expand_as(embeddings[::g]), sigma[::g]))
        with torch.no_grad():
            old = self._policy(self.average)(noisy, embeddings, sigma)
            base = self._policy(None)(*(torch.cat(parts) for parts in zip(*tied, strict=True)))
        rows = [(noisy, embeddings, sigma), *tied[1:]]
        policy = partial(velocity, network, self._adapter.merged(network))
        output = policy(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        new, without_prompt = output[: len(noisy)], output[len(noisy) :]
        pull = F.mse_loss(torch.cat([new[::g], without_prompt]), base)
        drift = math.sqrt(pull.item() / base.square().mean().item())
        return nft_loss(new, old, noise - clean, sigma, optimal, config.beta) + config.pull_weight * pull, drift
