"""OpenAI's answers as llmtune sees them: pure functions over plain data, so that recorded traffic tests them.

States and fields are read as open sets: a word or key that is new here is kept, never dropped and never fatal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import llmtune.provider as core
from llmtune.errors import VendorError
from llmtune_openai import metrics
from llmtune_openai.declarations import KEY_TAG

#: Every status word seen: the API reference (first six), its sample for pause, Azure's, and old recordings.
STATES: dict[str, core.RunState] = {
    "validating_files": core.RunState.QUEUED,
    "queued": core.RunState.QUEUED,
    "running": core.RunState.RUNNING,
    "succeeded": core.RunState.SUCCEEDED,
    "failed": core.RunState.FAILED,
    "cancelled": core.RunState.CANCELLED,
    "paused": core.RunState.PAUSED,
    "created": core.RunState.QUEUED,
    "pending": core.RunState.QUEUED,
    "pausing": core.RunState.RUNNING,
    "resuming": core.RunState.RUNNING,
    "cancelling": core.RunState.CANCELLING,
    "canceled": core.RunState.CANCELLED,
}

LEVELS: dict[str, Any] = {"info": "info", "warn": "warning", "warning": "warning", "error": "error"}

#: The vendor's hyperparameters by our names. "auto" and -1 both mean that the vendor chooses.
OUR_NAMES = {
    "n_epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate_multiplier": "learning_rate_multiplier",
    "beta": "dpo_beta",
    "learning_rate": "learning_rate",
    "warmup_ratio": "warmup_ratio",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "packing": "packing",
    "context_length": "max_sequence_length",
    "lora_r": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
}

NO_VALIDATION = "no validation file was sent"


def check_is_job(payload: Any) -> dict[str, Any]:
    """Return the payload if it is a fine-tuning job. Raises `VendorError` for anything else, the removed API by
    name."""
    if isinstance(payload, Mapping):
        kind = payload.get("object")
        # Old recordings and some gateways spell the id of a present job with ft- too: its fields tell them apart.
        present = kind == "fine_tuning.job" or "training_file" in payload
        if kind == "fine-tune" or (not present and str(payload.get("id", "")).startswith("ft-")):
            raise VendorError(
                f"{payload.get('id', 'this')} is a job of the removed /v1/fine-tunes API, which ended in January 2024:"
                " it can neither be followed nor repeated there",
                code="removed_api",
                hint="start from its training file with a new job",
            )
        if "id" in payload and "status" in payload:
            return dict(payload)
    raise VendorError("the service's answer is not a fine-tuning job", code="not_a_job", raw=str(payload)[:500])


def read_state(job: Mapping[str, Any]) -> tuple[core.RunState, tuple[str, ...]]:
    """Return the state, and a warning if the vendor's word for it is new."""
    return core.read_state(str(job.get("status")), STATES, "the service")


def snapshot(
    job: Mapping[str, Any],
    *,
    events: Sequence[Mapping[str, Any]] = (),
    checkpoints: Sequence[Mapping[str, Any]] = (),
    results: Mapping[str, bytes | None] | None = None,
    not_reported: Mapping[str, str] | None = None,
    blocked: str | None = None,
    now: float | None = None,
) -> core.Snapshot:
    """Convert a job with its events (oldest first), checkpoints, and result files by id.

    `blocked` is what `blocked_by` found in events that were read before.
    """
    job = check_is_job(job)
    state, warnings = read_state(job)
    points = metrics.from_events(events) + metrics.from_checkpoints(checkpoints)
    for id, content in (results or {}).items():
        if content is None:
            warnings += (f"result file {id} is gone, so the metrics are those of the events",)
            continue
        file_points, complaint = metrics.from_result_file(content)
        points += file_points
        if complaint:
            warnings += (f"result file {id}: {complaint}",)
    missing = dict(not_reported or {})
    if not job.get("validation_file"):
        missing |= dict.fromkeys(metrics.VALIDATION_SERIES, NO_VALIDATION)
    base = str(job.get("model") or "")
    tuned = job.get("fine_tuned_model")
    return core.Snapshot(
        state=state,
        raw_state=str(job.get("status")),
        progress=progress(job, events, now=now),
        points=metrics.merged(points),
        events=tuple(message_events(events)),
        model=core.ModelRef(id=tuned, base=base, data={"job": job["id"]}) if tuned else None,
        checkpoints=tuple(checkpoint_refs(checkpoints, base)),
        billed=billed_tokens(job),
        error=error_of(job, blocked_by(events) or blocked),
        warnings=warnings,
        resolved=resolved(job),
        not_reported=missing,
    )


