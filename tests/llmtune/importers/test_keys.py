"""A row format is said to be mapped where rows of it are read, and not otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmtune.importers import import_job
from llmtune.importers.keys import Imported

PAIR = {"chosen": {"from": "gpt", "value": "Yes."}, "rejected": {"from": "gpt", "value": "No."}}


def factory(tmp_path: Path, rows: list[dict[str, Any]], **keys: Any) -> Imported:
    """Import a LLaMA-Factory configuration beside its dataset_info.json."""
    folder = tmp_path / "data"
    folder.mkdir()
    stage = keys.pop("stage", "sft")
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "dataset_info.json").write_text(
        json.dumps({"mine": {"file_name": "rows.json", **keys}}), encoding="utf-8"
    )
    config = {"model_name_or_path": "m", "stage": stage, "finetuning_type": "lora", "dataset": "mine", "template": "x"}
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return import_job(path)


def axolotl(tmp_path: Path, rows: list[dict[str, Any]], **keys: Any) -> Imported:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {"base_model": "m", "sequence_len": 64, "micro_batch_size": 1, "num_epochs": 1}
    config |= {"rl": keys.pop("rl", None), "datasets": [{"path": str(tmp_path / "rows.jsonl"), **keys}]}
    path = tmp_path / "axolotl.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return import_job(path)


def words(imported: Imported, field: str = "dataset.format") -> set[str]:
    return {line.word for line in imported.lines if (line.field or "").startswith(field)}


def test_ranked_rows_of_both_kinds_are_read(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Open?"}]
    imported = factory(tmp_path, [{"conversations": turns, **PAIR}], stage="dpo", formatting="sharegpt", ranking=True)
    assert words(imported) == {"mapped"}


@pytest.mark.parametrize(
    ("keys", "rows"),
    [
        ({"columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}, "ranking": True}, "alpaca"),
        ({"columns": {"prompt": "frage", "chosen": "gut", "rejected": "schlecht"}, "ranking": True}, "renamed"),
    ],
)
def test_ranked_alpaca_rows_are_read(tmp_path: Path, keys: dict[str, Any], rows: str) -> None:
    names = ("instruction", "chosen", "rejected") if rows == "alpaca" else ("frage", "gut", "schlecht")
    imported = factory(tmp_path, [dict(zip(names, ("q", "a", "b"), strict=True))], stage="dpo", **keys)
    assert "left out" not in words(imported)


def test_a_format_that_cannot_be_read_is_not_mapped(tmp_path: Path) -> None:
    rows = [{"dialog": [{"who": "u", "says": "Open?"}, {"who": "m", "says": "Yes."}]}]
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "u", "assistant_tag": "m"}
    imported = factory(tmp_path, rows, formatting="sharegpt", columns={"messages": "dialog"}, tags=tags)
    assert words(imported) == {"left out"}
    assert words(imported, "dataset.columns") == {"left out"}
    assert any("has neither from nor role" in line.says for line in imported.left_out)


def test_rows_that_the_method_does_not_learn_from_are_not_mapped(tmp_path: Path) -> None:
    imported = factory(tmp_path, [{"instruction": "q", "input": "", "output": "a"}], stage="dpo", ranking=True)
    assert words(imported) == {"left out"}


def test_a_file_that_is_not_here_is_not_tried(tmp_path: Path) -> None:
    config = {"base_model": "m", "sequence_len": 64, "micro_batch_size": 1, "num_epochs": 1}
    path = tmp_path / "axolotl.yaml"
    path.write_text(yaml.safe_dump(config | {"datasets": [{"path": "away.jsonl", "type": "alpaca"}]}), encoding="utf-8")
    assert words(import_job(path)) == {"converted"}


def test_columns_named_one_by_one_become_the_jobs(tmp_path: Path) -> None:
    kind = {"field_instruction": "frage", "field_output": "antwort", "format": "F: {instruction}"}
    imported = axolotl(tmp_path, [{"frage": "q", "antwort": "a"}], type=kind)
    assert imported.job.dataset.columns == {"instruction": "frage", "output": "antwort"}
    assert words(imported) == {"converted"}
    assert [line.key for line in imported.left_out] == ["datasets[0].format"]


def test_a_type_whose_rows_are_something_else_says_so(tmp_path: Path) -> None:
    imported = axolotl(tmp_path, [{"segments": [{"label": True, "text": "a"}]}], type="alpaca")
    (line,) = [line for line in imported.left_out if line.field == "dataset.format"]
    assert "no row of" in line.says
