"""`model: run:ID[@checkpoint]`: training on from the model of an earlier run, at the backend that holds it."""

from __future__ import annotations

from typing import Any

from llmtune.errors import InvalidJob
from llmtune.provider.abilities import SupportsContinuation
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef
from llmtune.runs.store.store import open_store

PREFIX = "run:"


def earlier_model(model: str, provider: Provider) -> tuple[str, dict[str, Any]]:
    """Return the backend's own name for the model of an earlier run, and the options that go with it.

    Args:
        model: `run:ID`, or `run:ID@CHECKPOINT` with a checkpoint's id or its step.
        provider: the backend of the new job; it must be the one that trained the earlier run.

    Raises:
        RunNotFound: there is no such run; carries the nearest ids.
        InvalidJob: the run has no model (yet), belongs to another backend, or has no such checkpoint.
    """
    run_id, _, checkpoint = model.removeprefix(PREFIX).partition("@")
    store = open_store()
    record = store.get(store.resolve(run_id))
    if record.kind != provider.kind:
        raise InvalidJob(
            f"run {record.id} was trained at {record.provider}, and its model cannot be trained on at {provider.name}",
            where="model",
            hint=f"use provider {record.provider}, or name a base model for {provider.name}",
        )
    ref = _find_checkpoint(store.refs(record.id), checkpoint, record.id) if checkpoint else None
    ref = ref or store.ref(record.id, "model", ModelRef)
    if ref is None:
        raise InvalidJob(f"run {record.id} has no model to train on from: it is {record.state}", where="model")
    return provider.continue_from(ref) if isinstance(provider, SupportsContinuation) else (ref.id, {})


def _find_checkpoint(refs: dict[str, Any], checkpoint: str, run_id: str) -> ModelRef:
    checkpoints = [ModelRef.model_validate(ref) for name, ref in refs.items() if name.startswith("checkpoint:")]
    for ref in checkpoints:
        if checkpoint in (ref.id, *(str(ref.data.get(name)) for name in ("step", "checkpoint_id", "checkpoint"))):
            return ref
    steps = ", ".join(str(ref.data.get("step", ref.id)) for ref in checkpoints) or "none"
    raise InvalidJob(f"run {run_id} has no checkpoint {checkpoint!r}; it has {steps}", where="model")
