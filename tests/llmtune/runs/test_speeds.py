"""What a finished run on this machine took is remembered for the next plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtune.provider.receipt import DatasetStatus, Receipt
from llmtune.provider.types import Progress, RunState, Target
from llmtune.runs import speeds
from llmtune.runs.store.records import dump_receipt
from llmtune.runs.store.store import Transition
from tests.llmtune.runs.helpers import a_record

TARGET = Target(provider="acme", kind="acme", model="m-1")


def run(tokens: int = 1000, epoch: float | None = 3.0, **fields: Any) -> Any:
    receipt = Receipt(target=TARGET, family="f", job_name="j", fields=(), data=DatasetStatus(tokens=tokens))
    progress = Progress(epoch=epoch, total_answers=60)
    return a_record(receipt=dump_receipt(receipt), progress=progress, resolved={"device": "cpu (float32)"}, **fields)


def seen(running: float = 10.0, *more: Transition) -> list[Transition]:
    states = [(0.0, RunState.QUEUED), (5.0, RunState.RUNNING), (5.0 + running, RunState.FINALIZING)]
    return [*(Transition(time, state, "") for time, state in states), *more]


def evaluation(cached: int) -> dict[str, Any]:
    usage = {"asked": 40 - cached, "cached": cached}
    return {"seconds": 12.0, "result": {"systems": {"tuned": {"usage": usage}, "base": {"missing": "no base"}}}}


def test_tokens_and_questions_by_time() -> None:
    measured = speeds.measure(run(), seen(), evaluation(0))
    assert measured is not None
    assert (measured.tokens, measured.tokens_per_second) == (3000, 300.0)
    assert measured.seconds_per_question == 12.0 / 60
    mostly_cached = speeds.measure(run(), seen(), evaluation(40))
    assert mostly_cached is not None
    assert mostly_cached.seconds_per_question is None


def test_a_run_that_was_interrupted_or_says_too_little_measures_nothing() -> None:
    assert speeds.measure(run(epoch=None), seen(), {}) is None
    assert speeds.measure(run(), seen()[:2], {}) is None
    assert speeds.measure(run(), seen(10.0, Transition(20.0, RunState.RUNNING, "resumed")), {}) is None


class FakeStore:
    def __init__(self, record: Any, running: float) -> None:
        self.record, self.running = record, running

    def get(self, _: str) -> Any:
        return self.record

    def ref(self, *_: object) -> None:
        return None

    def transitions(self, _: str) -> list[Transition]:
        return seen(self.running)


def test_it_is_found_again_by_model_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path))
    assert speeds.find_speed(TARGET, "cpu") is None
    store: Any = FakeStore(run(), 10.0)
    speeds.remember_speed(store, "r")
    found = speeds.find_speed(TARGET, "cpu")
    assert found is not None
    assert (found.run, found.tokens_per_second) == (store.record.id, 300.0)
    assert speeds.find_speed(TARGET, "cuda") is None
    assert speeds.find_speed(TARGET.model_copy(update={"adapter": "full"}), "cpu") is None
    short: Any = FakeStore(run(tokens=10), 10.0)
    speeds.remember_speed(short, "r")
    assert speeds.find_speed(TARGET, "cpu") == found, "a run of few tokens is mostly its start"
    longer: Any = FakeStore(run(tokens=2000), 10.0)
    speeds.remember_speed(longer, "r")
    assert speeds.find_speed(TARGET, "cpu") != found


def test_a_damaged_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path))
    (tmp_path / "speeds.json").write_text("{")
    assert speeds.find_speed(TARGET, "cpu") is None
    (tmp_path / "speeds.json").write_text("[1]")
    assert speeds.find_speed(TARGET, "cpu") is None
