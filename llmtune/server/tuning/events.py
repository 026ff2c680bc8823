"""A job's events, checkpoints and result file, built from the run store at each request."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

from llmtune.metrics.points import SOURCE_ORDER, MetricPoint
from llmtune.provider.types import ModelRef, RunState
from llmtune.runs.run import Run
from llmtune.server.tuning.models import checkpoint_name
from llmtune.server.tuning.state import JobRecord
from llmtune.server.tuning.translate import receipt_lines

#: The API's names of the canonical series; any other series keeps its own.
_NAMES = {
    "train/loss": "train_loss",
    "train/token_accuracy": "train_mean_token_accuracy",
    "validation/loss": "valid_loss",
    "validation/token_accuracy": "valid_mean_token_accuracy",
    "validation/full_loss": "full_valid_loss",
    "validation/full_token_accuracy": "full_valid_mean_token_accuracy",
}
#: Columns of the result file, each with its name in events.
_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
_LEVELS = {"info": "info", "warning": "warn", "error": "error"}
_STATE_MESSAGES = {
    RunState.PLANNED: "Validating the training file",
    RunState.UPLOADING: "Sending the files to the backend",
    RunState.SUBMITTING: "Submitting the job",
    RunState.QUEUED: "Fine-tuning job is in the queue",
    RunState.RUNNING: "Fine-tuning job started",
    RunState.PAUSED: "Fine-tuning job is paused",
    RunState.CANCELLING: "Cancellation was requested",
    RunState.FINALIZING: "Training has ended",
    RunState.FAILED: "The job failed",
    RunState.CANCELLED: "The job was cancelled",
    RunState.LOST: "It is not known whether the backend took the job",
}


@dataclass(order=True, frozen=True)
class _Entry:
    """An event with its sort key: by time, then by kind (receipt, state, vendor's event, metrics), then by number."""

    time: float
    rank: int
    number: int
    body: dict[str, Any] = field(compare=False)


def job_events(job: JobRecord, run: Run | None) -> list[dict[str, Any]]:
    """List every event of a job, newest first."""
    name = job.run_id
    entries = [_entry(name, job.created, 0, 0, f"Created fine-tuning job: {job.id}")]
    if job.error is not None:
        entries.append(_entry(name, job.ended or job.created, 5, 0, job.error["message"] or "", level="error"))
    if run is None:
        return [entry.body for entry in sorted(entries, reverse=True)]
    record = run.record
    provider = f"at {record.provider}, from the base model {record.model}"
    entries.append(
        _entry(name, record.created, 1, 0, f"Model {job.model} is tuned as llmtune run {record.id} {provider}")
    )
    for number, (row, sentence) in enumerate(receipt_lines(job, record.plan), 1):
        level = "warn" if row.is_set and row.support == "unsupported" else "info"
        data = row.model_dump(mode="json", include={"field", "support", "requested", "effective", "rule", "reason"})
        entries.append(_entry(name, record.created, 1, number, sentence, level=level, data=data))
    started = record.created
    for number, transition in enumerate(run.transitions()):
        if transition.state is RunState.RUNNING:
            started = transition.time
        if transition.state is RunState.SUCCEEDED:
            continue
        level = "error" if transition.state in (RunState.FAILED, RunState.LOST) else "info"
        reason = f": {transition.reason}" if transition.reason and transition.state is not RunState.PLANNED else ""
        entries.append(
            _entry(name, transition.time, 2, number, f"{_STATE_MESSAGES[transition.state]}{reason}", level=level)
        )
    for number, event in run.events():
        message = _replace_model_ids(event.message, job, run)
        entries.append(_entry(name, event.time, 3, number, message, level=_LEVELS[event.level]))
    total = record.progress.total_steps
    steps = metrics_by_step(run.metrics())
    for step, (time, values) in steps.items():
        data = {"step": step, "total_steps": total} | {key: _encode_number(value) for key, value in values.items()}
        entries.append(_entry(name, time or started, 4, step, _step_sentence(data), data=data, kind="metrics"))
    if record.state is RunState.SUCCEEDED and job.settled:
        ended = max(job.ended or record.updated, *(entry.time for entry in entries))
        entries.append(_entry(name, ended, 5, 1, f"New fine-tuned model created: {job.tuned_name}"))
        entries.append(_entry(name, ended, 5, 2, "The job has successfully completed"))
    return [entry.body for entry in sorted(entries, reverse=True)]


def _replace_model_ids(message: str, job: JobRecord, run: Run) -> str:
    """Replace the backend's model ids in its message: clients read the name of the tuned model from events."""
    names = {ref.id: checkpoint_name(job, ref.data["step"]) for ref in run.checkpoints if "step" in ref.data}
    if run.model_ref is not None:
        names[run.model_ref.id] = job.tuned_name
    for id in sorted(names, key=len, reverse=True):  # an id may begin with another
        message = message.replace(id, names[id])
    return message


def job_checkpoints(job: JobRecord, run: Run | None) -> list[dict[str, Any]]:
    """List the models of a job that has succeeded, newest first: the final one, then each usable checkpoint."""
    model = None if run is None or not job.settled else run.model_ref
    if run is None or model is None:
        return []
    steps = metrics_by_step(run.metrics())
    last = run.record.progress.step or max(steps, default=0)
    ended = job.ended or run.record.updated
    listed = [_checkpoint(job, model, last, job.tuned_name, steps, ended)]
    steps_and_refs = [(ref.data.get("step"), ref) for ref in run.checkpoints]
    numbered = [(step, ref) for step, ref in steps_and_refs if isinstance(step, int)]
    for step, ref in sorted(numbered, reverse=True, key=_step):
        if ref.id != model.id:
            listed.append(_checkpoint(job, ref, step, checkpoint_name(job, step), steps, ended))
    return listed


def _step(pair: tuple[int, ModelRef]) -> int:
    return pair[0]


def _checkpoint(
    job: JobRecord,
    ref: ModelRef,
    step: int,
    name: str,
    steps: dict[int, tuple[float | None, dict[str, float]]],
    ended: float,
) -> dict[str, Any]:
    time, values = steps.get(step, (None, {}))
    named = {key: value for key, value in values.items() if key in _NAMES.values() and math.isfinite(value)}
    return {
        "id": f"ftckpt_{hashlib.sha256(f'{job.run_id} {ref.id}'.encode()).hexdigest()[:24]}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(time or ended),
        "fine_tuned_model_checkpoint": name,
        "fine_tuning_job_id": job.id,
        "metrics": {"step": step} | named,
        "step_number": step,
    }


def result_csv(points: list[MetricPoint]) -> bytes:
    """Build the result file: one line per step; a cell is empty where nothing was measured."""
    lines = [",".join(_COLUMNS)]
    for step, (_, values) in metrics_by_step(points).items():
        cells = {"step": step} | values
        if len(cells.keys() & set(_COLUMNS.values())) > 1:
            lines.append(",".join(str(cells.get(name, "")) for name in _COLUMNS.values()))
    return ("\n".join(lines) + "\n").encode()


def metrics_by_step(points: list[MetricPoint]) -> dict[int, tuple[float | None, dict[str, float]]]:
    """Group points by step: the time in Unix seconds (None if not reported), and the values by the API's names."""
    best: dict[tuple[int, str], MetricPoint] = {}
    for point in points:
        previous = best.get((point.step, point.series))
        if previous is None or SOURCE_ORDER.index(point.source) <= SOURCE_ORDER.index(previous.source):
            best[point.step, point.series] = point
    steps: dict[int, tuple[float | None, dict[str, float]]] = {}
    for (step, series), point in sorted(best.items()):
        time, values = steps.get(step, (None, {}))
        values[_NAMES.get(series, series)] = point.value
        steps[step] = (point.time if time is None else time, values)
    return steps


def _step_sentence(data: dict[str, Any]) -> str:
    total = f"/{data['total_steps']}" if data["total_steps"] else ""
    titles = {"train_loss": "training loss", "valid_loss": "validation loss", "full_valid_loss": "full validation loss"}
    losses = [f"{title}={data[name]:.2f}" for name, title in titles.items() if isinstance(data.get(name), float)]
    return f"Step {data['step']}{total}" + (f": {', '.join(losses)}" if losses else "")


def _encode_number(value: float) -> float | str:
    """Return a value as JSON can hold it: a loss that diverged is a string, not left out."""
    return value if math.isfinite(value) else str(value)


def _entry(
    run_id: str,
    time: float,
    rank: int,
    number: int,
    message: str,
    *,
    level: str = "info",
    data: dict[str, Any] | None = None,
    kind: str = "message",
) -> _Entry:
    body = {
        "id": f"ftevent-{run_id}-{'crtems'[rank]}{number}",
        "object": "fine_tuning.job.event",
        "created_at": int(time),
        "level": level,
        "message": message,
        "type": kind,
        "data": data or {},
    }
    return _Entry(time, rank, number, body)
