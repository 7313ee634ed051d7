"""DiffusionNFT (arXiv 2509.16117): rewards become targets of the forward process. Pure tensor functions.

Chosen over Flow-GRPO (arXiv 2505.05470) because it needs finished pictures only: any solver draws them, and neither
trajectories nor likelihoods are kept. And each picture gives as many training rows as wanted, where a policy gradient
has to pay for the very steps that it was drawn with. More in docs/decisions/reward-tuning.md.
"""

from __future__ import annotations

from torch import Tensor

# Deviations above its group's mean at which a picture counts as wholly good. Hardly any is: clipping many would move
# a group's mean r off 1/2, and with it everything that its pictures have in common.
MAX_ADVANTAGE = 2.0
_MIN_DEVIATION = 1e-4


def optimality(rewards: Tensor) -> Tensor:
    """Rewards (prompts, group) -> r of the same shape, in 0..1: how surely a picture is one of the good ones.

    r = 1/2 + 1/2 clip(advantage / (MAX_ADVANTAGE * deviation), -1, 1) (section 3.3). The advantage is over the mean of
    a prompt's own pictures; the deviation is that of all groups together, so that a group of pictures that hardly
    differ says little.
    """
    advantage = rewards - rewards.mean(1, keepdim=True)
    deviation = advantage.square().mean().sqrt().clamp_min(_MIN_DEVIATION)
    return 0.5 + 0.5 * (advantage / (MAX_ADVANTAGE * deviation)).clamp(-1, 1)


def nft_loss(new: Tensor, old: Tensor, target: Tensor, sigma: Tensor, optimal: Tensor, beta: float) -> Tensor:
    """The objective of section 3.2, a mean over rows: r |v+ - v|^2 + (1 - r) |v- - v|^2.

    Good pictures draw v+ = old + beta (new - old) to their velocity v; bad ones draw its mirror image, v- = old -
    beta (new - old), to theirs. `new`, `old` and `target` = noise - x0 are velocities (b, c, h, w); `sigma` and
    `optimal` are (b,). As in section 3.3, errors are those of x0 and are divided by their own mean size.
    """
    difference = beta * (new - old)
    good = _error(old + difference - target, sigma)
    bad = _error(old - difference - target, sigma)
    return (optimal * good + (1 - optimal) * bad).mean()


def _error(velocity_error: Tensor, sigma: Tensor) -> Tensor:
    """Mean square of x0's error, sigma times the velocity's, over its mean size, which carries no gradient: (b,)."""
    error = (sigma.view(-1, 1, 1, 1) * velocity_error).flatten(1)
    size = error.detach().abs().mean(1).clamp_min(1e-5)
    mean_square: Tensor = error.square().mean(1)
    return mean_square / size
