"""A server in the place of an old model is verified against the old model's answers, and nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import llmtune
from llmtune.cli.app import app
from llmtune.errors import NotJudged
from llmtune.runs.store.store import open_store
from llmtune_openai.fake.service import FakeOpenAI
from tests.llmtune.rescues.helpers import questions
from tests.llmtune.verifications.serving import Body, ModelServer


class Golden(ModelServer):
    """Answers each question as golden.jsonl has it, or always with `instead`."""

    def __init__(self, file: Path, instead: str = "") -> None:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        self.answers = {line["prompt"][-1]["content"]: instead or line["answer"] for line in lines}
        self.asked = 0

    def complete(self, body: Body) -> Body:
        text = self.answers.get(body["messages"][-1]["content"], "I do not know that.")
        return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


def test_a_server_is_verified_against_the_golden_set(vendor: FakeOpenAI, old_model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    llmtune.rescue(old_model, "local", model="tiny", out=out, snapshot_only=True, max_rows=12)
    asked = questions(vendor)
    with Golden(out / "golden.jsonl").running() as address:
        rescued = llmtune.rescue(old_model, out=out, endpoint=address, max_rows=12)
    result = rescued.verification
    assert result is not None
    assert (result.verdict, result.rows, result.answers_same) == ("same", 12, 12), result.reason
    assert "golden.jsonl" in result.source
    assert json.loads((out / "verification.json").read_text())["verdict"] == "same"
    assert any(address in note and "12 questions" in note for note in rescued.notes)
    assert rescued.run is None
    assert questions(vendor) == asked  # the old model is not asked again
    assert not open_store().runs()


def test_another_server_is_drift_and_the_command_says_so(vendor: FakeOpenAI, old_model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    llmtune.rescue(old_model, "local", model="tiny", out=out, snapshot_only=True, max_rows=12)
    with Golden(out / "golden.jsonl", instead="something else").running() as address:
        command = ["rescue", old_model, "--out", str(out), "--endpoint", address, "--max-rows", "12", "--yes"]
        shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 5, shown.output
    assert "another_model_answers" in shown.stdout
    wrong = CliRunner().invoke(app, ["rescue", old_model, "--served-model", "m"])
    assert wrong.exit_code == 2
    assert "--endpoint" in wrong.output


def test_where_nothing_answers_the_golden_set_is_kept(vendor: FakeOpenAI, old_model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(NotJudged, match="nothing answers"):
        llmtune.rescue(old_model, out=out, endpoint="http://127.0.0.1:9", max_rows=12)
    assert (out / "golden.jsonl").is_file()
