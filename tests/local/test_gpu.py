"""The same training on a GPU, where there is one: close to the CPU's losses, and within what the plan told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def losses(trainer: Any) -> list[float]:
    return [line.value for line in trainer.folder.read_metrics()[0] if line.series == "train/loss"]


def rows_of(method: str, data: dict[str, str], folder: Path) -> dict[str, str]:
    if method == "sft":
        return data
    path = folder / "rows.jsonl"
    pair = {"dpo": {"prompt": "one two", "chosen": "odd one", "rejected": "no"}, "classification": {"text": "one two"}}
    lines = [pair[method] | ({"label": str(i % 2)} if method == "classification" else {}) for i in range(24)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"train": str(path)}


@pytest.mark.parametrize("method", ["sft", "dpo", "classification"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_losses_are_the_cpus(
    train: Callable[..., Any], data: dict[str, str], tmp_path: Path, method: str, adapter: str
) -> None:
    asked: dict[str, Any] = {"method": method, "adapter": adapter, "files": rows_of(method, data, tmp_path)}
    if method == "classification":
        asked["model"] = "tiny-encoder"
    settings = {"dropout": 0.0, "attention_dropout": 0.0, "learning_rate": 1e-3}
    here = train(asked | {"options": {"device": "cpu", "dtype": "float32"}}, **settings)
    there = train(asked | {"options": {"device": "cuda", "dtype": "float32"}}, **settings)
    assert losses(there) == pytest.approx(losses(here), rel=1e-2, abs=1e-3)
    assert there.folder.read_result().device == "cuda"


def test_the_memory_told_is_about_what_was_allocated(tmp_path: Path) -> None:
    import importlib.util
    import sys

    place = Path(__file__).resolve().parents[2] / "benchmarks" / "memory.py"
    spec = importlib.util.spec_from_file_location("memory_benchmark", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_benchmark"] = module
    spec.loader.exec_module(module)
    module.make_model(tmp_path / "model", (512, 8, 1536, 8, 4, 16000))
    found = module.measure(tmp_path / "model", ("lora", 512, 8, {}), "cuda", tmp_path)
    # The context is outside the allocator, whose own peak is what the worker measures.
    assert found["told"] - found["process"] == pytest.approx(found["measured"], rel=0.25)
