"""Rotary positions and casts are the published ones, with fewer passes over memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmtune_local.kernels import rotary
from llmtune_local.models import fused_lora


def published(query: Any, key: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
    """RoFormer's formula (https://arxiv.org/abs/2104.09864) on halves, as most models have it."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def turned(x: Any) -> Any:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    return turned(query), turned(key)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_turning_and_its_gradient_are_the_models_own(
    family: str, random_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(family)
    home = sys.modules[type(model).__module__]
    monkeypatch.setattr(home, "apply_rotary_pos_emb", published)  # another test may have replaced it for good
    assert rotary.use_fast_rotary(model)
    assert home.apply_rotary_pos_emb is rotary.rotate  # type: ignore[attr-defined]
    query, key = (torch.randn(2, heads, 5, 16, dtype=torch.float64, requires_grad=True) for heads in (4, 2))
    cos, sin = torch.randn(2, 2, 5, 16, dtype=torch.float64)
    upstream = [torch.randn_like(tensor) for tensor in (query, key)]
    results = []
    for turn in (published, rotary.rotate):
        turned = turn(query, key, cos, sin)
        results.append([*turned, *torch.autograd.grad(turned, (query, key), upstream)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_a_model_that_turns_a_part_of_each_head_keeps_its_own(random_model: Callable[..., Any]) -> None:
    model = random_model("gpt_neox")
    home = sys.modules[type(model).__module__]
    before = home.apply_rotary_pos_emb  # type: ignore[attr-defined]
    assert not rotary.use_fast_rotary(model)
    assert home.apply_rotary_pos_emb is before  # type: ignore[attr-defined]


def test_one_cast_serves_all_layers_that_are_given_the_same_input() -> None:
    x = torch.randn(3, 4, requires_grad=True) * 2
    first = fused_lora._cast(x, torch.bfloat16)
    assert fused_lora._cast(x, torch.bfloat16) is first
    assert fused_lora._cast(x, torch.float32) is x
    assert fused_lora._cast(x.clone(), torch.bfloat16) is not first
    with torch.no_grad():
        assert fused_lora._cast(x, torch.bfloat16).grad_fn is None
        before = fused_lora._cast(x, torch.bfloat16)
        x.add_(1)
        assert not torch.equal(fused_lora._cast(x, torch.bfloat16), before)
    fused_lora.clear_cache()
    assert fused_lora._last is None
