"""What comes back over the wire, as pure functions over plain data: states, metrics, events, errors.

Names are those of the cohere SDK 7.3.1 (finetuning types) and of cohere-finetune 0533a2f (2025-03-13).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from llmtune.errors import LlmtuneError, MissingCredentials, QuotaExceeded, TransientError, VendorError
from llmtune.provider import Cursor, Event, MetricPoint, ModelRef, Progress, RemoteJob, RemoteModel, RunState, Snapshot
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
RESTING = {
    "STATUS_PAUSED": "the tuned model is paused: Cohere wakes it when it is asked",
    "STATUS_TEMPORARILY_OFFLINE": "the tuned model is temporarily offline",
}

#: cohere-finetune's own words.
SELF_HOSTED_STATES: dict[str, RunState] = {
    "in progress": RunState.RUNNING,
    "finished": RunState.SUCCEEDED,
    "error": RunState.FAILED,
}

#: Cohere reports evaluations only; these are its names of what it measures, by ours.
_SERIES = {
    "cross_entropy": "validation/loss",
    "accuracy": "validation/token_accuracy",
    "generation_cross_entropy": "validation/generation_loss",
    "generation_accuracy": "validation/generation_token_accuracy",
}

_NOT_REPORTED = {"train/loss": "Cohere reports evaluations only, no training loss"}

_NAMES = {
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


def state(word: str, *, completed: bool = False) -> tuple[RunState, tuple[str, ...]]:
    """Our state for Cohere's word; one we do not know is running, with a warning."""
    if word in RESTING:
        return (RunState.SUCCEEDED, (RESTING[word],)) if completed else (RunState.PAUSED, ())
    known = STATES.get(word)
    if known is not None:
        return known, ()
    return RunState.RUNNING, (f"Cohere reports a state that llmtune does not know: {word!r}; taken as running",)


def moment(value: Any) -> float | None:
    """ISO-8601 text as Unix seconds."""
    if not isinstance(value, str) or not value:
        return None
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(value).timestamp()
    return None


def points(rows: Iterable[Mapping[str, Any]], *, classification: bool = False) -> list[MetricPoint]:
    """Step metrics in the order of their steps.

    The API's own order is not to be trusted (its reference says newest first, its examples show oldest first), and
    step 0 is left out of the answer, as zeros are in that encoding.
    """
    found = []
    for row in rows:
        measured = row.get("metrics") or {}
        step = row.get("step_number")
        if step is None:
            step = int(measured.get("step", 0))
        for raw, value in measured.items():
            if raw == "step":
                continue
            series = _SERIES.get(raw, f"validation/{raw}")
            if classification and raw == "accuracy":
                series = "validation/accuracy"
            found.append(
                MetricPoint(
                    step=step,
                    series=series,
                    value=float(value),
                    time=moment(row.get("created_at")),
                    source="vendor_api",
                    raw_name=raw,
                )
            )
    return sorted(found, key=lambda point: (point.step, point.series))


