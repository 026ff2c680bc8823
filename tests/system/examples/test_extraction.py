"""The rows of the extraction example: the test repeats nothing that is trained on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "examples" / "extraction" / "make.py"

Rows = dict[str, list[dict[str, Any]]]


def write_rows(folder: Path) -> Rows:
    subprocess.run([sys.executable, str(SCRIPT)], cwd=folder, check=True, capture_output=True)
    files = sorted(folder.glob("*.jsonl"))
    return {file.stem: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return write_rows(tmp_path_factory.mktemp("extraction"))


def order_of(row: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(row["messages"][-1]["content"]))


def test_the_rows_are_the_same_every_time(rows: Rows, tmp_path: Path) -> None:
    assert write_rows(tmp_path) == rows
    assert sorted(rows) == ["test", "train", "validation"]
    assert len(rows["test"]) >= 120


def test_no_two_values_of_a_test_order_are_together_in_training(rows: Rows) -> None:
    def pairs(part: str) -> set[tuple[str, str]]:
        orders = [order_of(row) for row in rows[part]]
        return {pair for order in orders for pair in combinations((order["name"], order["city"], order["item"]), 2)}

    assert not pairs("test") & (pairs("train") | pairs("validation"))


def test_the_count_is_in_the_text_as_a_number_or_in_words(rows: Rows) -> None:
    texts = [(row["messages"][1]["content"], str(order_of(row)["count"])) for row in rows["train"]]
    in_figures = sum(bool(re.search(rf"\b{count}\b", text)) for text, count in texts)
    assert 0.4 < in_figures / len(texts) < 0.6
