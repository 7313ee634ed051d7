"""A guided teacher's path, cut into the segments that a few-step student crosses in one Euler step each. Pure.

A student that predicts the teacher's average velocity over a segment lands where the teacher does: arXiv 2405.07510
(PeRFlow) divides trajectories so, 2202.00512 (progressive distillation) halves them so, and as in 2210.03142 the
target holds the guidance, so that the student needs none. Legend: n rows, k segments, c h w a latent, t text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.sampler import euler_update, guide
from model.schedule import NUM_TRAIN_TIMESTEPS, flow_sigmas

Segment = tuple[float, float]
"""Sigma at the start and, smaller, at the end."""

Policy = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Latents (n, c, h, w), embeddings (n, t, channels), start and end sigmas (n,) -> one velocity (n, c, h, w) for all
of the way, float32."""


def segments(num_steps: int) -> tuple[Segment, ...]:
    """What the service's steps of a picture of `num_steps` cross, without the last of several.

    That one starts at sigma 0.001: whatever the network says there moves a latent by a thousandth.
    """
    pairs = tuple(pairwise(flow_sigmas(num_steps)))
    return pairs if num_steps == 1 else pairs[:-1]


def predict(network: nn.Module, latents: Tensor, embeddings: Tensor, sigma: Tensor) -> Tensor:
    """Velocity (n, c, h, w), float32, of one forward; computed in bfloat16 on a GPU, whatever the weights' type."""
    device = latents.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        velocity: Tensor = network(latents, embeddings, sigma * NUM_TRAIN_TIMESTEPS)
    return velocity.float()


@dataclass(frozen=True, slots=True)
class Teacher:
    """A network with guidance: `empty` (t, channels) is the empty prompt's embedding."""

    network: nn.Module
    empty: Tensor
    guidance: float
    num_substeps: int

    def average_velocity(self, latents: Tensor, embeddings: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The `Policy` of `num_substeps` equal Euler steps. Rows may be in different segments."""
        stride = (end - start) / self.num_substeps
        total = torch.zeros_like(latents)
        for index in range(self.num_substeps):
            sigma = start + index * stride
            velocity = self._velocity(latents, embeddings, sigma)
            latents = euler_update(latents, velocity, sigma, sigma + stride)
            total += velocity
        return total / self.num_substeps

    def _velocity(self, latents: Tensor, embeddings: Tensor, sigma: Tensor) -> Tensor:
        if self.guidance <= 1:
            return predict(self.network, latents, embeddings, sigma)
        texts = torch.cat([embeddings, self.empty.expand_as(embeddings)])
        both = predict(self.network, latents.repeat(2, 1, 1, 1), texts, sigma.repeat(2))
        conditional, unconditional = both.chunk(2)
        return guide(unconditional, conditional, torch.full_like(sigma, self.guidance))


def one_forward(network: nn.Module) -> Policy:
    """The student's `Policy`: where the segment ends does not matter to it."""
    return lambda latents, embeddings, start, end: predict(network, latents, embeddings, start)


@torch.no_grad()
def follow(
    policy: Policy, noise: Tensor, embeddings: Tensor, route: Sequence[Segment]
) -> tuple[list[Tensor], list[Tensor]]:
    """Cross the segments of `route` one after the other.

    Returns the k + 1 states (n, c, h, w), noise first, and the k velocities between them.
    """
    states: list[Tensor] = [noise]
    velocities: list[Tensor] = []
    for start, end in route:
        start_sigma, end_sigma = noise.new_full((len(noise),), start), noise.new_full((len(noise),), end)
        velocities.append(policy(states[-1], embeddings, start_sigma, end_sigma))
        states.append(euler_update(states[-1], velocities[-1], start_sigma, end_sigma))
    return states, velocities


@torch.no_grad()
def correct(teacher: Teacher, states: Tensor, embeddings: Tensor, route: Sequence[Segment]) -> Tensor:
    """What the teacher would do from each of these states (n, k, c, h, w), one a segment: velocities, same shape.

    All segments share the teacher's forwards: their rows differ in nothing but sigma.
    """
    num_rows, num_segments = states.shape[:2]
    start, end = (states.new_tensor(sigmas).repeat(num_rows) for sigmas in zip(*route, strict=True))
    texts = embeddings.repeat_interleave(num_segments, 0)
    return teacher.average_velocity(states.flatten(0, 1), texts, start, end).view(states.shape)
