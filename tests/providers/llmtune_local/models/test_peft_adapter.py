"""Adapters beside plain LoRA: another scaling, a 4-bit base where it runs, and the reason where it does not."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.errors import InvalidJob
from llmtune_local.models import quantization
from llmtune_local.models.hardware import resolve_device
from llmtune_local.run_state.schema import TrainingConfig

OPTIONS = {"device": "cpu", "num_threads": 1}
TESTS = Path(__file__).parents[1]


def losses(trainer: Any) -> dict[int, float]:
    return {line.step: line.value for line in trainer.folder.read_metrics()[0] if line.series == "train/loss"}


def test_rank_stabilised_lora(train: Callable[..., Any]) -> None:
    plain = train(lora_rank=16)
    scaled = train({"options": OPTIONS | {"rslora": True}}, lora_rank=16)
    config = json.loads((scaled.folder.adapter / "adapter_config.json").read_text())
    assert config["use_rslora"]
    layer = next(module for module in scaled.model.modules() if hasattr(module, "lora_A"))
    assert layer.scaling["default"] == pytest.approx(32 / 16**0.5)  # alpha is twice the rank
    assert losses(scaled)[1] == losses(plain)[1]  # an adapter that is zero scales to zero
    assert losses(scaled)[2] != losses(plain)[2]


def test_every_hyperparameter_of_the_trainer_is_named_in_a_test() -> None:
    text = "".join(
        path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py") if path.name != "test_peft_adapter.py"
    )
    assert [name for name in TrainingConfig.model_fields if name not in text] == []


# 4-bit bases


def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "bitsandbytes" else find(name, *args)
    )


def test_qlora_is_refused_with_the_reason(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    without_bitsandbytes(monkeypatch)
    with pytest.raises(InvalidJob, match="needs bitsandbytes, which is not installed here") as refused:
        train({"adapter": "qlora"})
    assert "llmtune-sdk[qlora]" in (refused.value.hint or "")
    assert quantization.quantization_obstacle("cpu") is not None


def test_qlora_is_refused_where_bitsandbytes_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel image is available\nfor this device")

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: object() if name == "bitsandbytes" else find(name, *args)
    )
    library = types.ModuleType("bitsandbytes")
    library.nn = types.SimpleNamespace(Linear4bit=broken)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    with pytest.raises(InvalidJob, match=r"bitsandbytes does not run on cpu here \(no kernel image is available\)"):
        quantization.check_adapter("qlora", "cpu")
    quantization.check_adapter("lora", "cpu")


def test_the_plan_warns_and_the_run_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, str]
) -> None:
    from llmtune import TuningJob, plan, start

    without_bitsandbytes(monkeypatch)
    job = TuningJob.model_validate(
        {"name": "t", "dataset": data["train"], "model": "tiny", "adapter": "qlora"}
        | {"provider_options": {"local": {"device": "cpu"}}}
    )
    receipt = plan(job, "local")
    assert any("the run will be refused" in line for line in receipt.warnings)
    assert receipt.memory.peak < plan(job.model_copy(update={"adapter": "lora"}), "local").memory.peak
    with pytest.raises(InvalidJob, match="needs bitsandbytes"):
        start(job, "local").wait(timeout=60)
    encoder = job.model_copy(update={"method": "classification", "model": "tiny-encoder"})
    assert any("its base is not quantised" in line for line in plan(encoder, "local").refusals)


def test_qlora_trains_where_it_runs(train: Callable[..., Any]) -> None:
    device = resolve_device()
    if (reason := quantization.quantization_obstacle(device)) is not None:
        pytest.skip(reason)
    trainer = train({"model": "tiny", "adapter": "qlora", "options": {"device": device}}, epochs=3)
    linear = [module for module in trainer.model.modules() if type(module).__name__ == "Linear4bit"]
    assert linear
    assert all(parameter.dtype == torch.float32 for parameter in trainer.trained)
    curve = losses(trainer)
    assert curve[max(curve)] < curve[1]
