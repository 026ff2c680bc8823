"""What comes back over the wire, as pure functions over plain data: states, metrics, events, errors.

Field and state names are those of the together SDK 3.1.1 and of Together's OpenAPI (090263a, 2026-04-28).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from llmtune.errors import InvalidData, LlmtuneError, MissingCredentials, QuotaExceeded, TransientError, VendorError
from llmtune.provider import Billed, Cursor, Event, MetricPoint, ModelRef, Progress, RunState, Snapshot

if TYPE_CHECKING:
    from llmtune.data.rendering.preview import Peek

STATES: dict[str, RunState] = {
    "pending": RunState.QUEUED,
    "queued": RunState.QUEUED,
    "running": RunState.RUNNING,
    "compressing": RunState.FINALIZING,
    "uploading": RunState.FINALIZING,
    "cancel_requested": RunState.CANCELLING,
    "cancelled": RunState.CANCELLED,
    "error": RunState.FAILED,
    "user_error": RunState.FAILED,
    "completed": RunState.SUCCEEDED,
}

#: Metric names whose split is called otherwise here.
_SPLITS = {"eval": "validation", "val": "validation", "validation": "validation", "train": "train"}
_STEP_NAMES = ("global_step", "step")

#: The vendor's names of what it has told since, by ours.
_RESOLVED = {
    "n_epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "warmup_ratio": "warmup_ratio",
    "max_grad_norm": "max_grad_norm",
    "weight_decay": "weight_decay",
    "max_seq_length": "max_sequence_length",
    "packing": "packing",
    "random_seed": "seed",
}
_RESOLVED_LORA = {
    "lora_r": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_trainable_modules": "lora_target_modules",
}


def state(word: str) -> tuple[RunState, tuple[str, ...]]:
    """Our state for the vendor's word; one we do not know is running, with a warning."""
    known = STATES.get(word)
    if known is not None:
        return known, ()
    return RunState.RUNNING, (f"Together reports a state that llmtune does not know: {word!r}; taken as running",)


def points(rows: Iterable[Mapping[str, float]]) -> list[MetricPoint]:
    """Flat metric rows ({"train/loss": 0.5, "train/global_step": 7}) as points, in the order of their steps."""
    found: list[MetricPoint] = []
    for row in rows:
        step = _number_named(row, _STEP_NAMES)
        if step is None:
            continue
        epoch = _number_named(row, ("epoch",))
        for raw, value in row.items():
            split, _, name = raw.rpartition("/")
            if name in (*_STEP_NAMES, "epoch") or not isinstance(value, (int, float)):
                continue
            series = f"{_SPLITS.get(split, split or 'train')}/{name}"
            found.append(
                MetricPoint(
                    step=int(step), series=series, value=float(value), epoch=epoch, source="vendor_api", raw_name=raw
                )
            )
    return sorted(found, key=lambda point: (point.step, point.series))


