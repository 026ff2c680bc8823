"""The judge in a plan: where rows are sent, what the replies may cost, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidJob
from llmtune.job.judge import JudgeModel, JudgePrice
from llmtune.job.spec import EvaluationSpec, TuningJob
from llmtune.planning.judge import FREE, NO_TEST_ROWS, find_judge
from llmtune.planning.plan import plan
from llmtune.provider.cost import CostEstimate, CostLine, add_line
from llmtune.provider.generation import Unavailable
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import get_provider
from llmtune.provider.types import EncodedFile, ModelRef
from llmtune.runs import ids

PRICED = "openai:gpt-4.1-mini-2025-04-14"


@pytest.fixture
def rows(tmp_path: Path) -> str:
    lines = [
        {"messages": [{"role": "user", "content": f"crate {n}"}, {"role": "assistant", "content": f"shelf {n % 7}"}]}
        for n in range(60)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(path)


def job(rows: Any, model: str | None = PRICED, **fields: Any) -> TuningJob:
    models = {"openai": "gpt-4.1-mini-2025-04-14", "local": "tiny"}
    judge = None if model is None else {"model": model, "rubric": "It names the shelf.", **fields}
    evaluation = EvaluationSpec.model_validate({"judge": judge})
    return TuningJob(name="crates", dataset=rows, model=models, evaluation=evaluation)


def judge_line(receipt: Receipt) -> CostLine:
    return next(line for line in receipt.cost.lines if line.name == "judge")


def test_a_hosted_judge_is_priced_and_said_to_get_the_rows(rows: str) -> None:
    plain, judged = plan(job(rows, None), "local"), plan(job(rows), "local")
    assert plain.judge is None
    assert not plain.bills_judge
    assert (plain.cost.total, plain.warnings) == (0.0, ())
    assert judged.judge is not None
    assert (judged.judge.rows, judged.judge.replies, judged.judge.location) == (6, 12, "openai")
    assert judged.judge.reply_tokens == 12 * 300
    assert judged.bills_judge
    line = judge_line(judged)
    assert line.high == judged.cost.total == judged.cost.evaluation
    assert (judged.judge.prompt_tokens or 0) * 0.4 / 1e6 + 3600 * 1.6 / 1e6 == pytest.approx(line.high)
    assert (
        "evaluation.judge: up to 6 test rows and the models' answers to them are sent to"
        f" {PRICED} at openai" in judged.warnings
    )
    assert "evaluation.judge: no credentials for openai were found" in judged.obstacles()
    hosted = [plan(job(rows, model), "openai").cost for model in (None, PRICED)]
    assert hosted[0].total is not None
    assert hosted[1].total == pytest.approx(hosted[0].total + (line.high or 0.0))
    assert hosted[1].for_epochs(2).total == pytest.approx((hosted[0].for_epochs(2).total or 0) + (line.high or 0.0))


def test_a_judge_here_costs_nothing_and_sends_nothing(rows: str) -> None:
    for model in ("local:tiny", "http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:1/v1"):
        receipt = plan(job(rows, model), "local")
        assert receipt.judge is not None
        assert (receipt.judge.leaves_machine, receipt.judge.billed) == (False, False), model
        assert (receipt.cost.total, receipt.warnings) == (0.0, ())
        assert receipt.cost.why_incomplete() is None
        assert "(this machine)" in receipt.judge.location
    for model in ("http://127.0.0.1.example.com/v1", "http://10.0.0.1/v1", "http://localhost@judge.example/v1"):
        receipt = plan(job(rows, model), "local")
        assert receipt.judge is not None
        assert receipt.judge.leaves_machine, model
        assert any("are sent to" in warning for warning in receipt.warnings)
        assert "the price of" in (receipt.cost.why_incomplete() or "")


def test_a_price_of_ones_own(rows: str) -> None:
    receipt = plan(job(rows, "https://judge.example/v1", price={"input": 1, "output": 2}, max_tokens=100), "local")
    line = judge_line(receipt)
    assert receipt.judge is not None
    assert line.high == pytest.approx(((receipt.judge.prompt_tokens or 0) + 2 * 12 * 100) / 1e6)
    nothing = plan(job(rows, "https://judge.example/v1", price={"input": 0, "output": 0}), "local")
    assert not nothing.bills_judge


def test_points_and_labels_are_counted(rows: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    lines = [{"question": "?", "answer": f"a {n}", "score": 3} for n in range(9)]
    labels.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    receipt = plan(job(rows, mode="score", labels=str(labels), max_labels=4), "local")
    assert receipt.judge is not None
    assert (receipt.judge.replies, receipt.judge.labels) == (12 + 4, 4)
    assert any("and 4 labelled answers, are sent" in warning for warning in receipt.warnings)


def test_without_test_rows_nobody_is_asked(rows: str) -> None:
    receipt = plan(job({"path": rows, "split": (0.9, 0.1, 0.0)}), "local")
    assert receipt.judge is None
    assert NO_TEST_ROWS in receipt.warnings


def test_it_changes_nothing_of_the_training(rows: str) -> None:
    local = get_provider("local")
    files = (EncodedFile(role="train", path=rows, sha256="0" * 64, bytes=1, rows=48, format="chat"),)
    prints = {ids.fingerprint(local, plan(job(rows, model), local), files) for model in (None, "local:tiny", PRICED)}
    assert len(prints) == 1


def test_where_a_judge_is_found(tmp_path: Path) -> None:
    def host(model: str) -> Any:
        return find_judge(JudgeModel(model=model, rubric="Good."))

    assert host("local:tiny").price == FREE
    assert isinstance(host("local:tiny").ref, ModelRef)
    assert host(PRICED).price == JudgePrice(input=0.4, output=1.6)
    assert host("openai:unheard-of").price is None
    azure = host("azure:my-gpt").ref  # a deployment, by its own name
    assert (azure.id, azure.data) == ("my-gpt", {"deployment": "my-gpt"})
    assert host(f"local:{tmp_path}/nothing").ref == Unavailable(f"there is no folder {tmp_path}/nothing")
    with pytest.raises(InvalidJob, match="no run store was given"):
        host("run:abcdefghij")


def test_a_line_keeps_what_was_not_known() -> None:
    line = CostLine(name="judge", low=1.0, high=1.0, formula="judge = 1.00")
    unknown = add_line(CostEstimate(unknown="no price"), line)
    assert (unknown.total, unknown.why_incomplete()) == (None, "no price")
    known = add_line(CostEstimate(training=2.0, evaluation=0.5, hosting=0.0, total=2.5, low=2.0, formula="x"), line)
    assert (known.total, known.low, known.evaluation, known.formula) == (3.5, 3.0, 1.5, "x; judge = 1.00")
    assert add_line(known, CostLine(name="judge", unknown="why")).why_incomplete() == "judge: why"
