"""Half precision where the hardware multiplies in it, and where it pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llmtune_local.models import memory_estimate, precision


def test_auto_takes_half_precision_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    small = memory_estimate.read_shape("tiny")
    assert small is not None
    large = replace(small, parameters=precision.HALF_FROM)
    monkeypatch.setattr(precision, "cpu_has_half", lambda: True)
    assert precision.resolve_precision("auto", "cpu", large) == "bfloat16"
    assert precision.resolve_precision("auto", "cpu", small) == "float32"
    assert precision.resolve_precision("auto", "cpu", replace(large, encoder=True)) == "float32"
    assert precision.resolve_precision("auto", "cpu", None) == "float32"
    assert precision.resolve_precision("auto", "mps", large) == "float32"
    assert precision.resolve_precision("auto", "cuda", None) == "bfloat16"
    assert precision.resolve_precision("float32", "cuda", large) == "float32"
    assert precision.resolve_precision("bfloat16", "cpu", small) == "bfloat16"
    monkeypatch.setattr(precision, "cpu_has_half", lambda: False)
    assert precision.resolve_precision("auto", "cpu", large) == "float32"


def test_the_processor_says_what_it_can() -> None:
    assert precision.cpu_has_half() in (True, False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_fast_ways_are_taken_in_either_precision(
    train: Callable[..., Any], data: dict[str, str], dtype: str
) -> None:
    trainer = train({"files": data, "options": {"device": "cpu", "dtype": dtype}}, max_steps=1, dropout=0.0)
    network = trainer.network
    assert network.packed
    assert network.shares_prefixes
    assert network.linear_head
    assert network.fused
