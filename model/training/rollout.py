"""Rollouts: pictures drawn by a policy while it is being tuned, with the fewest forwards that still look like its own.

Legend: b rows, c h w a latent, t text tokens. A velocity is any function (latents, embeddings, sigma) -> (b, c, h, w).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from model.sampler import euler_update, guide
from model.schedule import flow_sigmas

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents (b, c, h, w), embeddings (b, t, channels), sigma (b,)) -> velocity (b, c, h, w), float32."""


SHIFT = 2.0  # of the sigmas: paths bend most near noise, so the steps there are shorter


def rollout_sigmas(num_steps: int) -> tuple[float, ...]:
    """Sigmas from 1 to nearly 0 in `num_steps` steps, shifted as in arXiv 2403.03206 (section 5.3.2).

    The service's own last step, which moves a latent by a thousandth of a velocity, is left out: it costs a forward.
    """
    return tuple(SHIFT * sigma / (1 + (SHIFT - 1) * sigma) for sigma in flow_sigmas(num_steps + 1)[:-1])


@torch.no_grad()
def draw_latents(
    velocity: Velocity,
    noise: Tensor,
    embeddings: Tensor,
    empty: Tensor,
    *,
    sigmas: Sequence[float],
    guidance: float,
    is_second_order: bool,
) -> Tensor:
    """Latents (b, c, h, w) at the last of `sigmas`, from `noise` at the first.

    `embeddings` are (b, t, channels), `empty` (t, channels) is the empty prompt's, used when `guidance` > 1. Second
    order (Adams-Bashforth) costs no forward more than Euler; Euler is what the service does.
    """
    latents, earlier, earlier_stride = noise, None, 1.0
    for sigma, next_sigma in pairwise(sigmas):
        now = noise.new_full((len(noise),), sigma)
        slope = _guided(velocity, latents, embeddings, empty, now, guidance)
        stride = next_sigma - sigma
        moving = slope
        if is_second_order and earlier is not None:
            moving = slope + stride / (2 * earlier_stride) * (slope - earlier)
        latents = euler_update(latents, moving, now, noise.new_full((len(noise),), next_sigma))
        earlier, earlier_stride = slope, stride
    return latents


def _guided(
    velocity: Velocity, latents: Tensor, embeddings: Tensor, empty: Tensor, sigma: Tensor, guidance: float
) -> Tensor:
    """Velocity with guidance, both halves in one forward."""
    if guidance <= 1:
        return velocity(latents, embeddings, sigma)
    texts = torch.cat([embeddings, empty.expand_as(embeddings)])
    both = velocity(latents.repeat(2, 1, 1, 1), texts, sigma.repeat(2))
    conditional, unconditional = both.chunk(2)
    return guide(unconditional, conditional, sigma.new_full((len(sigma),), guidance))
