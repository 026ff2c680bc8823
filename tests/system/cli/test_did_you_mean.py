"""A wrong field of a job file is named with file and line, and with the field that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.errors import InvalidJob
from llmtune.job.spec import OTHER_NAMES, Hyperparameters, TuningJob

HEAD = "name: t\ndataset: rows.jsonl\nmodel: tiny\n"


def refusal(tmp_path: Path, text: str, ending: str = "yaml") -> str:
    file = tmp_path / f"job.{ending}"
    file.write_text(text)
    with pytest.raises(InvalidJob) as caught:
        TuningJob.load(file)
    return caught.value.message.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 2", "job.yaml:4: unknown field 'epochs'; did you mean 'hyperparameters.epochs'?"),
        ("lr: 2e-4", "job.yaml:4: unknown field 'lr'; did you mean 'hyperparameters.learning_rate'?"),
        ("split: [1, 0, 0]", "job.yaml:4: unknown field 'split'; did you mean 'dataset.split'?"),
        ("max_rows: 9", "job.yaml:4: unknown field 'max_rows'; did you mean 'evaluation.max_rows'?"),
        (
            "hyperparameters:\n  epochs: 2\n  LR: 2e-4",
            "job.yaml:6: hyperparameters: unknown hyperparameter 'LR'; did you mean 'learning_rate'?",
        ),
        (
            "hyperparameters:\n  seed: 2",
            "job.yaml:5: hyperparameters: unknown hyperparameter 'seed'; did you mean 'seed' at the top level?",
        ),
        (
            "overrides:\n  local:\n    n_epochs: 2",
            "job.yaml:6: overrides.local: unknown hyperparameter 'n_epochs'; did you mean 'epochs'?",
        ),
        (
            "hyperparameters:\n  epochs: auto",
            "job.yaml:5: hyperparameters.epochs: 'auto' is written by leaving hyperparameters.epochs out:"
            " the backend then chooses",
        ),
        ("hyperparameters: {learning_rate: high}", "job.yaml:4: hyperparameters.learning_rate must be a valid number"),
        ("method: stf", "job.yaml:4: method must be 'sft', 'dpo', 'classification' or 'reinforcement', not 'stf'"),
    ],
)
def test_a_wrong_field_has_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, f"{HEAD}{text}\n").startswith(message)


def test_several_have_theirs_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = f"{HEAD}hyperparameters:\n  lora_r: 2\n  epochs: auto\n"
    first, second = refusal(tmp_path, text).split("; job.yaml:")
    assert first == "job.yaml:5: hyperparameters: unknown hyperparameter 'lora_r'; did you mean 'lora_rank'?"
    assert second.startswith("6: hyperparameters.epochs: 'auto'")


def test_json_has_lines_too(tmp_path: Path) -> None:
    text = '{"name": "t", "dataset": "rows.jsonl",\n "model": "tiny",\n "epochs": 2}'
    assert refusal(tmp_path, text, "json").startswith("job.json:3: unknown field 'epochs'")


def test_a_missing_field_has_the_file(tmp_path: Path) -> None:
    assert refusal(tmp_path, "name: t\nmodel: tiny\n") == "job.yaml: dataset is missing"


def test_the_names_of_others_are_no_names_of_ours() -> None:
    assert not OTHER_NAMES.keys() & Hyperparameters.model_fields.keys()
    assert set(OTHER_NAMES.values()) <= Hyperparameters.model_fields.keys()
