"""The loss of GRPO by its formula: advantages, weights of tokens, clipping, KL, and the likelihoods of a head."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from llmtune_local.training.group_loss import (
    compute_advantages,
    head_likelihoods,
    is_dead,
    logits_likelihoods,
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


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [False, True])
def test_likelihoods_and_gradients_of_a_head_are_those_of_its_logits(temperature: float, bias: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 5, generator=draw, requires_grad=True)
    weight = torch.randn(11, 5, generator=draw, requires_grad=True)
    shift = torch.randn(11, generator=draw, requires_grad=True) if bias else None
    targets, scale = torch.arange(9), torch.randn(9, generator=draw)
    inputs = [tensor for tensor in (hidden, weight, shift) if tensor is not None]
    likelihoods, entropy = head_likelihoods(hidden, weight, shift, targets, temperature)
    gradients = torch.autograd.grad((likelihoods * scale).sum(), inputs)
    logits = torch.nn.functional.linear(hidden, weight, shift)
    plain = torch.log_softmax(logits / temperature, dim=1)
    expected = torch.autograd.grad((plain[torch.arange(9), targets] * scale).sum(), inputs, retain_graph=True)
    torch.testing.assert_close(likelihoods, plain[torch.arange(9), targets])
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(1))
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    same, same_entropy = logits_likelihoods(logits, targets, temperature)
    torch.testing.assert_close(same, likelihoods)
    torch.testing.assert_close(same_entropy, entropy)
    assert not entropy.requires_grad
