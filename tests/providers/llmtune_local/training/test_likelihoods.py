"""Log-likelihoods and entropies that are made in chunks are those of all logits at once, and so are the gradients."""

from __future__ import annotations

import pytest
import torch

from llmtune_local.training.likelihoods import head_likelihoods, logits_likelihoods, token_log_likelihoods


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
    if temperature == 1.0:
        alone = token_log_likelihoods(hidden, weight, shift, targets)
        torch.testing.assert_close(alone, likelihoods)
        for gradient, own in zip(gradients, torch.autograd.grad((alone * scale).sum(), inputs), strict=True):
            torch.testing.assert_close(own, gradient)
    assert not entropy.requires_grad