def events(rows: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Changes of state, oldest first."""
    found = [
        Event(
            id=f"{row.get('created_at')}-{row.get('status')}",
            time=moment(row.get("created_at")) or 0.0,
            level="error" if row.get("status") == "STATUS_FAILED" else "info",
            message=str(row.get("status") or "event"),
        )
        for row in rows
    ]
    return sorted(found, key=lambda event: event.time)


def snapshot(
    model: Mapping[str, Any],
    *,
    metrics: Iterable[Mapping[str, Any]] = (),
    said: Iterable[Mapping[str, Any]] = (),
    since: Cursor | None = None,
) -> Snapshot:
    """One look at a fine-tuned model: its record, all its metrics and all its events."""
    word = str(model.get("status") or "STATUS_UNSPECIFIED")
    now, warnings = state(word, completed=bool(model.get("completed_at")))
    classification = base_type(model) == BASE_TYPES["classification"]
    measured = points(metrics, classification=classification)
    told = events(said)
    known = since or {}
    after, seen = known.get("step", -1), known.get("events", 0)
    return Snapshot(
        state=now,
        raw_state=word,
        progress=Progress(step=max((point.step for point in measured), default=None)),
        points=tuple(point for point in measured if point.step >= after),
        events=tuple(told[seen:]),
        model=tuned(model) if now is RunState.SUCCEEDED else None,
        error="Cohere's API gives no reason for a failed job" if now is RunState.FAILED else None,
        warnings=warnings,
        resolved=hyperparameters(model)[0],
        not_reported=_NOT_REPORTED,
        cursor={"step": max((point.step for point in measured), default=after), "events": max(seen, len(told))},
    )


def base_type(model: Mapping[str, Any]) -> str:
    """What kind of model was tuned."""
    return str(((model.get("settings") or {}).get("base_model") or {}).get("base_type") or "")


def base_name(model: Mapping[str, Any]) -> str:
    """The base model's name, or its kind where it has none (a classifier)."""
    base = (model.get("settings") or {}).get("base_model") or {}
    kind = str(base.get("base_type") or "").removeprefix("BASE_TYPE_").lower()
    return str(base.get("name") or {"classification": "classify"}.get(kind, kind))


def tuned(model: Mapping[str, Any]) -> ModelRef:
    """The tuned model as inference knows it: its id and `-ft`."""
    return ModelRef(
        id=f"{model['id']}-ft",
        base=base_name(model),
        data={"finetuned_model": model["id"], "base_type": base_type(model)},
    )


def hyperparameters(model: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job's hyperparameters by our names, and those that have no place among them."""
    given = (model.get("settings") or {}).get("hyperparameters") or {}
    found = {ours: given[theirs] for theirs, ours in _NAMES.items() if given.get(theirs) is not None}
    unmapped = {name: value for name, value in given.items() if name not in _NAMES and value is not None}
    modules = unmapped.pop("lora_target_modules", None)
    if modules in _MODULES:
        found["lora_target_modules"] = _MODULES[modules]
    elif modules is not None:
        unmapped["lora_target_modules"] = modules
    return found, unmapped


def remote_model(model: Mapping[str, Any]) -> RemoteModel:
    """A tuned model as the account lists it."""
    return RemoteModel(
        id=f"{model['id']}-ft", base=base_name(model), job=str(model["id"]), created=moment(model.get("created_at"))
    )


def remote_job(model: Mapping[str, Any]) -> RemoteJob:
    """The job behind a tuned model: enough to run it again elsewhere."""
    ours, unmapped = hyperparameters(model)
    settings = model.get("settings") or {}
    method = "classification" if base_type(model) == BASE_TYPES["classification"] else "sft"
    return RemoteJob(
        id=str(model["id"]),
        model=f"{model['id']}-ft",
        base=base_name(model),
        method=method,
        hyperparameters=ours,
        unmapped=unmapped,
        files={"train": str(settings["dataset_id"])} if settings.get("dataset_id") else {},
        data={"name": model.get("name"), "multi_label": bool(settings.get("multi_label"))},
    )


# --- errors ----------------------------------------------------------------------------------------------------------
def words(body: Any, otherwise: str) -> str:
    """The service's message out of an error body: {"message"}, {"error"}, or text."""
    if isinstance(body, (str, bytes)):
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
        with contextlib.suppress(ValueError):
            body = json.loads(text)
        if not isinstance(body, Mapping):
            return text.strip()[:500] or otherwise
    if isinstance(body, Mapping):
        inner = body.get("message") or body.get("error") or otherwise
        return str(inner.get("message", inner)) if isinstance(inner, Mapping) else str(inner)
    return otherwise


def refusal(name: str, action: str, status: int, body: Any, headers: Mapping[str, str]) -> LlmtuneError:
    """An HTTP answer that is no success as one of our errors."""
    message = words(body, f"HTTP {status}")
    raw = str(body)[:2000]
    if status < 400:
        return TransientError(f"{name}: {action}: an answer that cannot be read", status=status, raw=raw)
    if status in (408, 429) or (status >= 500 and status != 501):
        return TransientError(
            f"{name}: {action}: {message} (HTTP {status})",
            retry_after=retry_after(headers),
            sent=status not in (408, 429),
            status=status,
            raw=raw,
        )
    if status in (401, 498):
        return MissingCredentials(f"{name}: the service did not accept the API key: {message}")
    if status == 402:
        return QuotaExceeded(f"{name}: {action}: {message}")
    return VendorError(f"{name}: {action}: {message} (HTTP {status})", status=status, raw=raw)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to wait, None when it does not say."""
    value = next((each for name, each in headers.items() if name.lower() == "retry-after"), None)
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        return None
