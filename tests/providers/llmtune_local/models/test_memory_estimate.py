"""Memory told before: exact where it is counted, bigger where more is asked, and with what would make it fit."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import DeviceUnavailable
from llmtune.provider.memory import Footprint
from llmtune_local.models import memory_estimate
from llmtune_local.models.memory_estimate import Plan, estimate
from llmtune_local.models.shape import read_shape
from llmtune_local.run_state.schema import RunRequest

PLAN = Plan(adapter="lora", tokens=2048, trained_tokens=512, longest=256)


def peak(**changes: Any) -> int:
    shape = read_shape("tiny")
    assert shape is not None
    estimated = estimate(shape, replace(PLAN, **changes)).peak
    assert estimated is not None
    return estimated


def test_the_shape_is_read_from_the_files() -> None:
    from transformers import AutoModelForCausalLM

    from llmtune_local.models.hub import locate

    shape = read_shape("tiny")
    assert shape is not None
    model = AutoModelForCausalLM.from_pretrained(locate("tiny"))
    assert shape.parameters == model.num_parameters()
    assert (shape.hidden, shape.layers, shape.inner) == (256, 4, 512)
    assert (shape.query, shape.key, shape.vocabulary) == (256, 128, 4096)
    assert len(shape.linear) == 7 * 4
    encoder = read_shape("tiny-encoder")
    assert encoder is not None
    assert encoder.encoder
    assert read_shape("nobody/nothing") is None


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("targets", ["all-linear", "attention", "mlp"])
def test_adapters_are_counted_exactly(adapter: str, targets: str) -> None:
    import torch

    from llmtune_local.models import loading as models
    from llmtune_local.models.peft_adapter import add_adapter
    from llmtune_local.run_state.schema import RunRequest

    hyper = {"epochs": 1, "batch_size": 1, "learning_rate": 1, "lora_rank": 8, "lora_target_modules": targets}
    request = RunRequest.model_validate(
        {"model": "tiny", "adapter": adapter, "files": {"train": "x"}, "hyperparameters": hyper}
    )
    tuned = add_adapter(models.load_base("tiny", None, dtype=torch.float32, device="cpu"), request)
    counted = sum(parameter.numel() for parameter in tuned.parameters() if parameter.requires_grad)
    shape = read_shape("tiny")
    assert shape is not None
    footprint = estimate(shape, replace(PLAN, adapter=adapter, rank=8, targets=targets))
    assert next(part.bytes for part in footprint.parts if part.name == "adapters") == 4 * counted


def test_what_makes_it_larger_and_smaller() -> None:
    plain = peak()
    assert peak(tokens=4096) > plain
    assert peak(adapter="full") > plain
    assert peak(adapter="dora") > plain
    assert peak(dropout=0.1) > plain
    assert peak(rank=256) > plain
    assert peak(micro_batches=3) > plain
    assert peak(checkpointing=True) < plain
    assert peak(adapter="full", optimizer="sgd") < peak(adapter="full")


def plan_of(tmp_path: Path, **changes: Any) -> Any:
    from llmtune import TuningJob, plan

    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        for number in range(60):
            messages = [{"role": "user", "content": f"word {number} " * 30}, {"role": "assistant", "content": "yes"}]
            file.write(json.dumps({"messages": messages}) + "\n")
    job = {"name": "t", "dataset": str(rows), "model": "tiny", "provider_options": {"local": {"device": "cpu"}}}
    return plan(TuningJob.model_validate(job | changes), "local")


def test_the_plan_tells_it_and_what_would_make_it_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from llmtune.cli.app import app

    footprint: Footprint = plan_of(tmp_path).memory
    assert footprint.peak is not None
    assert footprint.fits
    assert footprint.room is not None
    assert footprint.device == "cpu"
    assert sum(part.bytes for part in footprint.parts) == footprint.peak
    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: 400 << 20)
    tight: Footprint = plan_of(tmp_path, adapter="full").memory
    assert tight.fits is False
    assert "which is too much" in tight.sentence()
    for way in ("adapter: lora", "gradient_checkpointing: true", "token_budget: "):
        assert any(way in line for line in tight.advice), way
    job = tmp_path / "job.json"
    job.write_text(
        json.dumps({"name": "t", "dataset": str(tmp_path / "rows.jsonl"), "model": "tiny", "adapter": "full"})
    )
    output = CliRunner().invoke(app, ["plan", str(job), "--provider", "local"]).output
    assert "which is too much" in output
    assert "smaller by" in output
    document = json.loads(CliRunner().invoke(app, ["plan", str(job), "--provider", "local", "--json"]).stdout)
    assert document["plans"]["local"]["memory"]["peak"] == tight.peak


def test_a_model_that_is_not_here_is_not_estimated(tmp_path: Path) -> None:
    footprint: Footprint = plan_of(tmp_path, model="nobody/nothing").memory
    assert footprint.peak is None
    assert footprint.fits is None
    assert "the model is not on this machine yet" in footprint.sentence()


def test_hosted_backends_say_nothing_of_memory(tmp_path: Path) -> None:
    from llmtune import TuningJob, plan

    plan_of(tmp_path)
    assert plan(TuningJob(name="t", dataset=str(tmp_path / "rows.jsonl"), model="m-1"), "fake").memory is None


@pytest.mark.slow
def test_a_real_run_takes_about_what_was_told(tmp_path: Path) -> None:
    """One shape of benchmarks/memory.py, which has the grid."""
    import importlib.util
    import sys

    path = Path(__file__).resolve().parents[4] / "benchmarks" / "memory.py"
    spec = importlib.util.spec_from_file_location("memory_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_benchmark"] = module
    spec.loader.exec_module(module)
    module.make_model(tmp_path / "model", (256, 6, 768, 4, 4, 8000))
    measured = module.measure(tmp_path / "model", ("lora", 512, 8, {}), "cpu", tmp_path)
    assert measured["told"] == pytest.approx(measured["measured"], rel=0.25)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux hands the peak on through exec")
def test_the_peak_is_the_workers_own_not_its_parents() -> None:
    import subprocess

    child = "from llmtune_local.models.hardware import peak_memory; print(peak_memory('cpu'))"
    parent = (
        "import subprocess, sys\n"
        "held = bytearray(1 << 30)\n"
        "held[::4096] = b'x' * len(held[::4096])\n"
        f"print(subprocess.run([sys.executable, '-c', {child!r}], capture_output=True, text=True, check=True).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 1 << 30


def request(adapter: str) -> RunRequest:
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "lora_rank": 8}
    body = {"model": "tiny", "adapter": adapter, "files": {"train": "rows.jsonl"}, "hyperparameters": settings}
    return RunRequest.model_validate(body)


def test_a_model_that_cannot_fit_is_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = memory_estimate.read_shape("tiny")
    assert shape is not None
    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: shape.parameters * 8)
    memory_estimate.check_memory(request("lora"), "cpu")
    with pytest.raises(DeviceUnavailable, match=r"needs at least .* on cpu and there are") as caught:
        memory_estimate.check_memory(request("full"), "cpu")
    assert "adapter: lora" in (caught.value.hint or "")
    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: None)
    memory_estimate.check_memory(request("full"), "cpu")
