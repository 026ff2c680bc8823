"""A plan's tick means that the run would start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune import TuningJob
from llmtune.planning.plan import plan
from llmtune.provider.types import Readiness


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "hello {n}"}, {"role": "assistant", "content": "good day"}]
    path.write_text("".join(json.dumps({"messages": turns}).replace("{n}", str(n)) + "\n" for n in range(40)))
    return path


def obstacles(rows: Path | str, model: str = "tiny", **ready: Any) -> list[str]:
    receipt = plan(TuningJob(name="t", dataset=str(rows), model=model), "local")
    known = {"extra": "installed", "credentials": "not needed"} | ready
    return receipt.model_copy(update={"ready": Readiness(**known)}).obstacles()


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