def error_of(job: Mapping[str, Any], blocked: str | None = None) -> str | None:
    """Return why a job failed, in the vendor's words. Without an error it has null, {}, or an object of nulls here.

    `blocked` is what the vendor's own safety checks held against the model, if they did.
    """
    if read_state(job)[0] is not core.RunState.FAILED:
        blocked = None
    error = job.get("error")
    message = code = None
    if isinstance(error, Mapping):
        message, code = error.get("message"), error.get("code")
    text = f"{message} ({code})" if message and code else message or code
    if blocked is None:
        return str(text) if text else None
    tokens = job.get("trained_tokens")
    amount = f"{tokens:,} tokens were" if isinstance(tokens, int) and tokens > 0 else "the tokens were"
    sentence = f"{blocked}; {amount} trained, and are billed"
    return f"{text}: {sentence}" if text else sentence


def blocked_by(events: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the safety checks' objections to the tuned model, with their categories; None if there are none."""
    reason = None
    for event in events:
        if event.get("type") != "moderation_checks":
            continue
        data = event["data"] if isinstance(event.get("data"), Mapping) else {}
        flagged = [
            str(result.get("category") or result.get("name"))
            for result in data.get("results") or ()
            if isinstance(result, Mapping) and (result.get("flagged") or result.get("passed") is False)
        ]
        against = flagged or LEVELS.get(str(event.get("level"))) in ("warning", "error")
        if data.get("blocked") or (data.get("blocked") is None and against):
            message = str(event.get("message") or "").strip().rstrip(".")
            categories = (
                f"the vendor's safety checks have refused the tuned model ({', '.join(flagged) or 'no category given'})"
            )
            reason = f"{categories}: {message}" if message else categories
    return reason


def billed_tokens(job: Mapping[str, Any]) -> core.Billed | None:
    """Return the billable tokens, once reported. OpenAI's field counts every pass over the rows."""
    tokens = job.get("trained_tokens")
    if not isinstance(tokens, int) or tokens <= 0:
        return None
    return core.Billed(tokens=tokens, source="trained_tokens of the job")


def progress(job: Mapping[str, Any], events: Iterable[Mapping[str, Any]], *, now: float | None = None) -> core.Progress:
    """Return the latest step in an event or the job, and the vendor's own estimate of the time left."""
    step, total = _count(job.get("trained_steps")), _count(job.get("total_steps"))
    for event in events:
        data = event.get("data")
        if isinstance(data, Mapping) and _count(data.get("step")) is not None:
            step = max(step or 0, _count(data.get("step")) or 0)
            total = _count(data.get("total_steps")) or total
    finish = job.get("estimated_finish")
    seconds_left = None
    if isinstance(finish, (int, float)) and finish > 0 and not read_state(job)[0].final:
        seconds_left = max(0.0, float(finish) - (time.time() if now is None else now))
    return core.Progress(step=step, total_steps=total, seconds_left=seconds_left)


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else None


def message_events(events: Iterable[Mapping[str, Any]]) -> list[core.Event]:
    """Return the events that are messages; those that carry metrics became points."""
    return [
        core.Event(
            id=str(event["id"]),
            time=float(event.get("created_at") or 0),
            level=LEVELS.get(str(event.get("level")), "info"),
            message=str(event.get("message") or ""),
        )
        for event in events
        if event.get("type") != "metrics" and event.get("id")
    ]


def checkpoint_refs(checkpoints: Iterable[Mapping[str, Any]], base: str) -> list[core.ModelRef]:
    """Return the checkpoints that answer, oldest first."""
    refs = [
        core.ModelRef(
            id=str(entry["fine_tuned_model_checkpoint"]),
            base=base,
            data={"checkpoint": entry.get("id"), "step": entry.get("step_number")},
        )
        for entry in checkpoints
        if entry.get("fine_tuned_model_checkpoint")
    ]
    return sorted(refs, key=lambda ref: ref.data.get("step") or 0)


def hyperparameters_of(job: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the vendor's word for the method, and its hyperparameters as the job echoes them."""
    method = job.get("method")
    if isinstance(method, Mapping) and method.get("type"):
        method_type = str(method["type"])
        inner = method.get(method_type)
        echoed = inner.get("hyperparameters") if isinstance(inner, Mapping) else None
        if isinstance(echoed, Mapping):
            return method_type, dict(echoed)
        return method_type, dict(job.get("hyperparameters") or {})
    return "supervised", dict(job.get("hyperparameters") or {})


def _value(value: Any) -> Any:
    """Return a hyperparameter that is a value. Raises `ValueError` for "auto" and negative numbers, which leave it to
    the vendor."""
    if value is None or isinstance(value, str) or (not isinstance(value, bool) and value < 0):
        raise ValueError(value)
    return value


def named_values(echoed: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the hyperparameters that are values, by our names, and the others."""
    return core.read_values(echoed, {name: (our_name, _value) for name, our_name in OUR_NAMES.items()})


def resolved(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the vendor has reported by now, by our names."""
    values, _ = named_values(hyperparameters_of(job)[1])
    if isinstance(job.get("seed"), int):
        values["seed"] = job["seed"]
    return values


def remote_model(job: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> core.RemoteModel | None:
    """Return the tuned model of a job, with what the list of `models` (by id) holds on it; None if it names none."""
    id, base = job.get("fine_tuned_model"), str(job.get("model") or "")
    if not id:
        return None
    if not isinstance(id, str):
        raise TypeError(f"a model's id is {id!r:.80}")
    created = core.unix_seconds(job.get("finished_at"))
    return core.RemoteModel(
        id=id,
        base=base or None,
        job=str(job["id"]) if job.get("id") else None,
        created=created if created is not None else core.unix_seconds(models.get(id, {}).get("created")),
        shutdown=shutdown_of(id, base, models),
        data={"status": job.get("status"), "listed": id in models},
    )


def shutdown_of(id: str, base: str, models: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the day on which a tuned model stops answering, by the list of models: its own, else that of its base."""
    days = (models.get(name, {}).get("shutdown_date") for name in (id, base))
    return next((day for day in days if isinstance(day, str) and day), None)


#: What a remote job holds in fields of its own; an import answers these keys by them.
_HELD = frozenset(
    ("model", "training_file", "validation_file", "hyperparameters", "method", "seed", "suffix", "user_provided_suffix")
)


def remote_job(job: Mapping[str, Any], model: str | None = None) -> core.RemoteJob:
    """Convert a job so that it can be run again elsewhere; a value without a name of ours keeps the vendor's."""
    job = check_is_job(job)
    method_type, echoed = hyperparameters_of(job)
    chosen = {name: value for name, value in echoed.items() if _is_automatic(job, name)}
    defaults = {name: value for name, value in echoed.items() if name not in chosen}
    values, unmapped = named_values(defaults)
    files = {"train": job.get("training_file"), "validation": job.get("validation_file")}
    name = job.get("user_provided_suffix") or job.get("suffix")
    metadata = job.get("metadata")
    record = {key: value for key, value in job.items() if key not in _HELD}
    options: dict[str, Any] = {}
    if wandb := _wandb_of(job):
        options["wandb"] = wandb
        del record["integrations"]
    method = job.get("method")
    inner = method.get(method_type) if isinstance(method, Mapping) else None
    if isinstance(inner, Mapping):
        record |= {f"method.{method_type}.{key}": value for key, value in inner.items() if key != "hyperparameters"}
    if isinstance(metadata, Mapping):
        record["metadata"] = {key: value for key, value in metadata.items() if key == KEY_TAG}
    return core.RemoteJob(
        id=str(job["id"]),
        model=str(model or job.get("fine_tuned_model") or ""),
        base=str(job.get("model") or ""),
        method={"supervised": "sft"}.get(method_type, method_type),
        hyperparameters=values,
        unmapped=unmapped,
        chosen=chosen,
        seed=job.get("seed") if isinstance(job.get("seed"), int) else None,
        name=str(name) if name else None,
        tags={str(key): str(value) for key, value in metadata.items() if key != KEY_TAG}
        if isinstance(metadata, Mapping)
        else {},
        files={role: str(id) for role, id in files.items() if id},
        options=options,
        names={OUR_NAMES[name]: name for name in defaults if name in OUR_NAMES} | {"wandb": "integrations"},
        record=record,
    )


def _wandb_of(job: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the Weights & Biases project of the job, as the option `wandb` has it; None if there is none."""
    integrations = job.get("integrations")
    if not isinstance(integrations, Sequence) or len(integrations) != 1 or not isinstance(integrations[0], Mapping):
        return None
    inner = integrations[0].get("wandb")
    if not isinstance(inner, Mapping) or not inner.get("project"):
        return None
    return {key: value for key, value in inner.items() if key in ("project", "name", "entity", "tags") and value}


def _is_automatic(job: Mapping[str, Any], name: str) -> bool:
    """Return whether the vendor chose a value: a job tells its hyperparameters twice, and one place may still say
    so."""
    method = job.get("method")
    inner = method.get(str(method.get("type"))) if isinstance(method, Mapping) else None
    mappings = (inner.get("hyperparameters") if isinstance(inner, Mapping) else None, job.get("hyperparameters"))
    values = [mapping[name] for mapping in mappings if isinstance(mapping, Mapping) and name in mapping]
    return any(value == "auto" or (isinstance(value, int | float) and value < 0) for value in values)
