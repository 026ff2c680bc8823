"""Answers while training in the store: each step once, shown by one event, without secrets."""

from __future__ import annotations

import pytest

from llmtune.metrics.samples import Sample
from llmtune.provider.types import RunState, Snapshot
from llmtune.runs.store.samples import make_event, read_samples
from llmtune.runs.store.store import Store
from tests.llmtune.runs.helpers import a_record

SECRET = "sk-proj-" + "a1B2" * 12


def sample(step: int, number: int = 1, answer: str = "billing") -> Sample:
    return Sample(step=step, number=number, prompt=f"question {number}", expected="billing", answer=answer)


def snapshot(*samples: Sample) -> Snapshot:
    return Snapshot(state=RunState.RUNNING, raw_state="running", samples=samples)


def test_answers_are_stored_by_step_and_shown_by_one_event_each(store: Store) -> None:
    run, _ = store.create_or_join(a_record())
    first = store.record(run.id, snapshot(sample(10, 2), sample(10), sample(0), sample(0, 2)))
    assert [event.id for event in first.events] == ["llmtune-samples-0", "llmtune-samples-10"]
    assert first.events[1].message == ('answers at step 10: "question 1" -> "billing"; "question 2" -> "billing"')
    again = store.record(run.id, snapshot(sample(10), sample(10, 2)), previous=first.record)
    assert again.events == ()  # after a resume a step may come again
    assert read_samples(store.refs(run.id)) == (sample(0), sample(0, 2), sample(10), sample(10, 2))
    assert read_samples(store.refs(run.id), after=0) == (sample(10), sample(10, 2))


def test_a_secret_in_an_answer_is_not_kept_nor_half_of_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", SECRET)
    run, _ = store.create_or_join(a_record())
    result = store.record(run.id, snapshot(sample(1, answer=f"the key is {SECRET}")))
    for text in (result.events[0].message, str(store.refs(run.id))):
        assert "the key is" in text
        assert SECRET[:12] not in text


def test_an_event_is_one_short_line(store: Store) -> None:
    message = make_event(1, [sample(1, answer="a\nb\t" + "x" * 5000)]).message
    assert "\n" not in message
    assert len(message) < 200
    assert '"a b xxx' in message


def test_what_is_damaged_is_left_out(store: Store) -> None:
    refs = {"samples:1": {"data": {"samples": [{"step": "?"}]}}, "samples:2": {}, "job": {"id": "j"}}
    assert read_samples(refs) == ()
