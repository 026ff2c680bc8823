"""Where a run meets evaluation and report: what is asked of them, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmtune.provider import DeploymentRef, ModelRef, Provider, Ref
from llmtune.runs.records import RunRecord
from llmtune.runs.store import Store

Evaluation = Any


def kept_evaluation(store: Store, record: RunRecord) -> Evaluation | None:
    """The evaluation of an earlier attempt at finishing this run."""
    kept = store.ref(record.id, "evaluation", Ref)
    return None if kept is None else kept.data


def evaluate(
    store: Store, record: RunRecord, provider: Provider, target: ModelRef | DeploymentRef, say: Callable[[str], None]
) -> Evaluation | None:
    """Ask base and tuned model the test rows, and keep what came out."""
    return None


def write_report(store: Store, record: RunRecord, provider: Provider, evaluation: Evaluation | None) -> None:
    """Build the report from everything the store knows, and keep it."""
    store.keep_report(record.id, record.model_dump_json())


def read_report(store: Store, record: RunRecord, provider: Provider) -> Any:
    """The report that was kept; one that ended before it came to finishing gets its report now."""
    from llmtune.errors import StillRunning

    kept = store.report(record.id)
    if kept is None and record.state.final:
        write_report(store, record, provider, None)
        kept = store.report(record.id)
    if kept is None:
        raise StillRunning(f"run {record.id} has no report yet: it is {record.state}", hint=None)
    return kept