def _number_named(row: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    for raw, value in row.items():
        if raw.rpartition("/")[2] in names:
            return value
    return None


_LEVELS: dict[str, Literal["info", "warning", "error"]] = {
    "warning": "warning",
    "error": "error",
    "legacy_iwarning": "warning",
    "legacy_ierror": "error",
}


def events(rows: Iterable[Mapping[str, Any]]) -> list[Event]:
    """The vendor's events. Its types are lower case on the wire, whatever its SDK's enumeration says."""
    found = []
    for at, row in enumerate(rows):
        kind = str(row.get("type") or "event").lower()
        key = row.get("hash") or f"{row.get('created_at')}-{kind}-{row.get('step') or at}"
        level = _LEVELS.get(str(row.get("level") or "").lower(), "info")
        found.append(
            Event(
                id=str(key),
                time=moment(row.get("created_at")) or 0.0,
                level=level,
                message=str(row.get("message") or kind),
            )
        )
    return found


def moment(value: Any) -> float | None:
    """ISO-8601 text or Unix seconds as Unix seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str) or not value:
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        return None


def snapshot(
    job: Mapping[str, Any],
    *,
    metrics: Iterable[Mapping[str, float]] = (),
    said: Iterable[Mapping[str, Any]] = (),
    checkpoints: Iterable[Mapping[str, Any]] = (),
    since: Cursor | None = None,
) -> Snapshot:
    """One look at a job: its record, the metric rows since the cursor, all events, all checkpoints."""
    word = str(job.get("status") or "")
    now, warnings = state(word)
    said = list(said)
    measured = points(metrics)
    last = max([point.step for point in measured], default=(since or {}).get("step"))
    seen = (since or {}).get("events", 0)
    return Snapshot(
        state=now,
        raw_state=word,
        progress=_progress(job),
        points=tuple(measured),
        events=tuple(events(said)[seen:]),
        model=_model(job) if now is RunState.SUCCEEDED else None,
        checkpoints=tuple(_checkpoint(job, each) for each in checkpoints),
        billed=_billed(job),
        error=_failure(said, word) if now is RunState.FAILED else None,
        warnings=warnings,
        resolved=_resolved(job),
        not_reported=_not_reported(job),
        cursor={"step": last, "events": max(seen, len(said))},
    )


def _progress(job: Mapping[str, Any]) -> Progress:
    told = job.get("progress") or {}
    epoch = job.get("epochs_completed")
    return Progress(
        step=job.get("steps_completed"),
        total_steps=job.get("total_steps"),
        epoch=None if epoch is None else float(epoch),
        seconds_left=float(told["seconds_remaining"]) if told.get("estimate_available") else None,
    )


def _model(job: Mapping[str, Any]) -> ModelRef | None:
    name = job.get("model_output_name")
    if not name:
        return None
    kept = (
        "model_object_id",
        "model_object_revision_id",
        "adapter_object_id",
        "adapter_object_revision_id",
        "adapter_object_name",
    )
    return ModelRef(
        id=str(name),
        base=job.get("model"),
        data={"job": job["id"]} | {key: job[key] for key in kept if job.get(key)},
    )


def _checkpoint(job: Mapping[str, Any], row: Mapping[str, Any]) -> ModelRef:
    step = row.get("step")
    return ModelRef(
        id=f"{job['id']}:{step}",
        base=job.get("model"),
        data={"job": job["id"], "step": step, "type": row.get("checkpoint_type"), "path": row.get("path")},
    )


def _billed(job: Mapping[str, Any]) -> Billed | None:
    tokens, price = job.get("token_count"), job.get("total_price")
    if not tokens and not price:
        return None
    told = f"; total_price {price}, whose unit is not published" if price else ""
    return Billed(tokens=int(tokens) if tokens else None, source=f"Together job record: token_count{told}")


def _failure(said: list[Mapping[str, Any]], word: str) -> str:
    for row in reversed(said):
        if str(row.get("level") or "").lower() in ("error", "legacy_ierror") or "error" in str(row.get("type")).lower():
            return str(row.get("message"))
    return f"Together ended the job with state {word!r} and no message"


def _resolved(job: Mapping[str, Any]) -> dict[str, Any]:
    found = {ours: job[theirs] for theirs, ours in _RESOLVED.items() if job.get(theirs) not in (None, "max")}
    lora = job.get("training_type") or {}
    return found | {ours: lora[theirs] for theirs, ours in _RESOLVED_LORA.items() if lora.get(theirs) is not None}


def _not_reported(job: Mapping[str, Any]) -> dict[str, str]:
    if not job.get("validation_file"):
        return {"validation/loss": "no validation rows were sent"}
    if not job.get("n_evals"):
        return {"validation/loss": "no evaluation was asked for; set eval_every or provider_options n_evals"}
    return {}


def peeks(answer: Mapping[str, Any], name: str) -> list[Peek]:
    """The service's preview of training rows in the form of our own: each token, and whether it is trained."""
    from llmtune.data.rendering.preview import Peek, Piece

    found = []
    for at, row in enumerate(answer.get("rows") or (), start=1):
        pieces = tuple(
            Piece(text, (id,), label != -100)
            for text, id, label in zip(row["tokens"], row["input_ids"], row["labels"], strict=True)
        )
        cut = ", cut" if row.get("truncated") else ""
        found.append(Peek(at, f"{name}{cut}", 0, pieces, row["num_tokens"], row["num_trained_tokens"]))
    return found


# --- errors ----------------------------------------------------------------------------------------------------------
def words(body: Any, otherwise: str) -> tuple[str, str | None]:
    """The vendor's message and code out of an error body: {"error": {"message", "code"}}, {"message"}, or text."""
    if isinstance(body, str) and body.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):
            body = json.loads(body)
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping):
            code = inner.get("code") or inner.get("type")
            return str(inner.get("message") or otherwise), str(code) if code else None
        if inner:
            return str(inner), None
    if isinstance(body, str) and body.strip() and len(body) < 500:
        return body.strip(), None
    return otherwise, None


def refusal(
    name: str, action: str, status: int, body: Any, headers: Mapping[str, str], otherwise: str = ""
) -> LlmtuneError:
    """An HTTP answer of 4xx or 5xx as one of our errors."""
    message, code = words(body, otherwise or f"HTTP {status}")
    raw = str(body)[:2000] if body is not None else otherwise
    if status in (408, 429) or status >= 500:
        return TransientError(
            f"{name}: {action}: {message} (HTTP {status})",
            retry_after=retry_after(headers),
            sent=status not in (408, 429),
            code=code,
            status=status,
            raw=raw,
        )
    if status == 401:
        return MissingCredentials(
            f"{name}: Together did not accept the API key: {message}", hint="check the key at api.together.ai/settings"
        )
    if status == 402:
        return QuotaExceeded(f"{name}: {action}: {message}", hint="Settings, Billing on api.together.ai")
    return VendorError(f"{name}: {action}: {message} (HTTP {status})", code=code, status=status, raw=raw)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the vendor asks to wait, None when it does not say."""
    value = headers.get("retry-after") or headers.get("Retry-After")
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        return None


def invalid_file(name: str, file: str, report: Mapping[str, Any]) -> InvalidData:
    """A file that the service's own check refused."""
    why = (report.get("validation_report") or {}).get("error") or f"status {report.get('processing_status')}"
    return InvalidData(f"{name}: Together refused {file}: {why}", hint="llmtune data check --provider together FILE")
