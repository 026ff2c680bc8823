"""What a provider returns is looked through: what cannot be kept is left out, with a note, and nothing else changes."""

from __future__ import annotations

import pytest

from llmtune.metrics.samples import Sample
from llmtune.provider.intake import clean_snapshot
from llmtune.provider.types import RunState, Snapshot
from llmtune.provider.vendor_json import collect_notes


def clean(*samples: Sample) -> tuple[tuple[Sample, ...], list[str]]:
    with collect_notes() as notes:
        cleaned = clean_snapshot(Snapshot(state=RunState.RUNNING, raw_state="running", samples=samples))
    return cleaned.samples, list(notes)


def test_answers_while_training_stay_as_they_are() -> None:
    sample = Sample(step=4, number=1, prompt="where?", expected="here", answer="\U0001f680 there")
    assert clean(sample) == ((sample,), [])


def test_odd_answers_are_cut_cleaned_or_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "a1b2c3" * 8)
    samples, notes = clean(
        Sample(step=-1, number=1, prompt="p", answer="a"),
        Sample(step=1, number=1 << 70, prompt="p", answer="a"),
        Sample(step=1, number=2, prompt="\ud800" + "x" * 100_000, answer="\0 " + "a1b2c3" * 8),
    )
    (sample,) = samples
    assert len(sample.prompt) <= 2000
    sample.model_dump_json()
    assert "a1b2c3" not in sample.answer
    assert "\0" not in sample.answer
    assert len(notes) >= 3
