"""What comes back over the wire, as pure functions over plain data: states, metrics, events, errors.

Names are those of the cohere SDK 7.3.1 (finetuning types).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import llmtune.provider as core
from llmtune.provider import RunState
from llmtune_cohere.declarations import BASE_TYPES

STATES: dict[str, RunState] = {
    "STATUS_QUEUED": RunState.QUEUED,
    "STATUS_FINETUNING": RunState.RUNNING,
    "STATUS_DEPLOYING_API": RunState.FINALIZING,
    "STATUS_READY": RunState.SUCCEEDED,
    "STATUS_FAILED": RunState.FAILED,
    "STATUS_DELETED": RunState.CANCELLED,
}

#: States of a model that has been trained and does not answer just now.
PAUSED_STATES = {
    "STATUS_PAUSED": "the tuned model is paused: Cohere wakes it when it is asked",
    "STATUS_TEMPORARILY_OFFLINE": "the tuned model is temporarily offline",
}

#: Cohere reports evaluations only; these are its names of what it measures, by ours.
_SERIES = {
    "cross_entropy": "validation/loss",
    "accuracy": "validation/token_accuracy",
    "generation_cross_entropy": "validation/generation_loss",
    "generation_accuracy": "validation/generation_token_accuracy",
}

_OUR_NAMES = {
    "train_epochs": "epochs",
    "train_batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "early_stopping_patience": "early_stopping_patience",
    "early_stopping_threshold": "early_stopping_threshold",
    "lora_rank": "lora_rank",
    "lora_alpha": "lora_alpha",
}
_MODULES = {
    "LORA_TARGET_MODULES_QV": ["q_proj", "v_proj"],
    "LORA_TARGET_MODULES_QKVO": "attention",
    "LORA_TARGET_MODULES_QKVO_FFN": "all-linear",
}


def read_state(status: str, *, completed: bool = False) -> tuple[RunState, tuple[str, ...]]:
    """Return our state for Cohere's word; an unknown one is running, with a warning."""
    if status in PAUSED_STATES:
        return (RunState.SUCCEEDED, (PAUSED_STATES[status],)) if completed else (RunState.PAUSED, ())
    return core.read_state(status, STATES, "Cohere")


def _read_points(row: Mapping[str, Any], series: Mapping[str, str]) -> list[core.MetricPoint]:
    """Return the metrics of one step. The service leaves step 0 out of its answer, like every zero."""
    metrics = dict(row.get("metrics") or {})
    own_step = int(metrics.pop("step", 0))
    step = own_step if row.get("step_number") is None else row["step_number"]
    return [
        core.MetricPoint(
            step=step,
            series=series.get(raw, f"validation/{raw}"),
            value=float(value),
            time=core.unix_seconds(row.get("created_at")),
            source="vendor_api",
            raw_name=raw,
        )
        for raw, value in metrics.items()
    ]


def _read_event(row: Mapping[str, Any]) -> core.Event:
    return core.Event(
        id=f"{row.get('created_at')}-{row.get('status')}",
        time=core.unix_seconds(row.get("created_at")) or 0.0,
        level="error" if row.get("status") == "STATUS_FAILED" else "info",
        message=str(row.get("status") or "event"),
    )


