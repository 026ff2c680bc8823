"""What comes back over the wire, as pure functions over plain data: states, metrics, events, jobs, errors.

Field and state names are those of the together SDK 3.1.1 and of Together's OpenAPI (090263a, 2026-04-28).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import llmtune.provider as core
from llmtune.errors import InvalidData
from llmtune.provider import RunState

if TYPE_CHECKING:
    from llmtune.data.rendering.preview import TokenPreview

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

#: The vendor's names of hyperparameters, and ours.
_OUR_NAMES = {
    "n_epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "warmup_ratio": "warmup_ratio",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "max_seq_length": "max_sequence_length",
    "packing": "packing",
}
_OUR_LORA_NAMES = {"lora_r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}

#: What a job's record holds beside them.
_UNMAPPED = ("n_evals", "n_checkpoints", "from_checkpoint", "from_hf_model", "hf_model_revision")

#: What a remote job holds in fields of its own; an import answers these keys by them.
_HELD = frozenset(
    (
        *_OUR_NAMES,
        *_UNMAPPED,
        *("gradient_accumulation_steps", "lr_scheduler", "training_type", "training_method", "train_on_inputs"),
        *("random_seed", "suffix", "model", "training_file", "validation_file"),
    )
)

#: Ids of a tuned model in the registry.
_REGISTRY = (
    "model_object_id",
    "model_object_revision_id",
    "adapter_object_id",
    "adapter_object_revision_id",
    "adapter_object_name",
)

_ERRORS = ("error", "legacy_ierror")
_LEVELS: dict[str, Literal["warning", "error"]] = {
    **dict.fromkeys(("warning", "legacy_iwarning"), "warning"),
    **dict.fromkeys(_ERRORS, "error"),
}


def read_state(status: str) -> tuple[RunState, tuple[str, ...]]:
    """Return our state for Together's word, and a warning when the word is new."""
    return core.read_state(status, STATES, "Together")


def points(rows: Iterable[Mapping[str, float]]) -> list[core.MetricPoint]:
    """Convert flat metric rows ({"train/loss": 0.5, "train/global_step": 7}) to points, in the order of their steps."""
    measured: list[core.MetricPoint] = []
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
            point = core.MetricPoint(
                step=int(step), series=series, value=float(value), epoch=epoch, source="vendor_api", raw_name=raw
            )
            measured.append(point)
    return sorted(measured, key=lambda point: (point.step, point.series))


