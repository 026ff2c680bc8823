"""Runs in a store, and pages over it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune.runs.run import Run
from llmtune.runs.store.serialization import build_columns
from llmtune.runs.store.store import open_store
from llmtune.testing import Phase
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake
from llmtune.web.server import Server

QUICK = PollInterval(first=0.005, most=0.02)


@pytest.fixture
def vendor() -> Iterator[Fake]:
    with Fake() as fake:
        fake.say = lambda prompt, *, tuned: prompt.split()[-1] if tuned else "shipping"  # type: ignore[method-assign, assignment]
        yield fake


def job(folder: Path, name: str = "tickets", epochs: int = 2, note: str = "") -> TuningJob:
    rows = folder / "rows.jsonl"
    labels = ("billing", "shipping", "returns")
    with rows.open("w") as file:
        for number in range(120):
            label = labels[number % 3]
            messages = [
                {"role": "user", "content": f"{note}case {number} of {label}"},
                {"role": "assistant", "content": label},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return TuningJob(
        name=name,
        dataset={"path": str(rows), "split": (0.6, 0.2, 0.2)},  # type: ignore[arg-type]
        model="m-1",
        hyperparameters=Hyperparameters(epochs=epochs),
        evaluation=EvaluationSpec(max_rows=24),
    )


def slowly(vendor: Fake, looks: int = 10, steps: int = 40) -> None:
    """Jobs made from now on take so many looks to train."""
    vendor.walks = {**vendor.walks, "success": (Phase("training", looks=looks, training=True), Phase("succeeded"))}
    vendor.steps = steps


@pytest.fixture
def begin(vendor: Fake, tmp_path: Path) -> Callable[..., Run]:
    """Return a function that starts a run: `begin(name="a")`; with `done=True` it is followed to its end."""

    def make(*, done: bool = True, **options: Any) -> Run:
        settings = FakeSettings(base_url=vendor.url)
        run = start(job(tmp_path, **options), FakeProvider("fake", settings), new=True)
        if done:
            run.wait(pace=QUICK)
        return run

    return make


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(port=0) as running:
        yield running


def fill(run: Run, amount: int) -> None:
    """Copy a run until the store holds `amount` runs; the copies have no curves and reports."""
    from llmtune.runs.store import schema

    store, record = open_store(), run.record
    rows = []
    for number in range(amount - 1):
        name = f"{number:010d}"
        copy = record.model_copy(
            update={
                "id": name,
                "key": f"lt{name}",
                "name": f"copy {number}",
                "fingerprint": name,
                "created": record.created - number - 1,
            }
        )
        rows.append(build_columns(copy))
    with store.write() as connection:
        connection.execute(schema.runs.insert(), rows)
