"""Stores to test on: SQLite in the test's home, and a real PostgreSQL on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.runs import finalize, poller, submission
from llmtune.runs.store.store import Store, open_store
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store of each kind."""
    if request.param == "postgresql":
        monkeypatch.setenv("LLMTUNE_STORE", request.getfixturevalue("postgres_url"))
    opened = open_store()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(submission, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(finalize, "DEPLOYMENT_LAG", 0.2)
    monkeypatch.setattr(poller, "_poller", poller.Poller(polls_per_second=500))


@pytest.fixture
def vendor() -> Iterator[Fake]:
    """A fake vendor."""
    with Fake() as fake:
        yield fake


@pytest.fixture
def at(vendor: Fake) -> Callable[..., FakeProvider]:
    """Makes a provider pointed at the fake vendor, of a class of submit safety, with other settings."""

    def make(safety: str = "token", **settings: Any) -> FakeProvider:
        values = {"base_url": vendor.url, "submit_safety": safety, "window": 0.2, "timeout": 5, **settings}
        return FakeProvider("fake", FakeSettings.model_validate(values))

    return make


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    """A small job."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n % 3}"}]}
        for n in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TuningJob(
        name="tickets",
        dataset=str(path),
        model="m-1",
        hyperparameters=Hyperparameters(epochs=2),
        evaluation=EvaluationSpec(baselines=(), max_rows=2),
    )
