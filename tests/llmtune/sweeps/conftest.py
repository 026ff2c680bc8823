"""A fake vendor and a job with rows of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune import Hyperparameters, TuningJob
from llmtune.job.spec import EvaluationSpec
from llmtune.testing.generic_vendor import Fake


@pytest.fixture
def vendor_kind() -> type[Fake]:
    """Return the class of the fake vendor; a test file that needs another one overrides this fixture."""
    return Fake


@pytest.fixture
def vendor(vendor_kind: type[Fake], monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with vendor_kind() as fake:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", fake.url)
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., TuningJob]:
    def made(rows: int = 120, **fields: Any) -> TuningJob:
        lines = (
            {"messages": [{"role": "user", "content": f"case {at}"}, {"role": "assistant", "content": "yn"[at % 2]}]}
            for at in range(rows)
        )
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        options: dict[str, Any] = {
            "name": "searched",
            "dataset": str(tmp_path / "rows.jsonl"),
            "model": {"fake": "m-1", "local": "tiny"},
            "hyperparameters": Hyperparameters(epochs=1),
            "evaluation": EvaluationSpec(max_rows=10),
        }
        return TuningJob(**options | fields)

    return made


@pytest.fixture
def job(make_job: Callable[..., TuningJob]) -> TuningJob:
    return make_job()
