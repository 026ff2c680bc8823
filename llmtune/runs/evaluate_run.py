"""`llmtune evaluate RUN`: a finished run is evaluated for the first time or again, also on other rows.

Answers are kept one by one, so what was asked before is not asked, or paid for, a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import InvalidData, LlmtuneError, StillRunning
from llmtune.metrics.points import NotReported
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef
from llmtune.runs import evaluation, finalize
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store
from llmtune.runs.tuned_model import no_model

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.report.schema import Report


def evaluate_run(
    store: Store,
    run_id: str,
    provider: Provider,
    *,
    dataset: str | Path | None = None,
    max_rows: int | None = None,
    deploy: bool | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Ask base and tuned model of a finished run, and put the result into its report.

    The evaluation that stood there is kept in the report as an earlier one, with what it asked for.

    Args:
        store: the store.
        run_id: the run.
        provider: its backend.
        dataset: a file whose rows are asked, all of them held out; None takes the job's own test rows.
        max_rows: rows asked at most; None asks the job (`evaluation.max_rows`).
        deploy: allow a deployment that costs money while it stands; None asks the job (`evaluation.deploy`).
        say: receives a line on how far it is.

    Raises:
        StillRunning: the run has not ended.
        InvalidData: there are no rows to ask, or they cannot be read.
        LlmtuneError: there is no model, or it could not be asked; the report stays as it was.
    """
    record = store.get(run_id)
    if not record.state.final:
        raise StillRunning(f"run {run_id} is {record.state}", hint=f"llmtune runs attach {run_id}")
    finalize.ask_again(store, record, provider)
    model = store.ref(run_id, "model", ModelRef)
    if model is None:
        raise no_model(record)
    own = _own_dataset(record, needed=dataset is None)
    rows, notes = (own, ()) if dataset is None else _other_rows(record, own, dataset)
    if rows is None or not rows.test:
        raise InvalidData(
            "the job has no test rows to evaluate on", hint=f"llmtune evaluate {run_id} --dataset FILE asks other rows"
        )
    spec = record.tuning_job.evaluation
    if max_rows is not None:
        spec = spec.model_copy(update={"max_rows": max_rows})
    lease = Lease(store, f"model:{run_id}")
    if not lease.acquire(wait=5):
        raise LlmtuneError(f"the model of run {run_id} is held by another process right now")
    with lease, finalize.deployed(store, record, provider, model, lease, allow=deploy) as target:
        result, data = evaluation.judge(store, record, provider, target, say, rows, spec)
    if isinstance(missing := result.systems.get("tuned"), NotReported):
        raise LlmtuneError(
            f"the tuned model of run {run_id} could not be asked: {missing.reason}",
            hint="what the other models answered is kept, and is not asked again",
        )
    data["result"]["warnings"] = [*data["result"]["warnings"], *notes]
    if dataset is not None:
        data[evaluation.OTHER_ROWS] = True
    evaluation.keep_evaluation(store, record, data)
    return evaluation.write_report(store, store.get(run_id), provider)


def _own_dataset(record: RunRecord, *, needed: bool) -> Dataset | None:
    """The dataset that the run was planned with; None where it has changed or gone and other rows are asked."""
    try:
        return evaluation.the_same_dataset(record)
    except (LlmtuneError, OSError):
        if needed:
            raise
        return None


def _other_rows(record: RunRecord, own: Dataset | None, path: str | Path) -> tuple[Dataset, tuple[str, ...]]:
    """The rows of a file as test rows beside the job's training rows, and what a reader of the figures should know."""
    from llmtune.data.dataset import Dataset

    job = record.tuning_job
    fields = {"path": str(path), "train": None, "validation": None, "test": None, "split": (1.0, 0.0, 0.0)}
    given = Dataset.from_spec(job.dataset.model_copy(update=fields), method=job.method)
    train = own.train if own is not None else ()
    rows = replace(given, train=train, validation=own.validation if own is not None else (), test=given.train)
    trained = _also_in(given.train, train)
    if not trained:
        return rows, ()
    return rows, (f"{trained:,} of the {len(given.train):,} rows of {path} stand in the training rows too",)


def _also_in(rows: Sequence[Example], others: Sequence[Example]) -> int:
    from llmtune.evaluation.sampling import row_ids

    known = set(row_ids(others))
    return sum(id in known for id in row_ids(rows))