def snapshot(
    model: Mapping[str, Any],
    *,
    metrics: Iterable[Mapping[str, Any]] = (),
    events: Iterable[Mapping[str, Any]] = (),
    since: core.Cursor | None = None,
) -> core.Snapshot:
    """Convert a fine-tuned model: its record, all its metrics and all its events.

    The API's own order is not to be trusted: its reference says newest first, its examples show oldest first.
    """
    status = str(model.get("status") or "STATUS_UNSPECIFIED")
    run_state, warnings = read_state(status, completed=bool(model.get("completed_at")))
    series = _SERIES | ({"accuracy": "validation/accuracy"} if is_classifier(model) else {})
    points = sorted(
        (point for row in metrics for point in _read_points(row, series)), key=lambda point: (point.step, point.series)
    )
    changes = sorted(map(_read_event, events), key=lambda event: event.time)
    cursor = {"step": -1, "events": 0, **(since or {})}
    step = points[-1].step if points else None
    return core.Snapshot(
        state=run_state,
        raw_state=status,
        progress=core.Progress(step=step),
        points=tuple(point for point in points if point.step >= cursor["step"]),
        events=tuple(changes[cursor["events"] :]),
        model=_model_ref(model) if run_state is RunState.SUCCEEDED else None,
        error="Cohere's API gives no reason for a failed job" if run_state is RunState.FAILED else None,
        warnings=warnings,
        resolved=_hyperparameters(model)[0],
        not_reported={"train/loss": "Cohere reports evaluations only, no training loss"},
        cursor={"step": cursor["step"] if step is None else step, "events": max(cursor["events"], len(changes))},
    )


def _base_model(model: Mapping[str, Any]) -> Mapping[str, Any]:
    return (model.get("settings") or {}).get("base_model") or {}


def is_classifier(model: Mapping[str, Any]) -> bool:
    """Return whether a classifier was tuned."""
    return bool(_base_model(model).get("base_type") == BASE_TYPES["classification"])


def _base_name(model: Mapping[str, Any]) -> str:
    """Return the base model's name, or its kind if it has none (a classifier)."""
    kind = str(_base_model(model).get("base_type") or "").removeprefix("BASE_TYPE_").lower()
    return str(_base_model(model).get("name") or ("classify" if is_classifier(model) else kind))


def _model_ref(model: Mapping[str, Any]) -> core.ModelRef:
    """Return the tuned model under the id that inference takes: its id and `-ft`."""
    data = {"finetuned_model": model["id"], "base_type": str(_base_model(model).get("base_type") or "")}
    return core.ModelRef(id=f"{model['id']}-ft", base=_base_name(model), data=data)


def _hyperparameters(model: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the job's hyperparameters by our names, and those that have no name of ours."""
    echoed = (model.get("settings") or {}).get("hyperparameters") or {}
    echoed = {name: value for name, value in echoed.items() if value is not None}
    values = {
        our_name: echoed.pop(vendor_name) for vendor_name, our_name in _OUR_NAMES.items() if vendor_name in echoed
    }
    if echoed.get("lora_target_modules") in _MODULES:
        values["lora_target_modules"] = _MODULES[echoed.pop("lora_target_modules")]
    return values, echoed


def remote_model(model: Mapping[str, Any]) -> core.RemoteModel:
    """Convert a tuned model from the account's list."""
    id = str(model["id"])
    return core.RemoteModel(
        id=f"{id}-ft", base=_base_name(model), job=id, created=core.unix_seconds(model.get("created_at"))
    )


#: The method of a base type that is no chat model; a reranker has none of ours.
_METHODS = {BASE_TYPES["classification"]: "classification", "BASE_TYPE_RERANK": "rerank"}

#: Settings that a remote job holds in fields of its own; an import answers these keys by them.
_OWN_FIELDS = frozenset(("hyperparameters", "dataset_id", "base_model"))


def remote_job(model: Mapping[str, Any]) -> core.RemoteJob:
    """Convert the job behind a tuned model: enough to run it again elsewhere."""
    values, unmapped = _hyperparameters(model)
    settings = model.get("settings") or {}
    return core.RemoteJob(
        id=str(model["id"]),
        model=f"{model['id']}-ft",
        base=_base_name(model),
        method=_METHODS.get(str(_base_model(model).get("base_type")), "sft"),
        hyperparameters=values,
        unmapped=unmapped,
        files={"train": str(settings["dataset_id"])} if settings.get("dataset_id") else {},
        name=model.get("name"),
        record={key: value for key, value in model.items() if key not in ("name", "settings")}
        | {f"settings.{key}": value for key, value in settings.items() if key not in _OWN_FIELDS}
        | {f"base_model.{key}": value for key, value in _base_model(model).items() if key not in ("name", "base_type")},
        data={"multi_label": bool(settings.get("multi_label"))},
    )
