"""`llmtune evaluate RUN`: a finished run is evaluated for the first time or again, also on other rows.

Answers are kept one by one, so what was asked before is not asked, or paid for, a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import InvalidData, LlmtuneError, StillRunning
from llmtune.evaluation.panel.questions import load_panel
from llmtune.metrics.points import NotReported
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef
from llmtune.runs import evaluation, finalize
from llmtune.runs.evaluation_progress import say_progress
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store
from llmtune.runs.tuned_model import no_model_error

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
    panel: bool | str | None = None,
    deploy: bool | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Evaluate the base and the tuned model of a finished run, and put the result into its report.

    The previous evaluation is kept in the report as an earlier one, with the tokens it took.

    Args:
        store: the store.
        run_id: the run.
        provider: its backend.
        dataset: a file whose rows are all used as test rows; None takes the job's own test rows.
        max_rows: rows asked at most; None asks the job (`evaluation.max_rows`).
        panel: the panel that base and tuned model are asked, as `evaluation.panel` names it; None asks the job.
        deploy: allow a deployment that costs money while it stands; None asks the job (`evaluation.deploy`).
        say: receives progress messages.

    Raises:
        StillRunning: the run has not ended.
        InvalidData: there are no rows to ask, or they or the panel cannot be read.
        UnknownName: there is no panel of that name.
        LlmtuneError: there is no model, or it could not be asked; the report stays as it was.
    """
    record = store.get(run_id)
    if not record.state.final:
        raise StillRunning(f"run {run_id} is {record.state}", hint=f"llmtune runs attach {run_id}")
    finalize.refresh_missing_model(store, record, provider)
    model = store.ref(run_id, "model", ModelRef)
    if model is None:
        raise no_model_error(record)
    job_dataset = _load_job_dataset(record, needed=dataset is None)
    rows, notes = (job_dataset, ()) if dataset is None else _load_other_rows(record, job_dataset, dataset)
    if rows is None or not rows.test:
        raise InvalidData(
            "the job has no test rows to evaluate on", hint=f"llmtune evaluate {run_id} --dataset FILE asks other rows"
        )
    spec = record.tuning_job.evaluation
    if max_rows is not None:
        spec = spec.model_copy(update={"max_rows": max_rows})
    if panel is not None:
        if panel is not False and record.tuning_job.method == "classification":
            raise InvalidData("a panel asks for texts, and a classifier answers with labels alone")
        spec = spec.model_copy(update={"panel": panel})
    if spec.panel is not False:
        load_panel(spec.panel)  # one that does not exist ends here, before anything is asked
    lease = Lease(store, f"model:{run_id}")
    if not lease.acquire(wait=5):
        raise LlmtuneError(f"the model of run {run_id} is held by another process right now")
    with lease, finalize.open_target(store, record, provider, model, lease, allow=deploy) as target:
        request = evaluation.EvaluationRequest(rows, spec, say_progress(say))
        result, data = evaluation.evaluate_dataset(store, record, provider, target, say, request)
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


def _load_job_dataset(record: RunRecord, *, needed: bool) -> Dataset | None:
    """Load the dataset that the run was planned with; None where it has changed or is gone, unless it is `needed`."""
    try:
        return evaluation.load_same_dataset(record)
    except (LlmtuneError, OSError):
        if needed:
            raise
        return None


def _load_other_rows(
    record: RunRecord, job_dataset: Dataset | None, path: str | Path
) -> tuple[Dataset, tuple[str, ...]]:
    """Load a file's rows as test rows beside the job's training rows. Returns them with notes for the report."""
    from llmtune.data.dataset import Dataset

    job = record.tuning_job
    fields = {"path": str(path), "train": None, "validation": None, "test": None, "split": (1.0, 0.0, 0.0)}
    file_dataset = Dataset.from_spec(job.dataset.model_copy(update=fields), method=job.method)
    train = job_dataset.train if job_dataset is not None else ()
    rows = replace(
        file_dataset,
        train=train,
        validation=job_dataset.validation if job_dataset is not None else (),
        test=file_dataset.train,
    )
    trained = _count_common_rows(file_dataset.train, train)
    if not trained:
        return rows, ()
    return rows, (f"{trained:,} of the {len(file_dataset.train):,} rows of {path} are training rows too",)


def _count_common_rows(rows: Sequence[Example], train_rows: Sequence[Example]) -> int:
    from llmtune.evaluation.sampling import row_ids

    train_ids = set(row_ids(train_rows))
    return sum(id in train_ids for id in row_ids(rows))
