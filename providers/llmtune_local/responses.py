"""The run folder as llmtune sees a run: states, snapshots, tuned models, and the job behind a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llmtune.provider as core
from llmtune.provider import RunState
from llmtune_local.run_state.damage import DamagedFile
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import Cursor, Status, Verdict

STATES: dict[str, RunState] = {
    "starting": RunState.QUEUED,
    "running": RunState.RUNNING,
    "finalizing": RunState.FINALIZING,
    "cancelling": RunState.CANCELLING,
    "succeeded": RunState.SUCCEEDED,
    "failed": RunState.FAILED,
    "cancelled": RunState.CANCELLED,
}


def job_ref(key: str, folder: RunDir) -> core.JobRef:
    """Return the reference of the run in a folder."""
    return core.JobRef(id=key, data={"folder": str(folder.path.absolute())})


def snapshot(
    folder: RunDir,
    status: Status | None,
    verdict: Verdict,
    since: core.Cursor | None,
    find_model: Callable[[RunDir], core.ModelRef | None] | None = None,
) -> core.Snapshot:
    """Return what is new in a folder since the cursor; status and verdict were read before, so nothing is missed.

    `find_model` returns the model of a run that has succeeded; None: `tuned_model`.
    """
    cursor = since or {}
    metrics, metrics_at = folder.read_metrics(Cursor.model_validate(cursor.get("metrics", {})))
    events, events_at = folder.read_events(Cursor.model_validate(cursor.get("events", {})))
    samples, samples_at = folder.read_samples(Cursor.model_validate(cursor.get("samples", {})))
    noticed = [*events, *([verdict.notice] if verdict.notice else [])]
    request = folder.find_request()
    not_reported = {}
    if request is not None and request.method == "reinforcement":
        not_reported = dict.fromkeys(("train/loss", "validation/loss"), "method reinforcement is measured by rewards")
    elif request is not None and request.files.validation is None:
        not_reported["validation/loss"] = "the dataset has no validation rows"
    state = STATES[verdict.state]
    return core.Snapshot(
        state=state,
        raw_state=verdict.state,
        progress=_progress(status),
        points=tuple(
            core.MetricPoint(**line.model_dump(), source="computed", raw_name=line.series) for line in metrics
        ),
        events=tuple(core.Event(**line.model_dump()) for line in noticed),
        samples=tuple(core.Sample(**line.model_dump()) for line in samples),
        model=(find_model or tuned_model)(folder) if state is RunState.SUCCEEDED else None,
        error=verdict.error,
        warnings=(*verdict.warnings, *folder.damage.values()),
        resolved=_resolved(status),
        not_reported=not_reported,
        cursor={
            "metrics": metrics_at.model_dump(),
            "events": events_at.model_dump(),
            "samples": samples_at.model_dump(),
        },
    )


def _progress(status: Status | None) -> core.Progress:
    if status is None:
        return core.Progress()
    return core.Progress(
        step=status.step,
        total_steps=status.total_steps,
        epoch=status.epoch,
        seconds_left=status.eta_seconds,
        tokens_per_second=status.tokens_per_second,
    )


def _resolved(status: Status | None) -> dict[str, Any]:
    """Return the values that were left to the worker and that it has reported since, the device among them."""
    if status is None:
        return {}
    device = {"device": f"{status.device} ({status.dtype})"} if status.device else {}
    return {**status.resolved, **device}


def tuned_model(folder: RunDir) -> core.ModelRef:
    """Return the model that the run in a folder has trained."""
    request = folder.read_request()
    options = request.options.model_dump(exclude_defaults=True)
    data = _model_data(request.model, request.revision, options) | {"folder": str(folder.path.absolute())}
    if request.method == "classification":
        data["method"] = request.method
    return core.ModelRef(id=str(folder.artefact.absolute()), base=request.model, data=data | {"tuned": True})


def base_model(receipt: core.Receipt) -> core.ModelRef | core.Unavailable:
    """Return the model that training started from, loaded with the same options.

    That is the untuned base, or the earlier run's model that the run continued with.
    """
    from llmtune_local.models.hub import split_adapter

    model, options = receipt.target.model, dict(receipt.target.options)
    data = _model_data(model, options.pop("revision", None), options) | {"tuned": False}
    if receipt.target.method == "classification":
        if not (Path(model) / "labels.json").is_file():
            return core.Unavailable("an encoder that is not tuned has no head for these labels")
        data |= {"model": split_adapter(model)[0], "method": "classification"}
    return core.ModelRef(id=model, tuned=False, data=data)


def _model_data(model: str, revision: str | None, options: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "revision": revision, "options": options, "weights": _stamp(model)}


def _stamp(model: str) -> str | None:
    """Return text that differs between two states of a model's folder, so that answers of a replaced model are not
    reused."""
    from llmtune_local.models.hub import locate_for_loading

    path, gguf = locate_for_loading(model)
    files = [gguf] if gguf is not None else sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else []
    facts = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16] if facts else None


def remote_model(folder: RunDir) -> core.RemoteModel | None:
    """Return the model of a finished run; None for a run without one. Raises `DamagedFile` where it is incomplete."""
    status = folder.read_status()
    if status is None or status.state != "succeeded" or not folder.artefact.exists():
        return None
    if fault := folder.artefact_fault():
        raise DamagedFile(fault)
    return core.RemoteModel(
        id=str(folder.artefact),
        base=folder.read_request().model,
        job=folder.path.name,
        created=status.heartbeat,
        data={"folder": str(folder.path)},
    )


def remote_job(remote: core.RemoteModel) -> core.RemoteJob:
    """Return the request behind a model, by llmtune's own names."""
    request = RunDir(remote.data["folder"]).read_request()
    return core.RemoteJob(
        id=remote.job or remote.id,
        model=remote.id,
        base=request.model,
        method=request.method,
        hyperparameters=request.hyperparameters.model_dump(exclude_none=True),
        seed=request.seed,
        files=request.files.model_dump(exclude_none=True),
    )
