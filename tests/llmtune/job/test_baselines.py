"""`evaluation.baselines`, and the switch that it replaces."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.errors import InvalidJob
from llmtune.job.spec import EvaluationSpec, TuningJob


def spec(**fields: Any) -> EvaluationSpec:
    return TuningJob.model_validate({"name": "j", "dataset": "d.jsonl", "model": "m", "evaluation": fields}).evaluation


@pytest.mark.parametrize(
    ("fields", "free", "measured"),
    [
        ({}, False, ["base", "majority", "linear", "nearest"]),
        ({}, True, ["base", "majority", "linear", "few_shot", "nearest"]),
        ({"baseline": True}, False, ["base", "majority", "linear", "nearest"]),
        ({"baseline": False}, True, ["majority", "linear", "nearest"]),
        ({"baselines": ["few_shot", "base"]}, False, ["base", "few_shot"]),
        ({"baselines": []}, True, []),
    ],
)
def test_what_is_measured(fields: dict[str, Any], free: bool, measured: list[str]) -> None:
    names: list[Any] = ["base", "majority", "linear", "few_shot", "nearest"]
    assert [name for name in names if spec(**fields).measures(name, free=free)] == measured


def test_a_job_of_before_is_the_same_job() -> None:
    assert spec(baseline=True) == EvaluationSpec()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"baseline": "yes"}, "baseline is true or false"),
        ({"baseline": True, "baselines": ["base"]}, "exclude each other"),
        ({"baselines": ["lineal"]}, "baselines.0 must be 'base', 'majority', 'linear', 'few_shot' or 'nearest'"),
    ],
)
def test_mistakes_are_a_sentence(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidJob, match=says):
        spec(**fields)
