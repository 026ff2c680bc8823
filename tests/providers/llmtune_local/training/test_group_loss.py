"""The loss of GRPO by its formula: advantages, weights of tokens, clipping, KL."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from llmtune_local.training.group_loss import (
    compute_advantages,
    is_dead,
    token_losses,
    weigh_tokens,
)


def test_advantages_compare_an_answer_with_its_group() -> None:
    rewards = torch.tensor([[0.0, 1.0, 0.5, 1.0], [0.3, 0.3, 0.3, 0.3]], dtype=torch.float64)
    first = [0.0, 1.0, 0.5, 1.0]
    mean, deviation = statistics.mean(first), statistics.stdev(first)
    expected = [(reward - mean) / (deviation + 1e-4) for reward in first]
    for normalisation in ("grpo", "dapo"):
        advantages = compute_advantages(rewards, normalisation)
        assert advantages[0].tolist() == pytest.approx(expected)
        assert advantages[1].tolist() == [0.0] * 4  # nothing is learned from a group that is paid alike
    assert compute_advantages(rewards, "dr_grpo")[0].tolist() == pytest.approx([reward - mean for reward in first])
    assert is_dead(rewards).tolist() == [False, True]


def test_a_group_that_is_paid_alike_is_dead_whatever_rounding_does() -> None:
    rewards = torch.full((1, 7), 0.1, dtype=torch.float32)
    assert compute_advantages(rewards, "dapo").tolist() == [[0.0] * 7]


def test_weights_of_tokens() -> None:
    lengths = [2, 6]
    assert weigh_tokens(lengths, "grpo", 10).tolist() == pytest.approx([1 / 4] * 2 + [1 / 12] * 6)
    assert weigh_tokens(lengths, "dapo", 10).tolist() == pytest.approx([1 / 8] * 8)
    assert weigh_tokens(lengths, "dr_grpo", 10).tolist() == pytest.approx([1 / 20] * 8)


def test_a_token_that_has_moved_far_enough_is_pushed_no_further() -> None:
    policy = torch.tensor([math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    losses = token_losses(policy, torch.zeros(4), policy.detach(), advantages, clip=0.2, beta=0.0)
    assert losses.loss.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert losses.clipped.tolist() == [True, False, False, True]
    losses.loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])


def test_the_kl_is_zero_at_the_reference_and_positive_elsewhere() -> None:
    policy = torch.tensor([-1.0, -2.0], requires_grad=True)
    reference = torch.tensor([-1.0, -1.5])
    losses = token_losses(policy, policy.detach(), reference, torch.zeros(2), clip=0.2, beta=0.3)
    assert losses.kl.tolist() == pytest.approx([0.0, math.exp(0.5) - 0.5 - 1])
    assert losses.loss.tolist() == pytest.approx([0.0, 0.3 * (math.exp(0.5) - 1.5)])
