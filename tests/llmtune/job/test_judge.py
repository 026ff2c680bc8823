"""A judge as a job names it: its forms, its limits, and mistakes in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidJob, UnknownName
from llmtune.job.judge import JudgeSpec, parse_judge_model
from llmtune.job.spec import EvaluationSpec, TuningJob


def judge(**fields: Any) -> JudgeSpec:
    return JudgeSpec(**{"model": "openai:gpt-4.1", "rubric": "Good.", **fields})


def test_the_forms_of_a_model() -> None:
    assert parse_judge_model("openai:ft:gpt-4.1:acme::x") == ("provider", "openai", "ft:gpt-4.1:acme::x")
    assert parse_judge_model("local:./models/judge") == ("provider", "local", "./models/judge")
    assert parse_judge_model("run:abcdefghij") == ("run", "", "abcdefghij")
    assert parse_judge_model("https://judge.example/v1") == ("server", "", "https://judge.example/v1")
    for text in ("", "gpt", "openai:", "openai: ", " openai:x", ":x", "run:"):
        with pytest.raises(ValueError, match="is no model to ask"):
            parse_judge_model(text)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model": "gpt-4"}, "'gpt-4' is no model to ask; write PROVIDER:MODEL, run:ID or the address"),
        ({"served_model": "x"}, "served_model: it is the name of a model at an address"),
        ({"rubric": " "}, "rubric: say what makes an answer good"),
        ({"rubric": ""}, "rubric"),
        ({"rubric": "x" * 20_001}, "rubric"),
        ({"mode": "both"}, "mode"),
        ({"max_rows": 0}, "max_rows"),
        ({"max_tokens": 8}, "max_tokens"),
        ({"labels": " "}, "labels is the path of a file"),
        ({"price": {"input": -1, "output": 1}}, "price.input"),
    ],
)
def test_mistakes_are_named(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidJob, match=sentence):
        judge(**fields)
    with pytest.raises(UnknownName, match="rubrik"):
        judge(rubrik="x")


def test_a_job_file_with_a_judge(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: x\ndataset: rows.jsonl\nmodel: tiny\nevaluation:\n  judge:\n    model: local:tiny\n    rubric: |\n"
        "      Good answers are short.\n    labels: labels.jsonl\n",
        encoding="utf-8",
    )
    job = TuningJob.load(path)
    assert job.evaluation.judge is not None
    assert job.evaluation.judge.labels == str(tmp_path / "labels.jsonl")
    assert TuningJob.model_validate(job.to_dict()) == job
    job.save(tmp_path / "copy.yaml")
    assert TuningJob.load(tmp_path / "copy.yaml") == job
    home = judge(labels="~/labels.jsonl")
    assert home.relative_to(tmp_path) is home


def test_what_cannot_be_judged() -> None:
    with pytest.raises(InvalidJob, match="baselines leaves base out"):
        EvaluationSpec(judge=judge(), baselines=("majority",))
    assert EvaluationSpec(judge=judge(mode="score"), baselines=()).judge is not None
    with pytest.raises(InvalidJob, match=r"evaluation\.judge judges texts"):
        TuningJob(
            name="x",
            dataset="r.jsonl",
            model="tiny-encoder",
            method="classification",
            evaluation=EvaluationSpec(judge=judge()),
        )
