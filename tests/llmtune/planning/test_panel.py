"""The panel in a plan: its questions, its price, and that it changes nothing of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidData, InvalidJob, UnknownName
from llmtune.job.spec import EvaluationSpec, TuningJob
from llmtune.planning.panel import NO_TEST_ROWS
from llmtune.planning.plan import plan
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import get_provider
from llmtune.provider.types import EncodedFile
from llmtune.runs import ids


@pytest.fixture
def rows(tmp_path: Path) -> str:
    lines = [
        {"messages": [{"role": "user", "content": f"crate {n}"}, {"role": "assistant", "content": f"shelf {n % 7}"}]}
        for n in range(60)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(path)


def job(rows: Any, **evaluation: Any) -> TuningJob:
    model = {"openai": "gpt-4.1-mini-2025-04-14", "local": "tiny"}
    return TuningJob(name="crates", dataset=rows, model=model, evaluation=EvaluationSpec(**evaluation))


def cost_lines(receipt: Receipt) -> dict[str, float | None]:
    return {line.name: line.high for line in receipt.cost.lines}


def test_the_plan_names_the_questions_and_prices_them(rows: str) -> None:
    plain, asked = (plan(job(rows, panel=panel), "openai") for panel in (False, True))
    assert plain.panel is None
    assert asked.panel is not None
    assert (asked.panel.name, asked.panel.questions) == ("general", 280)
    assert asked.panel.prompt_tokens > 5000
    new = {name: amount for name, amount in cost_lines(asked).items() if name not in cost_lines(plain)}
    assert list(new) == ["panel", "panel of the base model"]
    assert asked.cost.total is not None
    assert plain.cost.total is not None
    assert asked.cost.total - plain.cost.total == pytest.approx(sum(amount or 0.0 for amount in new.values()))
    assert asked.cost.total > plain.cost.total
    assert "panel of the base model" in asked.cost.formula
    row = asked["evaluation.panel"]
    assert (row.support, row.requested) == ("inherent", True)


def test_it_changes_nothing_of_the_training(rows: str) -> None:
    local = get_provider("local")
    files = (EncodedFile(role="train", path=rows, sha256="0" * 64, bytes=1, rows=48, format="chat"),)
    prints = {ids.fingerprint(local, plan(job(rows, panel=panel), local), files) for panel in (False, True)}
    assert len(prints) == 1


def test_the_time_here_counts_the_questions(rows: str) -> None:
    plain, asked = (plan(job(rows, panel=panel), "local") for panel in (False, True))
    for receipt in (plain, asked):
        assert receipt.duration is not None
        assert receipt.duration.evaluation is not None
    assert asked.duration.evaluation.high > plain.duration.evaluation.high  # type: ignore[union-attr]


def test_without_test_rows_the_plan_says_that_nothing_is_asked(rows: str) -> None:
    receipt = plan(job({"path": rows, "split": (0.9, 0.1, 0.0)}, panel=True), "local")
    assert receipt.panel is None
    assert NO_TEST_ROWS in receipt.warnings


def test_a_panel_that_is_not_there_is_found_before_the_training(rows: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'general'"):
        plan(job(rows, panel="generl"), "local")
    with pytest.raises(InvalidData, match=r"own\.jsonl does not exist"):
        plan(job(rows, panel=str(tmp_path / "own.jsonl")), "local")
    with pytest.raises(InvalidJob, match="a classifier answers with labels alone"):
        TuningJob(name="x", dataset=rows, model="tiny-encoder", method="classification", evaluation={"panel": True})  # type: ignore[arg-type]


def test_a_path_is_read_from_the_folder_of_the_job_file(rows: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        f"name: x\ndataset: {rows}\nmodel: tiny\nevaluation: {{panel: sums.jsonl}}\n", encoding="utf-8"
    )
    assert TuningJob.load(tmp_path / "job.yaml").evaluation.panel == str(tmp_path / "sums.jsonl")
    for panel in (True, "general", False):
        assert EvaluationSpec(panel=panel).relative_to(tmp_path).panel == panel
