"""`FIELD=VALUE`: typed by the job's schema, and effective whatever else the job says."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.errors import InvalidJob, UnknownName
from llmtune.job.assignments import Assignment, change_job, list_paths, parse_assignment
from llmtune.job.spec import TuningJob


def a_job(**fields: Any) -> TuningJob:
    return TuningJob.model_validate({"name": "t", "dataset": "rows.jsonl", "model": "tiny", **fields})


def changed(*texts: str, **fields: Any) -> TuningJob:
    return change_job(a_job(**fields), [parse_assignment(text) for text in texts])[0]


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("learning_rate=1e-3", "hyperparameters.learning_rate", 0.001),
        ("hyperparameters.epochs=2", "hyperparameters.epochs", 2),
        ("packing=true", "hyperparameters.packing", True),
        ("lora_target_modules=all-linear", "hyperparameters.lora_target_modules", "all-linear"),
        ("lora_target_modules=q_proj,v_proj", "hyperparameters.lora_target_modules", ["q_proj", "v_proj"]),
        ("layer_lr_multipliers={0-3: 0.1}", "hyperparameters.layer_lr_multipliers", {"0-3": 0.1}),
        ("evaluation.metrics=f1", "evaluation.metrics", ["f1"]),
        ("dataset.split=0.5,0.25,0.25", "dataset.split", [0.5, 0.25, 0.25]),
        ("dataset.columns.text=utterance", "dataset.columns.text", "utterance"),
        ("name=123", "name", "123"),
        ("name=2026-01-31", "name", "2026-01-31"),
        ("model=null", "model", "null"),
        ("method=dpo", "method", "dpo"),
        ("seed=null", "seed", None),
        ("tags.team=7", "tags.team", "7"),
        ("provider_options.local.revision=7", "provider_options.local.revision", 7),
        ("overrides.local.epochs=7", "overrides.local.epochs", 7),
        ("name=a=b", "name", "a=b"),
    ],
)
def test_a_value_is_typed_by_its_field(text: str, path: str, value: Any) -> None:
    assert parse_assignment(text) == Assignment(path, value)


def test_a_rate_on_the_command_line_holds_whatever_the_job_says() -> None:
    job = changed(
        "learning_rate=1e-3",
        hyperparameters={"learning_rate_multiplier": 2, "epochs": 3},
        overrides={"local": {"learning_rate": 1e-5}, "openai": {"learning_rate_multiplier": 1, "epochs": 2}},
    )
    assert job.hyperparameters_for("local").learning_rate == 0.001
    assert job.hyperparameters_for("openai").learning_rate == 0.001
    assert job.hyperparameters_for("openai").epochs == 2
    assert job.hyperparameters.learning_rate_multiplier is None
    assert "local" not in job.overrides


def test_an_override_that_is_typed_itself_stays() -> None:
    job = changed("epochs=4", "overrides.local.epochs=9", overrides={"local": {"epochs": 1}})
    assert (job.hyperparameters_for("local").epochs, job.hyperparameters_for("openai").epochs) == (9, 4)


def test_what_changed_is_described() -> None:
    job = a_job(hyperparameters={"epochs": 3, "learning_rate_multiplier": 2.0})
    _, changes = change_job(
        job, [parse_assignment("learning_rate=0.001"), Assignment("seed", 4, "--seed"), parse_assignment("epochs=3")]
    )
    assert sorted(change.describe() for change in changes) == [
        "hyperparameters.learning_rate 0.001 (it is not set in the job file)",
        "hyperparameters.learning_rate_multiplier no longer set (the job file has 2.0)",
        "seed 4 (it is not set in the job file)",
    ]


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["epochs=abc"], "--set: hyperparameters.epochs must be a valid integer, not 'abc'"),
        (["epochs=0"], "--set: hyperparameters.epochs must be greater than or equal to 1, not 0"),
        (["evaluation.max_row=3"], "--set: evaluation: unknown field 'max_row'; did you mean 'max_rows'"),
        (["model.local=tiny"], "--set model.local: model is 'tiny', not a mapping with a 'local'"),
        (["learning_rate=1", "learning_rate_multiplier=2"], "exclude each other"),
        (["epochs=auto"], "'auto' is written by leaving hyperparameters.epochs out"),
        (["epochs"], "--set: 'epochs' is not FIELD=VALUE"),
        (["=3"], "is not FIELD=VALUE"),
        (["epochs=[1"], "--set hyperparameters.epochs"),
    ],
)
def test_a_mistake_names_the_field(texts: list[str], sentence: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        changed(*texts)
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("lr", "hyperparameters.learning_rate"), ("learning_rte", "learning_rate"), ("max_rows", "evaluation.max_rows")],
)
def test_an_unknown_field_is_answered_with_the_likely_one(name: str, suggestion: str) -> None:
    with pytest.raises(UnknownName, match=f"--set: unknown field '{name}'; did you mean '{suggestion}'"):
        parse_assignment(f"{name}=3")


def test_every_path_can_be_assigned() -> None:
    for path in list_paths():
        assert parse_assignment(f"{path}=null").path.endswith(path)


def test_a_split_by_its_name_is_assigned() -> None:
    job = TuningJob.model_validate({"name": "x", "dataset": "rows.jsonl", "model": "tiny"})
    changed, _ = change_job(job, [parse_assignment("dataset.split=60/20/20")])
    assert changed.dataset.split == (0.6, 0.2, 0.2)
    changed, _ = change_job(job, [parse_assignment("dataset.split=80,10,10")])
    assert changed.dataset.split == (80, 10, 10)
    with pytest.raises(InvalidJob, match="sum to 100"):
        change_job(job, [parse_assignment("dataset.split=60/20/10")])
