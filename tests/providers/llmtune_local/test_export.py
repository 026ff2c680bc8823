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
from llmtune_local.run_state.run_dir import DECISIONS_FILE

IDS = torch.arange(12).unsqueeze(0)


def logits(trainer: Any) -> torch.Tensor:
    trainer.model.eval()
    with torch.no_grad(), trainer.network.unpacked():
        output: torch.Tensor = trainer.model(input_ids=IDS).logits
    return output


def data_of(trainer: Any) -> dict[str, Any]:
    return {"model": trainer.request.model, "method": trainer.request.method}


def test_adapter_and_merged_give_the_same_logits(train: Callable[..., Any], tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = train()
    expected = logits(trainer)
    (trainer.folder.adapter / DECISIONS_FILE).write_text("{}")
    notes = export(trainer.folder.adapter, data_of(trainer), "adapter", tmp_path / "out" / "adapter")
    merged_notes = export(trainer.folder.adapter, data_of(trainer), "merged", tmp_path / "out" / "merged")
    adapter = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(adapter(input_ids=IDS).logits, expected)
        torch.testing.assert_close(merged(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
    for kind in ("adapter", "merged"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / kind)
        assert tokenizer.chat_template == trainer.tokenizer.chat_template
        assert (tmp_path / "out" / kind / DECISIONS_FILE).read_text() == "{}"
    assert f"--lora-modules tuned={tmp_path / 'out' / 'adapter'} --max-lora-rank 8" in notes[0]
    assert f"--generation-config {tmp_path / 'out' / 'adapter'}" in notes[0]
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
    beside = tmp_path / "full" / "mine" / "out"
    with pytest.raises(InvalidJob, match=r"out cannot be written: .*mine is a file"):
        export(trainer.folder.adapter, data_of(trainer), "merged", beside)
    (tmp_path / "empty").mkdir()
    export(trainer.folder.adapter, data_of(trainer), "adapter", tmp_path / "empty")
    assert (tmp_path / "empty" / "adapter_config.json").exists()


@pytest.mark.slow
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
    output = json.loads(done.stdout)
    assert output["folder"] == str(tmp_path / "small-merged")
    assert (tmp_path / "small-merged" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_backend_that_keeps_its_weights_says_so(tmp_path: Path) -> None:
    from llmtune import TuningJob, start

    rows = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text("".join(json.dumps(row | {"id": i}) + "\n" for i in range(20)))
    run = start(TuningJob(name="t", dataset=str(rows), model="m-1"), "fake")
    run.wait(timeout=60)
    with pytest.raises(LlmtuneError, match="fake does not hand out the weights"):
        run.export("merged", tmp_path / "out")


# What ends an answer


@pytest.fixture
def base_with_another_end(
    tmp_path: Path,
    new_tokenizer: Callable[..., Any],
    random_model: Callable[..., Any],
    tokenizers: Callable[[str], Any],
) -> Path:
    """Build a base whose text ends in <|endoftext|> and says so, with a template whose turns end in <|im_end|>."""
    tokenizer = new_tokenizer(tokenizers("chatml").chat_template, ("<|im_start|>", "<|im_end|>"), None, "<|endoftext|>")
    model = random_model(
        "llama",
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.05,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    ).bfloat16()
    model.generation_config.max_new_tokens = 64
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def ends_of(trainer: Any) -> list[int]:
    tokenizer = trainer.tokenizer
    return sorted([tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")])


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_what_is_handed_out_stops_where_its_template_ends_a_turn(
    adapter: str, train: Callable[..., Any], base_with_another_end: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

    from llmtune.provider import ModelRef
    from llmtune_local.snippet import snippet

    trainer = train({"model": str(base_with_another_end), "adapter": adapter}, max_steps=1, learning_rate=1e-3)
    ends = ends_of(trainer)
    artefact, out = trainer.folder.artefact, tmp_path / "out"
    export(artefact, data_of(trainer), "merged", out)
    for folder in (artefact, out):
        settings = json.loads((folder / "generation_config.json").read_text())
        assert settings["eos_token_id"] == ends
        assert "max_new_tokens" not in settings
    text = snippet(ModelRef(id=str(artefact), base="x", data=data_of(trainer)))
    assert (f"eos_token_id={ends}" in text) == (adapter == "lora")

    class EndsTheTurn(LogitsProcessor):
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores[:, :] = 0.0
            scores[:, trainer.tokenizer.convert_tokens_to_ids("<|im_end|>")] = 1.0
            return scores

    plain = AutoModelForCausalLM.from_pretrained(out).eval()
    answer = plain.generate(IDS, max_new_tokens=9, logits_processor=LogitsProcessorList([EndsTheTurn()]))
    assert answer.shape[1] == IDS.shape[1] + 1


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_tied_weights_are_saved_once_and_in_the_precision_of_the_base(
    adapter: str, train: Callable[..., Any], base_with_another_end: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    trainer = train({"model": str(base_with_another_end), "adapter": adapter}, max_steps=1, learning_rate=1e-3)
    export(trainer.folder.artefact, data_of(trainer), "merged", tmp_path / "out")
    base = load_file(base_with_another_end / "model.safetensors")
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert out.keys() == base.keys()
    assert {name: tensor.dtype for name, tensor in out.items()} == {name: tensor.dtype for name, tensor in base.items()}
    size, before = (
        (folder / "model.safetensors").stat().st_size for folder in (tmp_path / "out", base_with_another_end)
    )
    assert size < 1.01 * before


def test_the_check_asks_the_folder_and_not_a_loop_of_ours(
    train: Callable[..., Any], base_with_another_end: Path, data: dict[str, str]
) -> None:
    from llmtune.data.io.reading import load
    from llmtune_local.self_checks import answers_end

    trainer = train({"model": str(base_with_another_end)}, epochs=6)
    model, rows = data_of(trainer) | {"options": {"device": "cpu", "num_threads": 1}}, load(data["validation"])[:6]
    result = answers_end(model, trainer.folder.artefact, rows)
    assert result.passed
    assert result.says.startswith("6 of 6 answers ended by themselves")
    path = trainer.folder.artefact / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"eos_token_id": trainer.tokenizer.eos_token_id}))
    assert not answers_end(model, trainer.folder.artefact, rows).passed


def test_the_rank_of_a_pattern_and_parameters_count_for_serving() -> None:
    from llmtune_local.export import reason_not_servable, serve_adapter_command

    settings = {"r": 8, "rank_pattern": {".*gate_up_proj": 40}, "base_model_name_or_path": "b"}
    assert "--max-lora-rank 64" in serve_adapter_command(Path("/x"), settings, {}, "tuned")
    assert reason_not_servable(settings) is None
    assert "parameters" in (reason_not_servable(settings | {"target_parameters": ["experts.down_proj"]}) or "")
    assert "of rank 600" in (reason_not_servable({"r": 8, "rank_pattern": {"x": 600}}) or "")


def test_a_model_of_text_and_images_is_handed_out_whole(
    train: Callable[..., Any], tokenizers: Callable[[str], Any], tmp_path: Path
) -> None:
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForImageTextToText

    from llmtune.provider import ModelRef
    from llmtune_local.snippet import snippet

    tokenizer, base = tokenizers("chatml"), tmp_path / "base"
    text = {"vocab_size": len(tokenizer) + 3, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gemma3", text_config=text | heads, vision_config=vision | {"image_size": 8, "patch_size": 4}
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    (base / "preprocessor_config.json").write_text("{}")
    trainer = train({"model": str(base)}, max_steps=1)
    (adapted, loads), (_, merged) = (
        export(trainer.folder.artefact, data_of(trainer), kind, tmp_path / kind)  # type: ignore[arg-type]
        for kind in ("adapter", "merged")
    )
    assert "--enable-lora" in adapted
    assert "PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(" in loads
    assert "AutoModelForImageTextToText" in merged
    assert (tmp_path / "merged" / "preprocessor_config.json").is_file()
    text_of = snippet(ModelRef(id=str(tmp_path / "adapter"), base="b", data=data_of(trainer)))
    assert "AutoModelForImageTextToText.from_pretrained" in text_of
    with (
        safe_open(base / "model.safetensors", "pt") as before,
        safe_open(tmp_path / "merged" / "model.safetensors", "pt") as after,
    ):
        assert set(before.keys()) == set(after.keys())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    from llmtune_local.export import write_new

    def fail(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "model.safetensors"))

    with pytest.raises(InvalidJob, match="out cannot be written: Permission denied"):
        write_new(tmp_path / "new" / "out", fail, needs=1)
    assert not list((tmp_path / "new").iterdir())

    def read(folder: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/elsewhere/adapter.safetensors")

    with pytest.raises(FileNotFoundError, match="elsewhere"):
        write_new(tmp_path / "new" / "out", read, needs=1)
