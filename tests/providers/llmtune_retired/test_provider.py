"""Vendors that are gone answer with the fact, the date, the source and the way on; never with "unknown provider"."""

from __future__ import annotations

import inspect
import re
from datetime import date
from typing import Any

import pytest

import llmtune_retired
from llmtune.errors import InvalidData, ProviderClosed
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import plan, plan_all
from llmtune.provider.protocol import Provider
from llmtune.provider.types import Target
from llmtune_retired import Databricks, GoogleAIStudio, Groq, Mistral, RetiredProvider
from llmtune_retired.provider import table

ALL = [GoogleAIStudio, Mistral, Databricks, Groq]
SINCE = {
    "google-ai-studio": (None, "May 2025", "vertex"),
    "mistral": (date(2026, 7, 15), "2026-07-15", "local"),
    "databricks": (date(2026, 8, 14), "2026-08-14", "local"),
    "groq": (None, "inference only", "local"),
}


@pytest.fixture
def job(tmp_path: Any) -> TuningJob:
    rows = tmp_path / "rows.jsonl"
    turn = '{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a"}]}'
    rows.write_text("\n".join(turn % number for number in range(20)))
    return TuningJob(name="moving-on", dataset=str(rows), model="any-model", hyperparameters={"epochs": 2})  # type: ignore[arg-type]


def test_one_table_holds_every_vendor_with_source_and_way_on() -> None:
    assert set(table()) == {cls.kind for cls in ALL} == set(SINCE)
    for gone in table().values():
        assert gone.source
        assert gone.checked == date(2026, 11, 21)
        assert gone.way_on
        assert gone.alternatives


@pytest.mark.parametrize("cls", ALL)
def test_the_plan_says_since_when_who_says_so_and_what_to_do(cls: type[RetiredProvider], job: TuningJob) -> None:
    closes, since, way = SINCE[cls.kind]
    receipt = plan(job, cls(), dataset=InvalidData("not read here"), today=date(2026, 11, 21))
    assert not receipt.lifecycle.open
    assert since in receipt.lifecycle.sentence
    assert receipt.lifecycle.closes == (closes.isoformat() if closes else None)
    assert way in receipt.lifecycle.alternatives
    assert receipt.lifecycle.source
    assert table()[cls.kind].way_on in receipt.lifecycle.note
    assert receipt.refusals
    assert receipt.request is None
    assert receipt.ready.credentials == "not needed"
    assert receipt["epochs"].support == "not_applicable"
    assert len(receipt.refusals) == 1


@pytest.mark.parametrize("cls", ALL)
def test_every_call_is_refused_with_the_same_sentence(cls: type[RetiredProvider]) -> None:
    provider = cls()
    offline = {"capabilities", "ready"}
    calls = [name for name, _ in inspect.getmembers(Provider, inspect.isfunction) if not name.startswith("_")]
    assert len(calls) > 15
    for name in set(calls) - offline:
        method = getattr(provider, name)
        arguments = [None] * len(inspect.signature(method).parameters)
        with pytest.raises(ProviderClosed) as caught:
            method(*arguments)
        assert caught.value.exit_code == 3
        assert caught.value.provider == cls.kind
        assert caught.value.since == SINCE[cls.kind][0]
        assert re.search(r"202[56]", str(caught.value))
        assert "--provider" in (caught.value.hint or "")


def test_plans_over_a_list_pass_over_them_with_the_reason(job: TuningJob) -> None:
    answers = plan_all(job, [cls() for cls in ALL], today=date(2026, 11, 21))
    assert set(answers) == set(SINCE)


def test_they_are_never_named_as_alternatives() -> None:
    assert not any(cls().listed for cls in ALL)
    assert sorted(llmtune_retired.__all__) == sorted([*(cls.__name__ for cls in ALL), "RetiredProvider"])
    assert (
        Mistral()
        .capabilities(Target(provider="mistral", kind="mistral", model=""))
        .lifecycle.closed_on(date(2026, 11, 21))
    )


@pytest.mark.parametrize("kind", sorted(SINCE))
def test_asked_for_by_name_they_answer_instead_of_being_unknown(kind: str, job: TuningJob) -> None:
    from llmtune.runs.api import start

    elsewhere = job.model_copy(update={"model": {"local": "tiny"}})
    for tuning_job in (job, elsewhere):
        with pytest.raises(ProviderClosed) as caught:
            start(tuning_job, kind)
        assert table()[kind].way_on in str(caught.value)
        assert table()[kind].source in str(caught.value)
        assert not plan(tuning_job, kind, today=date(2026, 11, 21)).lifecycle.open


def test_the_ways_on_name_models_and_backends_that_tune_today() -> None:
    from llmtune.provider.registry import get_provider

    assert "gemini-2.5" not in table()["google-ai-studio"].way_on
    for gone in table().values():
        for name in gone.alternatives:
            model = "gemini-3.5-flash" if name == "vertex" else ""
            lifecycle = get_provider(name).capabilities(Target(provider=name, kind=name, model=model)).lifecycle
            assert not lifecycle.closed_on(date(2026, 12, 1)), name
