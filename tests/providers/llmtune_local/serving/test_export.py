"""A tuned model exported for servers answers as it was measured: the whole way, from training to llama.cpp."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidJob, LlmtuneError, MissingExtra
from llmtune_local.serving import llama_cpp
from llmtune_local.serving.export import export_for_server

ROWS = 60
#: Read now: within a test the environment has no settings of llmtune's.
SMOLLM2 = os.environ.get("LLMTUNE_TEST_SMOLLM2")
TEAMS = {
    "shipping": ["where is my {}", "my {} has not arrived", "can you send the {} to another address"],
    "returns": ["i want to send the {} back", "how do i return a {}", "the {} does not fit, take it back please"],
    "billing": ["i was charged twice for the {}", "where is the invoice for my {}", "refund the price of the {}"],
}
THINGS = ["lamp", "coat", "desk", "kettle", "bicycle", "tent", "jacket", "phone", "chair", "printer", "clock", "rug"]
OPENINGS = ["", "hello, ", "Good morning! ", "please help: ", "It's urgent, "]


def write_rows(path: Path) -> Path:
    """Write questions to a shop with the team that answers each; every row is another question."""
    rows = []
    for opening, thing, (team, texts) in itertools.product(OPENINGS, THINGS, TEAMS.items()):
        for text in texts:
            question = {"role": "user", "content": opening + text.format(thing)}
            system = {"role": "system", "content": "Answer with shipping, returns or billing."}
            rows.append({"messages": [system, question, {"role": "assistant", "content": team}]})
    test, train = rows[:: len(rows) // ROWS][:ROWS], [row for index, row in enumerate(rows) if index % 9]
    for name, part in (("train", train), ("test", test)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return path


def tune_run(folder: Path, model: str, **job: Any) -> Any:
    from llmtune import TuningJob, attach, tune

    write_rows(folder)
    body: dict[str, Any] = {
        "name": "shop",
        "dataset": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")},
        "model": model,
        "adapter": "lora",
        "hyperparameters": {"max_steps": 20, "batch_size": 16, "learning_rate": 5e-3},
        "evaluation": {"max_rows": 10, "fit_rows": 0, "baselines": ["majority"]},
        "provider_options": {"local": {"device": "cpu"}},
    }
    report = tune(TuningJob.model_validate(body | job), "local")
    return attach(report.identity.run_id)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify all rows, however busy the machine is."""
    from llmtune.runs import verify_export

    monkeypatch.setattr(verify_export, "EXPORT_SECONDS", float("inf"))


