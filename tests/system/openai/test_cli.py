"""`llmtune tune JOB --provider openai` against the fake, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmtune.report.schema import Report
from llmtune_openai.fake.service import FakeOpenAI

pytestmark = pytest.mark.slow


@pytest.fixture
def vendor() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(api_key="sk-test") as fake:
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"ticket {at}: the {'invoice' if at % 2 else 'router'} is wrong"},
                {"role": "assistant", "content": "billing" if at % 2 else "network"},
            ]
        }
        for at in range(120)
    )
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: tickets\ndataset: tickets.jsonl\nmodel: gpt-4.1-mini-2025-04-14\n"
        "hyperparameters: {epochs: 3, batch_size: 8}\nevaluation: {max_rows: 6}\n"
    )
    return path


def llmtune(vendor: FakeOpenAI, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OPENAI_API_KEY": "sk-test", "LLMTUNE_OPENAI_BASE_URL": f"{vendor.url}/v1"}
    return subprocess.run(
        [sys.executable, "-c", "from llmtune.cli import main; raise SystemExit(main())", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


def test_tune_shows_progress_and_ends_in_a_report(vendor: FakeOpenAI, job: Path) -> None:
    done = llmtune(vendor, "tune", str(job), "--provider", "openai", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    report = Report.model_validate_json(done.stdout)
    assert report.identity.state == "succeeded"
    assert set(report.series) >= {"train/loss", "train/token_accuracy", "validation/loss", "validation/full_loss"}
    assert report.series["train/loss"].sources == ("vendor_file",)
    assert report.series["validation/full_loss"].sources == ("vendor_api",)
    assert report.evaluation is not None
    assert set(report.evaluation.systems) == {"base", "linear", "tuned"}
    shown = done.stderr
    assert "step" in shown, "progress in plain lines where there is no terminal"
    assert "successfully completed" in shown, "the vendor's own words"


def test_money_is_asked_for_first(vendor: FakeOpenAI, job: Path) -> None:
    done = llmtune(vendor, "tune", str(job), "--provider", "openai")
    assert done.returncode == 3
    assert "USD" in done.stderr
    assert not vendor.jobs


def test_a_closed_organisation_is_one_sentence_and_exit_3(vendor: FakeOpenAI, job: Path) -> None:
    vendor.closed = True
    done = llmtune(vendor, "tune", str(job), "--provider", "openai", "--yes")
    assert done.returncode == 3
    assert "does not let this organisation tune this model" in done.stderr
    assert "local" in done.stderr
    assert "Traceback" not in done.stderr
