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
    run_request: dict[str, Any] = {"method": method, "adapter": adapter, "files": rows_of(method, data, tmp_path)}
    if method == "classification":
        run_request["model"] = "tiny-encoder"
    settings = {"dropout": 0.0, "attention_dropout": 0.0, "learning_rate": 1e-3}
    here = train(run_request | {"options": {"device": "cpu", "dtype": "float32"}}, **settings)
    there = train(run_request | {"options": {"device": "cuda", "dtype": "float32"}}, **settings)
    assert losses(there) == pytest.approx(losses(here), rel=1e-2, abs=1e-3)
    assert there.folder.read_result().device == "cuda"


def test_the_memory_told_is_about_what_was_allocated(tmp_path: Path) -> None:
    import importlib.util
    import sys

    path = Path(__file__).resolve().parents[4] / "benchmarks" / "memory.py"
    spec = importlib.util.spec_from_file_location("memory_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_benchmark"] = module
    spec.loader.exec_module(module)
    module.make_model(tmp_path / "model", (512, 8, 1536, 8, 4, 16000))
    measured = module.measure(tmp_path / "model", ("lora", 512, 8, {}), "cuda", tmp_path)
    # The context is outside the allocator, whose own peak is what the worker measures.
    assert measured["told"] - measured["process"] == pytest.approx(measured["measured"], rel=0.25)


@pytest.mark.parametrize("sizes", [((0, (33, 200, 1)),), ((64, (5, 90, 17)), (0, (40,)), (129, (300, 2)))])
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize(("heads", "keys", "width"), [(4, 4, 64), (8, 2, 128)])
def test_rows_in_one_call_give_what_each_gives_alone(
    sizes: tuple[Any, ...], window: int | None, heads: int, keys: int, width: int
) -> None:
    from llmtune_local.batching.packing import PrefixGroup
    from llmtune_local.kernels import packed_attention, varlen_attention

    groups = tuple(PrefixGroup(*size) for size in sizes)
    if window and any(group.shared for group in groups):
        window = 500  # longer than every row: nothing is out of reach
    tokens = sum(group.tokens for group in groups)
    generator = torch.Generator("cuda").manual_seed(tokens + heads)
    shapes = ((heads, tokens), (keys, tokens), (keys, tokens))
    exact = [
        torch.randn(1, *shape, width, generator=generator, device="cuda", dtype=torch.float64).requires_grad_(True)
        for shape in shapes
    ]
    half = [tensor.detach().bfloat16().requires_grad_(True) for tensor in exact]
    assert varlen_attention.can_attend(*half, 0.0)
    upstream = torch.randn(1, tokens, heads, width, generator=generator, device="cuda", dtype=torch.float64)
    layer = torch.nn.Module()
    outputs = []
    for parts, grad in ((exact, upstream), (half, upstream.bfloat16())):
        output, _ = packed_attention.packed_attention(
            layer, *parts, None, packed_layout=packed_attention.PackedLayout(groups), sliding_window=window
        )
        output.backward(grad)
        outputs.append(output)
    pairs = [outputs, *([expected.grad, actual.grad] for expected, actual in zip(exact, half, strict=True))]
    for expected, actual in pairs:
        difference = (actual.double() - expected).norm() / expected.norm()
        assert difference < 1e-2


@pytest.mark.parametrize("pieces", [1, 4])
def test_a_shared_beginning_trains_like_rows_alone(train: Callable[..., Any], tmp_path: Path, pieces: int) -> None:
    rules = "one two three four five six seven eight nine ten " * 6
    lines = [
        {
            "messages": [
                {"role": "system", "content": rules},
                {"role": "user", "content": "the quick brown fox " * (1 + i % 5)},
                {"role": "assistant", "content": "jumps over" if i % 2 else "the lazy dog"},
            ]
        }
        for i in range(24)
    ]
    path = tmp_path / "shared.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"dropout": 0.0, "attention_dropout": 0.0, "learning_rate": 1e-3, "gradient_accumulation_steps": pieces}
    run_request = {"files": {"train": str(path)}, "options": {"device": "cuda", "dtype": "bfloat16"}}
    together = train(run_request, **settings)
    apart = train(run_request, packing=False, **settings)
    assert any("share" in feature for feature in together.network.features)
    assert not apart.network.packed
    assert losses(together) == pytest.approx(losses(apart), rel=1e-2, abs=1e-3)


def test_four_bits_train(train: Callable[..., Any], data: dict[str, str]) -> None:
    pytest.importorskip("bitsandbytes")
    curve = losses(train({"adapter": "qlora", "files": data, "options": {"device": "cuda"}}, learning_rate=1e-3))
    assert curve[-1] < curve[0]


def test_kernels_and_the_optimizer_are_used(train: Callable[..., Any], data: dict[str, str]) -> None:
    trainer = train({"files": data, "options": {"device": "cuda"}})
    assert trainer.optimizer.defaults["fused"] is True
    pytest.importorskip("liger_kernel")
    assert "Liger kernels" in trainer.network.features