def read_result(run: Any, format: str, precision: str | None = None) -> Any:
    """Return the verification of an export from the run's report; all its prompts are the same tokens."""
    results = [result for result in run.report().verifications if result.export is not None]
    (result,) = (result for result in results if (result.export.format, result.export.precision) == (format, precision))
    assert (result.prompts, result.rows) == ("tokens", ROWS)
    assert (result.prompts_compared, result.prompts_same) == (ROWS, ROWS)
    return result


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tiny_answers_the_same_in_llama_cpp(unhurried: None, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    run = tune_run(tmp_path, "tiny")
    for precision, least in (("f16", 58), ("q8_0", 0)):
        folder = tmp_path / precision
        notes = run.export("gguf", folder, precision=precision)
        result = read_result(run, "gguf", precision)
        assert result.answers_same >= least
        assert f"llama-server -m {folder}/model-{precision}.gguf --jinja" in notes[0]
        # Its tokenizer is cut by a rule of its own, the nearest of llama.cpp's is not quite that.
        assert "contractions in capitals" in notes[1]
        tokenizer = result.difference("tokenizer_differs")
        assert not tokenizer.drift
        assert "contractions in capitals (1 of 3" in tokenizer.says
        assert f"prompts: {ROWS} of {ROWS} the same, token by token" in notes
        assert sorted(path.name for path in folder.iterdir()) == [f"model-{precision}.gguf"]
    assert read_result(run, "gguf", "f16").verdict == "same"
    notes = run.export("gguf-adapter", tmp_path / "beside")
    assert read_result(run, "gguf-adapter", "f16").answers_same >= 58
    assert "--lora" in notes[0]
    run.export("merged", tmp_path / "merged")
    result = read_result(run, "merged")
    assert result.answers_same >= 58
    assert (result.verdict, result.differences) == ("same", ())
    assert result.export.program.startswith("transformers ")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_smollm2_answers_the_same_in_llama_cpp(unhurried: None, tmp_path: Path) -> None:
    """LLMTUNE_TEST_SMOLLM2 names a folder with SmolLM2-135M-Instruct as transformers saves it."""
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    if not SMOLLM2:
        pytest.skip("LLMTUNE_TEST_SMOLLM2 names no folder with the model")
    run = tune_run(tmp_path, SMOLLM2, hyperparameters={"max_steps": 12, "batch_size": 8, "learning_rate": 1e-3})
    for precision, least in (("f16", 58), ("q8_0", 0)):
        run.export("gguf", tmp_path / precision, precision=precision)
        result = read_result(run, "gguf", precision)
        assert result.answers_same >= least
        assert result.difference("tokenizer_differs") is None


# Folders, and what is refused


def data_of(trainer: Any) -> dict[str, Any]:
    return {"model": trainer.request.model, "method": trainer.request.method}


def test_the_folder_for_ollama(train: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    trainer = train({"model": "tiny"}, max_steps=1)
    notes = export_for_server(trainer.folder.artefact, data_of(trainer), "ollama", tmp_path / "out", "q8_0")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "model-q8_0.gguf"]
    modelfile = (tmp_path / "out" / "Modelfile").read_text()
    assert modelfile.startswith('FROM ./model-q8_0.gguf\nTEMPLATE """')
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert f"ollama create tuned -f {tmp_path}/out/Modelfile" in notes[0]
    assert "has no tools" in notes[1]


def test_the_folder_for_vllm(train: Callable[..., Any], tmp_path: Path) -> None:
    lora = train(max_steps=1)
    folder = tmp_path / "my models"
    options = {"options": {"template_options": {"flag": True}}}
    (note,) = export_for_server(lora.folder.artefact, data_of(lora) | options, "vllm", folder, "f16")
    assert (folder / "adapter_model.safetensors").is_file()
    assert (folder / "generation_config.json").is_file()
    assert (folder / "chat_template.jinja").read_text().startswith("{%- set flag = true -%}")
    script = (folder / "serve.sh").read_text()
    assert (folder / "serve.sh").stat().st_mode & stat.S_IXUSR
    command = shlex.split(script.splitlines()[-1])
    assert command[:4] == ["exec", "vllm", "serve", lora.request.model]
    assert command[command.index("--lora-modules") + 1] == f"tuned={folder}"
    assert command[command.index("--max-lora-rank") + 1] == "8"
    assert command[command.index("--chat-template") + 1] == str(folder / "chat_template.jinja")
    assert "ask for the model 'tuned'" in note
    dora = train({"adapter": "dora"}, max_steps=1)
    served, why = export_for_server(dora.folder.artefact, data_of(dora), "vllm", tmp_path / "merged", "f16")
    assert f"vllm serve {tmp_path}/merged --served-model-name tuned" in served
    assert "vLLM does not serve a DoRA adapter" in why
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert not list(tmp_path.glob(".*"))


def test_a_classifier_for_vllm(train: Callable[..., Any], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"word {i % 2}", "label": str(i % 2)}) + "\n" for i in range(16)))
    trainer = train({"method": "classification", "model": "tiny-encoder", "files": {"train": str(rows)}}, max_steps=1)
    notes = export_for_server(trainer.folder.artefact, data_of(trainer), "vllm", tmp_path / "out", "f16")
    assert "--runner pooling --served-model-name tuned" in notes[0]
    assert "POST /classify" in notes[0]
    pytest.importorskip("gguf")
    with pytest.raises(InvalidJob, match=r"a classifier, which llama\.cpp does not serve"):
        export_for_server(trainer.folder.artefact, data_of(trainer), "gguf", tmp_path / "no", "f16")


@pytest.mark.slow
def test_what_cannot_be_written_is_refused_before_anything_is(
    train: Callable[..., Any], random_model: Callable[..., Any], tokenizers: Callable[[str], Any], tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    tokenizer = tokenizers("chatml")
    random_model("gpt2", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    other = train({"model": str(tmp_path / "gpt2")}, max_steps=1)
    for format in ("gguf", "gguf-adapter", "ollama"):
        with pytest.raises(InvalidJob, match="a gpt2 model cannot be written as GGUF"):
            export_for_server(other.folder.artefact, data_of(other), format, tmp_path / "new" / "out", "f16")  # type: ignore[arg-type]
    full = train({"model": "tiny", "adapter": "full"}, max_steps=1)
    with pytest.raises(InvalidJob, match="tuned all weights"):
        export_for_server(full.folder.artefact, data_of(full), "gguf-adapter", tmp_path / "new" / "out", "f16")
    dora = train({"model": "tiny", "adapter": "dora"}, max_steps=1)
    with pytest.raises(InvalidJob, match="does not apply a DoRA adapter"):
        export_for_server(dora.folder.artefact, data_of(dora), "gguf-adapter", tmp_path / "new" / "out", "f16")
    assert not (tmp_path / "new").exists()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("x")
    with pytest.raises(InvalidJob, match="is not empty"):
        export_for_server(full.folder.artefact, data_of(full), "gguf", tmp_path / "used", "f16")


def test_without_the_package_the_extra_is_named(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    trainer = train({"model": "tiny"}, max_steps=1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"llmtune-sdk\[gguf\]"):
        export_for_server(trainer.folder.artefact, data_of(trainer), "gguf", tmp_path / "out", "f16")
    with pytest.raises(MissingExtra, match=r"llmtune-sdk\[llama-cpp\]"), llama_cpp.serve(tmp_path, context=256):
        pass


def test_a_file_that_llama_cpp_does_not_load_is_named(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with (
        pytest.raises(LlmtuneError, match=r"llama.cpp does not load broken.gguf: "),
        llama_cpp.serve(tmp_path / "broken.gguf", context=256),
    ):
        pass
