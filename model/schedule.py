"""The noise schedule: which sigmas a picture of N steps passes through. Pure; no torch.

Flow matching (arXiv 2510.27135, section 4): x_sigma = (1 - sigma) x0 + sigma noise, timestep = 1000 sigma.
The published last step starts at sigma = 0.001: a whole forward that moves a latent by a thousandth of a velocity.
"""

from __future__ import annotations

NUM_TRAIN_TIMESTEPS = 1000


def flow_sigmas(num_steps: int) -> tuple[float, ...]:
    """The num_steps + 1 sigmas from 1 down to 0: linspace(1000, 1, N) / 1000, then 0.

    Raises ValueError for num_steps < 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if num_steps == 1:
        return (1.0, 0.0)
    stride = (NUM_TRAIN_TIMESTEPS - 1) / (num_steps - 1)
    return (*((NUM_TRAIN_TIMESTEPS - i * stride) / NUM_TRAIN_TIMESTEPS for i in range(num_steps)), 0.0)


def serving_sigmas(num_steps: int, *, is_exact: bool = False) -> tuple[float, ...]:
    """`flow_sigmas` with its last two steps taken as one, so N steps cost N - 1 forwards; `is_exact` keeps all N.

    The merged step uses the velocity at its start for the last 0.001 too: docs/decisions/merged-last-step.md has what
    that costs.
    """
    sigmas = flow_sigmas(num_steps)
    return sigmas if is_exact or num_steps == 1 else (*sigmas[:-2], 0.0)
