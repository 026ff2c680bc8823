"""Plans: pure, quick, and honest about data, cost and the day."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from llmtune import TuningJob, plan, plan_all
from llmtune.errors import InvalidJob, UnknownName
from llmtune.planning.plan import to_json
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import get_provider, known_kinds
from llmtune.provider.types import Readiness

NAMED = ("openai", "azure", "vertex", "bedrock", "sagemaker", "cohere", "local")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for number in range(200):
            messages = [
                {"role": "user", "content": f"Ticket number {number}: my order has not arrived, what now?"},
                {"role": "assistant", "content": "shipping" if number % 2 else "billing"},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def job(rows: Path, **fields: Any) -> TuningJob:
    return TuningJob.model_validate({"name": "tickets", "dataset": str(rows), "model": "some-model", **fields})


@pytest.mark.parametrize("kind", NAMED)
def test_every_named_backend_answers_with_an_exact_request(kind: str, rows: Path) -> None:
    receipt = plan(job(rows, hyperparameters={"epochs": 2}), kind)
    assert receipt["epochs"].support in ("sent", "converted")
    assert receipt.request is not None
    assert receipt.request.operation
    assert receipt.data.rows == {"train": 160, "validation": 20, "test": 20}
    assert receipt.cost.total is not None or receipt.cost.unknown


def test_a_plan_is_the_same_whenever_it_is_made(rows: Path) -> None:
    day = date(2026, 11, 21)
    first = plan(job(rows), "local", today=day)
    assert first == plan(job(rows), "local", today=day)


def test_rows_that_the_split_takes_away_are_named_as_the_reason(rows: Path) -> None:
    ten = rows.with_name("ten.jsonl")
    ten.write_text("".join(rows.read_text().splitlines(keepends=True)[:10]))
    (finding,) = plan(job(ten), "openai").data.findings
    assert "8 training rows, and at least 10 are needed" in finding
    assert "set dataset.split so that enough are left to train on" in finding
    few = rows.with_name("few.jsonl")
    few.write_text("".join(rows.read_text().splitlines(keepends=True)[:9]))
    assert "dataset.split" not in plan(job(few), "openai").data.findings[0]


@pytest.mark.parametrize(("value", "warned"), [(2e-5, True), (200.0, True), (0.1, False), (2.0, False)])
def test_a_multiplier_that_is_most_likely_a_rate_is_warned_of(rows: Path, value: float, warned: bool) -> None:
    receipt = plan(job(rows, hyperparameters={"learning_rate_multiplier": value}), "openai")
    assert (
        any("is a factor on the rate that the backend chooses itself" in warning for warning in receipt.warnings)
        == warned
    )


def test_local_costs_nothing(rows: Path) -> None:
    assert plan(job(rows), "local").cost.total == 0


def test_the_day_decides_whether_a_closing_vendor_is_open(rows: Path) -> None:
    before = plan(job(rows), "openai", today=date(2026, 11, 21)).lifecycle
    assert before.open
    assert "46 days left" in before.sentence
    after = plan(job(rows), "openai", today=date(2027, 1, 7)).lifecycle
    assert not after.open
    assert "closed to new jobs since 2027-01-06" in after.sentence
    assert {"local", "vertex", "bedrock", "together"} <= set(after.alternatives)
    assert "cohere" not in after.alternatives
    assert "openai" not in after.alternatives


def test_a_retired_vendor_says_since_when(rows: Path) -> None:
    verdict = plan(job(rows), "cohere").lifecycle
    assert not verdict.open
    assert "retired 2025-09-15" in verdict.sentence
    assert verdict.source
    assert "local" in verdict.alternatives


def test_a_dataset_that_cannot_be_read_does_not_stop_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"messages": [\n')
    receipt = plan(job(path, hyperparameters={"epochs": 2}), "local")
    assert receipt.data.errors >= 1
    assert not receipt.data.checked
    assert "broken.jsonl:1" in receipt.data.findings[0]
    assert receipt["epochs"].support == "sent"


def test_plans_of_several_backends_have_the_published_shape(rows: Path) -> None:
    document = to_json(plan_all(job(rows, model={"local": "tiny"}), ["local", "openai"]))
    assert document["schema"] == 1
    assert document["plans"]["local"]["fields"]["epochs"]["support"] == "default"
    assert {"data", "request", "cost", "lifecycle", "ready"} <= set(document["plans"]["local"])
    assert document["plans"]["openai"]["error"]["kind"] == "InvalidJob"
    json.dumps(document)


def test_slips_of_the_users_are_named() -> None:
    slip = TuningJob.model_validate({"name": "a", "dataset": "x", "model": {"local": "tiny"}})
    with pytest.raises(UnknownName, match="did you mean 'local'"):
        plan(slip, "loca")
    with pytest.raises(InvalidJob, match="no model is named for provider 'openai'"):
        plan(slip, "openai")
    wrong = slip.model_copy(update={"provider_options": {"local": {"devise": "cpu"}}})
    with pytest.raises(InvalidJob, match=r"provider_options\.local: .*did you mean 'device'"):
        plan(wrong, "local")


def test_every_backend_says_why_a_method_is_not_there_yet() -> None:
    from llmtune.planning.support_matrix import get_capabilities

    with_reinforcement = ("azure", "bedrock", "local", "sagemaker", "vertex")  # of some models
    for kind in known_kinds():
        provider = get_provider(kind)
        if not provider.listed or get_capabilities(provider).lifecycle.status == "retired":
            continue
        methods = get_capabilities(provider).methods
        for name in ("reinforcement", "distillation", "continued_pretraining"):
            able = methods.get(name)
            assert able is not None, (kind, name)
            if name == "reinforcement" and kind in with_reinforcement:
                assert able is True or "reinforcement" in able.reason or "RLVR" in able.reason
                continue
            assert able is not True, (kind, name)
            assert able.reason.startswith("not yet"), (kind, name)


def test_a_plan_names_the_kind_of_a_grader_that_is_not_used_and_not_its_source(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "a"}], "answer": "b"}\n')
    source = "def grade(row, answer):\n    return 0.0  # " + "long " * 500
    fields = {"name": "a", "dataset": str(rows), "model": "command-r-08-2024", "method": "reinforcement"}
    graded = TuningJob.model_validate(fields | {"grader": {"kind": "python", "source": source}})
    receipt = plan(graded, "cohere")
    assert receipt["grader"].requested == "python"
    assert "long long" not in str(receipt.to_json())


def test_planning_imports_no_vendors_sdk_and_no_trainer(rows: Path) -> None:
    job(rows).save(rows.parent / "job.yaml")
    code = f"""
