"""DiffusionNFT's objective and the solver that draws for it."""

from itertools import pairwise

import pytest
import torch

from model.schedule import flow_sigmas
from model.training.nft import nft_loss, optimality
from model.training.rollout import draw_latents, rollout_sigmas


def test_the_best_of_a_group_is_above_a_half_and_a_group_of_equals_is_at_it():
    optimal = optimality(torch.tensor([[0.0, 0.5, 1.0], [0.7, 0.7, 0.7]]))
    assert optimal[0, 0] < 0.5 < optimal[0, 2]
    assert optimal[0, 1] == 0.5
    assert optimal[1].tolist() == [0.5, 0.5, 0.5]
    assert torch.allclose(optimal.mean(1), torch.tensor(0.5))


def test_rewards_that_are_all_equal_say_nothing():
    assert optimality(torch.full((2, 4), 0.3)).unique().tolist() == [0.5]


def test_an_optimality_is_a_probability_however_far_a_reward_stands_out():
    rewards = torch.zeros(1, 64)
    rewards[0, 0] = 1.0
    assert optimality(rewards).max() == 1.0
    assert optimality(-rewards).min() == 0.0


def pulled(optimal, beta=1.0):
    """Where the loss would move a velocity that is still the old one, 0, for a picture whose velocity is 1."""
    new = torch.zeros(1, 1, 2, 2, requires_grad=True)
    old, target = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    nft_loss(new, old, target, torch.tensor([0.5]), torch.tensor([optimal]), beta).backward()
    return -new.grad.sum().item()


def test_good_pictures_draw_the_velocity_towards_their_own_and_bad_ones_push_it_away():
    assert pulled(1.0) > 0
    assert pulled(0.5) == 0
    assert pulled(0.0) == pytest.approx(-pulled(1.0))


def test_the_minimum_lies_where_the_paper_puts_it():
    """There is no pull left at new = old + (2 r - 1) (target - old) / beta, once both branches are weighed alike."""
    r, beta = 0.75, 2.0
    new = torch.full((1, 1, 2, 2), (2 * r - 1) / beta, requires_grad=True)
    old, target = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    for optimal, size in ((r, (beta * new - target).abs().mean()), (1 - r, (beta * new + target).abs().mean())):
        branch = torch.tensor([1.0 if optimal == r else 0.0])
        # nft_loss divides each branch by its error's size; undone here.
        (optimal * size.detach() * nft_loss(new, old, target, torch.ones(1), branch, beta)).backward()
    assert torch.allclose(new.grad, torch.zeros(()), atol=1e-6)


def curved(latents, embeddings, sigma):
    """A velocity whose path is known: dx/dsigma = x, so x falls by exp(-1) from sigma 1 to 0."""
    return latents


def solve(num_steps, *, is_second_order):
    drawn = draw_latents(
        curved,
        torch.ones(1, 1, 1, 1),
        torch.zeros(1, 1, 1),
        torch.zeros(1, 1),
        sigmas=flow_sigmas(num_steps),
        guidance=1.0,
        is_second_order=is_second_order,
    )
    return abs(drawn.item() - torch.exp(torch.tensor(-1.0)).item())


def test_second_order_is_nearer_the_path_for_the_same_number_of_forwards():
    assert solve(10, is_second_order=True) < 0.2 * solve(10, is_second_order=False)


def test_a_rollout_goes_from_noise_to_where_another_step_would_move_nothing_with_its_shortest_steps_first():
    sigmas = rollout_sigmas(10)
    assert (len(sigmas), sigmas[0]) == (11, 1.0)
    assert 0 < sigmas[-1] < 0.003
    strides = [start - end for start, end in pairwise(sigmas)]
    assert strides == sorted(strides)


def test_guidance_follows_the_prompt_beyond_its_own_velocity():
    def velocity(latents, embeddings, sigma):
        return embeddings.mean((1, 2)).view(-1, 1, 1, 1).expand_as(latents)

    prompt, empty = torch.full((1, 2, 3), 1.0), torch.full((2, 3), 0.5)
    for guidance, moved in ((1.0, 1.0), (3.0, 2.0)):
        drawn = draw_latents(
            velocity,
            torch.zeros(1, 1, 1, 1),
            prompt,
            empty,
            sigmas=(1.0, 0.0),
            guidance=guidance,
            is_second_order=False,
        )
        assert drawn.item() == pytest.approx(-moved)
