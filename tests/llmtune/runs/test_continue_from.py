"""`model: run:ID[@checkpoint]` trains on from an earlier run's model, or says why it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune import TuningJob
from llmtune.errors import InvalidJob, RunNotFound
from llmtune.provider.registry import get_provider
from llmtune.provider.types import ModelRef, RunState
from llmtune.runs.plans import target_of
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store, open_store

pytestmark = pytest.mark.usefixtures("no_long_pauses")


def earlier(store: Store, kind: str = "openai", state: RunState = RunState.SUCCEEDED) -> RunRecord:
    record = RunRecord(
        id="earlierrun",
        key="lt0123456789",  # type: ignore[arg-type]
        name="first",
        provider=kind,
        kind=kind,
        model="base",
        fingerprint="f",
        state=RunState.PLANNED,
        created=1.0,
        updated=1.0,
        job={},
        receipt={},
    )
    begun, _ = store.create_or_join(record, join=False, reuse=False)
    return begun


def keep(store: Store, record: RunRecord, name: str, **ref: Any) -> None:
    store.set_ref(record.id, name, ModelRef.model_validate(ref))


def job(model: str) -> TuningJob:
    return TuningJob(name="second", dataset="rows.jsonl", model=model)


def test_the_earlier_model_is_named_to_the_backend() -> None:
    store = open_store()
    keep(store, earlier(store), "model", id="ft:gpt:org::abc", base="base")
    assert target_of(job("run:earlierrun"), get_provider("openai")).model == "ft:gpt:org::abc"


def test_a_checkpoint_is_found_by_id_or_step() -> None:
    store = open_store()
    record = earlier(store)
    keep(store, record, "model", id="final")
    keep(store, record, "checkpoint:40", id="ft:ckpt", data={"step": 40, "checkpoint": "ftckpt_1"})
    for name in ("40", "ftckpt_1", "ft:ckpt"):
        assert target_of(job(f"run:earlierrun@{name}"), get_provider("openai")).model == "ft:ckpt"
    with pytest.raises(InvalidJob, match="no checkpoint '41'; it has 40"):
        target_of(job("run:earlierrun@41"), get_provider("openai"))


@pytest.mark.parametrize(
    ("kind", "ref", "model", "options"),
    [
        (
            "vertex",
            {"id": "projects/p/endpoints/1", "data": {"model": "projects/p/models/7@1", "checkpoint_id": "3"}},
            "projects/p/models/7@1",
            {"pre_tuned_model_checkpoint_id": "3"},
        ),
        ("together", {"id": "me/x", "base": "meta/x", "data": {"job": "ft-1"}}, "meta/x", {"from_checkpoint": "ft-1"}),
        (
            "bedrock",
            {"id": "arn:aws:bedrock:us-east-1:1:custom-model/a/b"},
            "arn:aws:bedrock:us-east-1:1:custom-model/a/b",
            {},
        ),
    ],
)
def test_each_backend_gets_what_it_needs(kind: str, ref: dict[str, Any], model: str, options: dict[str, Any]) -> None:
    store = open_store()
    keep(store, earlier(store, kind), "model", **ref)
    target = target_of(job("run:earlierrun"), get_provider(kind))
    assert (target.model, target.options) == (model, options)


def test_what_cannot_be_continued_is_a_sentence() -> None:
    with pytest.raises(RunNotFound):
        target_of(job("run:nobody"), get_provider("openai"))
    store = open_store()
    earlier(store)
    with pytest.raises(InvalidJob, match="was trained at openai, and its model cannot be trained on at local"):
        target_of(job("run:earlierrun"), get_provider("local"))
    with pytest.raises(InvalidJob, match="has no model to train on from"):
        target_of(job("run:earlierrun"), get_provider("openai"))
