"""The demo's dataset: written by its script byte for byte, unique, balanced, and a task."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
TICKETS = ROOT / "examples" / "tickets" / "tickets.jsonl"
JOB = ROOT / "examples" / "tickets" / "job.yaml"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in TICKETS.read_text(encoding="utf-8").splitlines()]


def text_of(row: dict[str, Any]) -> str:
    return str(row["messages"][1]["content"])


def label_of(row: dict[str, Any]) -> str:
    return str(row["messages"][2]["content"])


def test_the_script_writes_exactly_this_file(tmp_path: Path) -> None:
    out = tmp_path / "tickets.jsonl"
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "tiny_models" / "make_tickets.py"), "--out", str(out)],
        check=True,
        capture_output=True,
    )
    assert out.read_bytes() == TICKETS.read_bytes()
    assert len(out.read_bytes()) < 1_500_000


def test_another_seed_gives_other_tickets(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    out = tmp_path / "other.jsonl"
    script = str(ROOT / "tools" / "tiny_models" / "make_tickets.py")
    subprocess.run([sys.executable, script, "--seed", "8", "--rows", "200", "--out", str(out)], check=True)
    others = {text_of(json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()}
    assert len(others) == 200
    assert len(others & {text_of(row) for row in rows}) < 10


def test_every_row_is_a_chat_with_one_known_route(rows: list[dict[str, Any]]) -> None:
    assert len(rows) >= 2400
    counts = Counter(label_of(row) for row in rows)
    assert len(counts) == 8
    assert max(counts.values()) < 1.5 * min(counts.values())
    for row in rows:
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
        assert all(route in row["messages"][0]["content"] for route in counts)


def test_no_two_tickets_are_the_same_wording(rows: list[dict[str, Any]]) -> None:
    plain = Counter(re.sub(r"[\W\d_]+", " ", text_of(row).lower()).strip() for row in rows)
    assert max(plain.values()) == 1
    lengths = sorted(len(text_of(row)) for row in rows)
    assert lengths[len(lengths) // 20] * 3 < lengths[-len(lengths) // 20]


def test_no_slot_is_left_open(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert not re.search(r"[{}\[\]|]", text_of(row)), text_of(row)


def test_a_bag_of_words_does_not_solve_it(rows: list[dict[str, Any]]) -> None:
    """Words alone say much, as in a real mailbox, but not which of two matters is the point."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts, labels = [text_of(row) for row in rows], [label_of(row) for row in rows]
    words = TfidfVectorizer()
    model = LogisticRegression(C=10, max_iter=500).fit(words.fit_transform(texts[:1900]), labels[:1900])
    accuracy = model.score(words.transform(texts[1900:]), labels[1900:])
    assert 0.6 < accuracy < 0.98


def test_the_job_is_valid_and_leaves_the_settings_to_the_defaults(rows: list[dict[str, Any]]) -> None:
    from llmtune import Hyperparameters, TuningJob

    job = TuningJob.load(JOB)
    assert job.name == "ticket-router"
    assert job.model == "tiny" or job.model_for("local") == "tiny"
    assert job.adapter is None
    assert job.hyperparameters == Hyperparameters()
    assert job.evaluation.max_rows >= 200
    assert round(len(rows) * job.dataset.split[2]) >= 200
    assert job.dataset.path is not None
    assert Path(job.dataset.path).resolve() == TICKETS