def _number_named(row: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    return next((value for raw, value in row.items() if raw.rpartition("/")[2] in names), None)


def _event(index: int, row: Mapping[str, Any]) -> core.Event:
    """Convert an event. Its types are lower case in the API, whatever the SDK's enumeration says."""
    kind = str(row.get("type") or "event").lower()
    return core.Event(
        id=str(row.get("hash") or f"{row.get('created_at')}-{kind}-{row.get('step') or index}"),
        time=core.unix_seconds(row.get("created_at")) or 0.0,
        level=_LEVELS.get(str(row.get("level") or "").lower(), "info"),
        message=str(row.get("message") or kind),
    )


def snapshot(
    job: Mapping[str, Any],
    *,
    metrics: Iterable[Mapping[str, float]] = (),
    events: Sequence[Mapping[str, Any]] = (),
    checkpoints: Iterable[Mapping[str, Any]] = (),
    since: core.Cursor | None = None,
) -> core.Snapshot:
    """Convert a job: its record, the metric rows since the cursor, all events, all checkpoints."""
    status = str(job.get("status") or "")
    run_state, warnings = read_state(status)
    measured = points(metrics)
    reported = [_event(index, row) for index, row in enumerate(events)]
    cursor = since or {}
    event_count = cursor.get("events", 0)
    epoch = job.get("epochs_completed")
    estimate = job.get("progress") or {}
    return core.Snapshot(
        state=run_state,
        raw_state=status,
        progress=core.Progress(
            step=job.get("steps_completed"),
            total_steps=job.get("total_steps"),
            epoch=None if epoch is None else float(epoch),
            seconds_left=float(estimate["seconds_remaining"]) if estimate.get("estimate_available") else None,
        ),
        points=tuple(measured),
        events=tuple(reported[event_count:]),
        model=_model(job) if run_state is RunState.SUCCEEDED else None,
        checkpoints=tuple(_checkpoint(job, row) for row in checkpoints),
        billed=_billed(job),
        error=_failure(events, status) if run_state is RunState.FAILED else None,
        warnings=warnings,
        resolved=_resolved(job),
        not_reported=_not_reported(job),
        cursor={
            "step": max((point.step for point in measured), default=cursor.get("step")),
            "events": max(event_count, len(reported)),
        },
    )


def _model(job: Mapping[str, Any]) -> core.ModelRef | None:
    name = job.get("model_output_name")
    if not name:
        return None
    ids = {key: job[key] for key in _REGISTRY if job.get(key)}
    return core.ModelRef(id=str(name), base=job.get("model"), data={"job": job["id"], **ids})


def _checkpoint(job: Mapping[str, Any], row: Mapping[str, Any]) -> core.ModelRef:
    step = row.get("step")
    return core.ModelRef(
        id=f"{job['id']}:{step}",
        base=job.get("model"),
        data={"job": job["id"], "step": step, "type": row.get("checkpoint_type"), "path": row.get("path")},
    )


def _billed(job: Mapping[str, Any]) -> core.Billed | None:
    tokens, price = job.get("token_count"), job.get("total_price")
    if not tokens and not price:
        return None
    total = f"; total_price {price}, whose unit is not published" if price else ""
    return core.Billed(tokens=int(tokens) if tokens else None, source=f"Together job record: token_count{total}")


def _failure(events: Sequence[Mapping[str, Any]], status: str) -> str:
    for row in reversed(events):
        if str(row.get("level") or "").lower() in _ERRORS or "error" in str(row.get("type")).lower():
            return str(row.get("message"))
    return f"Together ended the job with state {status!r} and no message"


def _rename(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {
        our_name: values[vendor_name] for vendor_name, our_name in names.items() if values.get(vendor_name) is not None
    }


def _resolved(job: Mapping[str, Any]) -> dict[str, Any]:
    values = _rename(job, {**_OUR_NAMES, "random_seed": "seed"})
    lora = _rename(job.get("training_type") or {}, {**_OUR_LORA_NAMES, "lora_trainable_modules": "lora_target_modules"})
    return {name: value for name, value in values.items() if value != "max"} | lora


def _not_reported(job: Mapping[str, Any]) -> dict[str, str]:
    if not job.get("validation_file"):
        return {"validation/loss": "no validation rows were sent"}
    if not job.get("n_evals"):
        return {"validation/loss": "no evaluation was requested; set eval_every or provider_options n_evals"}
    return {}


def previews(answer: Mapping[str, Any], name: str) -> list[TokenPreview]:
    """Convert the service's preview of training rows: each token, and whether it is trained."""
    from llmtune.data.rendering.preview import Piece, TokenPreview

    rows = []
    for number, row in enumerate(answer.get("rows") or (), start=1):
        pieces = tuple(
            Piece(text, (id,), label != -100)
            for text, id, label in zip(row["tokens"], row["input_ids"], row["labels"], strict=True)
        )
        cut = ", cut" if row.get("truncated") else ""
        rows.append(TokenPreview(number, f"{name}{cut}", 0, pieces, row["num_tokens"], row["num_trained_tokens"]))
    return rows


# --- what the account owns -------------------------------------------------------------------------------------------
def remote_model(job: Mapping[str, Any]) -> core.RemoteModel | None:
    """Convert a finished job to a tuned model; None for one that names none."""
    if not job.get("model_output_name"):
        return None
    return core.RemoteModel(
        id=str(job["model_output_name"]),
        base=job.get("model"),
        job=str(job["id"]) if job.get("id") else None,
        created=core.unix_seconds(job.get("created_at")),
    )


def remote_job(job: Mapping[str, Any]) -> core.RemoteJob:
    """Convert a job's record to our hyperparameters; what has no name of ours is in `unmapped`."""
    values = _rename(job, _OUR_NAMES)
    unmapped = {name: job[name] for name in _UNMAPPED if job.get(name) is not None}
    chosen: dict[str, Any] = {}
    pieces = job.get("gradient_accumulation_steps")
    if not isinstance(values.get("batch_size"), int) and "batch_size" in values:
        chosen["batch_size"] = values.pop("batch_size")  # "max": as many rows as fit there
    elif "batch_size" in values and isinstance(pieces, int) and pieces > 1:
        values["batch_size"] *= pieces
        values["gradient_accumulation_steps"] = pieces
    schedule = job.get("lr_scheduler") or {}
    if schedule.get("lr_scheduler_type"):
        values["lr_schedule"] = schedule["lr_scheduler_type"]
    args = schedule.get("lr_scheduler_args") or {}
    values |= _rename(args, {"min_lr_ratio": "min_lr_ratio"})
    if schedule.get("lr_scheduler_type") == "cosine":
        values |= _rename(args, {"num_cycles": "lr_num_cycles"})
    training_type = job.get("training_type") or {}
    values |= _rename(training_type, _OUR_LORA_NAMES)
    if modules := training_type.get("lora_trainable_modules"):
        values["lora_target_modules"] = modules if modules == "all-linear" else modules.split(",")
    method = job.get("training_method") or {}
    inputs = method.get("train_on_inputs", job.get("train_on_inputs"))
    if isinstance(inputs, bool):
        values["prompt_loss_weight"] = float(inputs)
    elif inputs is not None:
        unmapped["train_on_inputs"] = inputs
    if method.get("dpo_beta"):
        values["dpo_beta"] = method["dpo_beta"]
    files = {"train": job.get("training_file"), "validation": job.get("validation_file")}
    return core.RemoteJob(
        id=str(job["id"]),
        model=str(job.get("model_output_name") or ""),
        base=str(job.get("model") or ""),
        method=str(method.get("method") or "sft"),
        hyperparameters=values,
        unmapped=unmapped | {name: method[name] for name in ("rpo_alpha", "simpo_gamma") if method.get(name)},
        chosen=chosen,
        seed=job.get("random_seed"),
        name=str(job["suffix"]) if job.get("suffix") else None,
        files={role: str(id) for role, id in files.items() if id},
        record={key: value for key, value in job.items() if key not in _HELD},
        data={"adapter": "full" if training_type.get("type") == "Full" else "lora"},
    )


def invalid_file(name: str, file: str, report: Mapping[str, Any]) -> InvalidData:
    """Return the error for a file that the service's own check refused."""
    why = (report.get("validation_report") or {}).get("error") or f"status {report.get('processing_status')}"
    return InvalidData(f"{name}: Together refused {file}: {why}", hint="llmtune data check --provider together FILE")


def read_prices(
    supported: Iterable[Mapping[str, Any]], hardware: Mapping[str, Any], models: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return prices by model: of answers as the model's entry states them, and of the cheapest certified hardware."""
    instances = hardware.get("data")
    hourly = {
        (str(instance.get("gpuType")), str(instance.get("gpuCount"))): instance["priceCentsPerHour"] / 100
        for instance in (instances if isinstance(instances, list) else ())
        if isinstance(instance, Mapping) and isinstance(instance.get("priceCentsPerHour"), (int, float))
    }
    by_model: dict[str, dict[str, float]] = {}
    for entry in supported:
        name = str(entry.get("name"))
        if name not in models:
            continue
        pricing = entry["pricing"] if isinstance(entry.get("pricing"), Mapping) else {}
        listed = entry.get("deploymentProfiles")
        profiles = [profile for profile in listed if isinstance(profile, Mapping)] if isinstance(listed, list) else []
        hosting = [hourly.get((str(profile.get("gpuType")), str(profile.get("gpuCount")))) for profile in profiles]
        stated = {
            "base_input": pricing.get("input"),
            "base_output": pricing.get("output"),
            "hosting": min((amount for amount in hosting if amount is not None), default=None),
        }
        by_model[name] = {price: amount for price, amount in stated.items() if isinstance(amount, (int, float))}
    return by_model
