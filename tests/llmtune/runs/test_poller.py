"""A run that is followed is not said to be quiet, although nothing new happens."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import llmtune
from llmtune import TuningJob
from llmtune.runs import poller
from llmtune.runs.poller import Pace
from llmtune.runs.store.store import open_store
from llmtune.testing import Phase
from llmtune.testing.generic_vendor import Fake


def test_following_is_news_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "HEARD_EVERY", 0.05)
    turns = [{"role": "user", "content": "hello {n}"}, {"role": "assistant", "content": "good day {n}"}]
    lines = (json.dumps({"messages": turns}).replace("{n}", str(n)) + "\n" for n in range(40))
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        # Waiting in a queue: no step, no event, no other state.
        vendor.walks = {**vendor.walks, "success": (Phase("queued", looks=0, seconds=3600),)}
        run = llmtune.start(TuningJob(name="t", dataset=str(tmp_path / "rows.jsonl"), model="m-1"), "fake")
        store: Any = open_store()
        deadline = time.monotonic() + 60
        first = None
        while time.monotonic() < deadline:
            with pytest.raises(llmtune.errors.StillRunning):
                run.wait(timeout=0.5, pace=Pace(first=0.01, most=0.05))
            record = store.get(run.id)
            if first is not None and record.updated > first.updated:
                break
            first = first or record
        assert first is not None
        assert record.updated > first.updated
        assert record.state == first.state
