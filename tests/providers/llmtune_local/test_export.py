"""Exported models are loaded by plain libraries and say what the run's model says; and how they are served is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.errors import InvalidJob, LlmtuneError
from llmtune_local.export import export

IDS = torch.arange(12).unsqueeze(0)


def logits(trainer: Any) -> torch.Tensor:
    trainer.model.eval()
    with torch.no_grad(), trainer.network.unpacked():
        found: torch.Tensor = trainer.model(input_ids=IDS).logits
    return found


def data_of(trainer: Any) -> dict[str, Any]:
    return {"model": trainer.request.model, "method": trainer.request.method}


def test_adapter_and_merged_give_the_same_logits(train: Callable[..., Any], tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = train()
    ours = logits(trainer)
    notes = export(trainer.folder.adapter, data_of(trainer), "adapter", tmp_path / "out" / "adapter")
    merged_notes = export(trainer.folder.adapter, data_of(trainer), "merged", tmp_path / "out" / "merged")
    adapter = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(adapter(input_ids=IDS).logits, ours)
        torch.testing.assert_close(merged(input_ids=IDS).logits, ours, rtol=1e-4, atol=1e-4)
    for kind in ("adapter", "merged"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / kind)
        assert tokenizer.chat_template == trainer.tokenizer.chat_template
    assert f"--lora-modules tuned={tmp_path / 'out' / 'adapter'} --max-lora-rank 8" in notes[0]
    assert f"vllm serve {tmp_path / 'out' / 'merged'}" in merged_notes[0]
    assert not (tmp_path / "out" / "merged" / "adapter_config.json").exists()


def test_dora_is_told_to_be_merged_and_full_has_no_adapter(train: Callable[..., Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    dora = train({"adapter": "dora"})
    notes = export(dora.folder.artefact, data_of(dora), "adapter", tmp_path / "dora")
    assert "does not serve a DoRA adapter: export it with --format merged" in notes[0]
    full = train({"adapter": "full"}, learning_rate=1e-3)
    with pytest.raises(InvalidJob, match="tuned all weights"):
        export(full.folder.artefact, data_of(full), "adapter", tmp_path / "none")
    export(full.folder.artefact, data_of(full), "merged", tmp_path / "full")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "full").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=IDS).logits, logits(full))
    assert not (tmp_path / "none").exists()


def test_a_classifier(train: Callable[..., Any], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"word {i % 2}", "label": str(i % 2)}) + "\n" for i in range(16)))
    trainer = train({"method": "classification", "model": "tiny-encoder", "files": {"train": str(rows)}})
    notes = export(trainer.folder.artefact, data_of(trainer), "merged", tmp_path / "merged")
    assert "--runner pooling" in notes[0]
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert loaded.config.id2label == {0: "0", 1: "1"}
    trainer.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(input_ids=IDS).logits, trainer.model(input_ids=IDS).logits, rtol=1e-4, atol=1e-4
        )
    assert "whole modules" in export(trainer.folder.artefact, data_of(trainer), "adapter", tmp_path / "adapter")[0]


def test_a_folder_with_something_in_it_is_left_alone(train: Callable[..., Any], tmp_path: Path) -> None:
    trainer = train(max_steps=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(InvalidJob, match="is there already and is not empty"):
        export(trainer.folder.adapter, data_of(trainer), "merged", tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    export(trainer.folder.adapter, data_of(trainer), "adapter", tmp_path / "empty")
    assert (tmp_path / "empty" / "adapter_config.json").exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from llmtune import TuningJob, tune
    from llmtune.cli.app import app

    rows = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text("".join(json.dumps(row | {"id": i}) + "\n" for i in range(10)))
    job: dict[str, Any] = {
        "name": "small",
        "dataset": str(rows),
        "model": "tiny",
        "hyperparameters": {"max_steps": 1},
        "provider_options": {"local": {"device": "cpu", "num_threads": 1}},
    }
    report = tune(TuningJob.model_validate(job), "local")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", report.identity.run_id, "--format", "merged", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["folder"] == str(tmp_path / "small-merged")
    assert (tmp_path / "small-merged" / "model.safetensors").exists()


def test_a_backend_that_keeps_its_weights_says_so(tmp_path: Path) -> None:
    from llmtune import TuningJob, start

    rows = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text("".join(json.dumps(row | {"id": i}) + "\n" for i in range(20)))
    run = start(TuningJob(name="t", dataset=str(rows), model="m-1"), "fake")
    run.wait(timeout=60)
    with pytest.raises(LlmtuneError, match="fake does not hand out the weights"):
        run.export("merged", tmp_path / "out")