import sys
from llmtune import TuningJob, plan_all
from llmtune.provider import Receipt
answers = plan_all(TuningJob.load({str(rows.parent / "job.yaml")!r}), {list(NAMED)!r})
assert all(isinstance(answer, Receipt) for answer in answers.values()), answers
heavy = {{"torch", "transformers", "peft", "openai", "boto3", "cohere", "google.genai", "together", "sqlalchemy"}}
print(*sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


def test_a_receipt_survives_json(rows: Path) -> None:
    receipt = plan(job(rows, hyperparameters={"epochs": 2, "lora_rank": 8}), "local")
    again = Receipt.model_validate_json(receipt.model_dump_json())
    assert [row.field for row in again.fields] == [row.field for row in receipt.fields]
    assert again.request == receipt.request


def obstacles(rows: Path | str, model: str = "tiny", **ready: Any) -> list[str]:
    receipt = plan(TuningJob(name="t", dataset=str(rows), model=model), "local")
    readiness = {"extra": "installed", "credentials": "not needed"} | ready
    return receipt.model_copy(update={"ready": Readiness(**readiness)}).obstacles()


def test_a_run_that_would_start_has_none(rows: Path) -> None:
    assert obstacles(rows) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "MODEL_ID"}, "stands for a model"),
        ({"model": "./no/such/folder"}, "there is no folder ./no/such/folder"),
        ({"extra": "missing"}, "not installed"),
        ({"credentials": "not found"}, "no credentials"),
        ({"missing_settings": ("bucket",)}, "settings are missing: bucket"),
    ],
)
def test_whatever_would_stop_it_is_named(rows: Path, changes: dict[str, Any], says: str) -> None:
    assert any(says in line for line in obstacles(rows, **changes))


def test_a_dataset_that_is_not_there_stops_it(tmp_path: Path) -> None:
    assert obstacles(tmp_path / "none.jsonl") == ["the dataset has errors"]
