"""What Vertex AI says, in our words: job states, payloads and metric names as pure functions over plain JSON data.

Whole numbers arrive as text from the REST API and as numbers from google-genai; both are read. Google's documentation
shows a sample answer that the service never gives (`status`, `tuning_data_statistics`, misspelt keys): nothing here
reads those names, so such an answer has no state and no numbers, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import llmtune.provider as core
from llmtune_vertex.declarations import ADAPTER_SIZES

#: All twelve states. The SDK's own `has_ended` misses PARTIALLY_SUCCEEDED.
STATES: Mapping[str, core.RunState] = {
    "JOB_STATE_UNSPECIFIED": core.RunState.RUNNING,
    "JOB_STATE_QUEUED": core.RunState.QUEUED,
    "JOB_STATE_PENDING": core.RunState.QUEUED,
    "JOB_STATE_RUNNING": core.RunState.RUNNING,
    "JOB_STATE_SUCCEEDED": core.RunState.SUCCEEDED,
    "JOB_STATE_FAILED": core.RunState.FAILED,
    "JOB_STATE_CANCELLING": core.RunState.CANCELLING,
    "JOB_STATE_CANCELLED": core.RunState.CANCELLED,
    "JOB_STATE_PAUSED": core.RunState.PAUSED,
    "JOB_STATE_EXPIRED": core.RunState.FAILED,
    "JOB_STATE_UPDATING": core.RunState.RUNNING,
    "JOB_STATE_PARTIALLY_SUCCEEDED": core.RunState.SUCCEEDED,
}

#: What a job does while it is queued or running, told as events.
SUB_STATES: Mapping[str, str] = {
    "TUNING_JOB_STATE_WAITING_FOR_QUOTA": "waiting for quota",
    "TUNING_JOB_STATE_PROCESSING_DATASET": "processing the dataset",
    "TUNING_JOB_STATE_WAITING_FOR_CAPACITY": "waiting for capacity",
    "TUNING_JOB_STATE_TUNING": "tuning",
    "TUNING_JOB_STATE_POST_PROCESSING": "post-processing",
}

#: Google's metric names -> ours (supervised: Google Cloud, Tuning and validation metrics, 2026; preference: third-party
#: notes checked against Google's pages, 2026-07; reinforcement: Google names rewards among its charts, and their exact
#: names are unverified).
SERIES: Mapping[str, str] = {
    "/train_total_loss": "train/loss",
    "/train_fraction_of_correct_next_step_preds": "train/token_accuracy",
    "/train_num_predictions": "train/tokens",
    "/eval_total_loss": "validation/loss",
    "/eval_fraction_of_correct_next_step_preds": "validation/token_accuracy",
    "/eval_num_predictions": "validation/tokens",
    "/preference_optimization_train_loss": "train/loss",
    "/train_reward_mean": "train/reward",
    "/eval_reward_mean": "validation/reward",
}

_SPECS = {
    "supervisedTuningSpec": "sft",
    "preferenceOptimizationSpec": "dpo",
    "distillationSpec": "distillation",
    "reinforcementTuningSpec": "reinforcement",
    "partnerModelTuningSpec": "sft",
}
_STATS = ("supervisedTuningDataStats", "preferenceOptimizationDataStats", "reinforcementTuningDataStats")
_SIZES = {enum_name: size for size, enum_name in ADAPTER_SIZES.items()}
_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "epochCount": ("epochs", int),
    "batchSize": ("batch_size", int),
    "learningRate": ("learning_rate", float),
    "learningRateMultiplier": ("learning_rate_multiplier", float),
    "beta": ("dpo_beta", float),
    "adapterSize": ("lora_rank", _SIZES.__getitem__),
    "stepCount": ("max_steps", int),
    "evaluateInterval": ("eval_every", int),
    "checkpointInterval": ("checkpoint_every", int),
}

#: How many row numbers a warning names.
NAMED_ROWS = 10


def read_state(raw_state: str) -> tuple[core.RunState, tuple[str, ...]]:
    """Return the state that Google's word stands for, and a warning if the word is new or means nothing."""
    if not raw_state or raw_state == "JOB_STATE_UNSPECIFIED":
        return core.RunState.RUNNING, ("Vertex AI's answer names no state: taken as running",)
    if raw_state == "JOB_STATE_PARTIALLY_SUCCEEDED":
        return core.RunState.SUCCEEDED, ("the job succeeded in part only: look at its error and its model",)
    return core.read_state(raw_state, STATES, "Vertex AI")


def snapshot(job: Mapping[str, Any], points: Iterable[core.MetricPoint] = ()) -> core.Snapshot:
    """Convert a TuningJob, with the curves that were read for it."""
    raw_state = str(job.get("state") or "")
    now, warnings = read_state(raw_state)
    spec = spec_of(job)
    model = tuned_model(job)
    messages = list(warnings)
    if now is core.RunState.FAILED and model is not None:
        messages.append("the job failed but left a usable model")
    messages += data_warnings(job)
    missing: dict[str, str] = {}
    if not spec.get("validationDatasetUri"):
        if job.get("reinforcementTuningSpec"):
            names = []  # Google holds rows of its own out, and evaluates on those
        else:
            names = [name for name in dict.fromkeys(SERIES.values()) if name.startswith("validation/")]
        missing = dict.fromkeys(names, "no validation rows were sent")
    error = job.get("error") or {}
    reason = f"{error.get('message') or ''}".strip() or None
    if now is core.RunState.FAILED and reason is None:
        sub = SUB_STATES.get(str(job.get("tuningJobState") or ""))
        while_doing = f" (it was {sub})" if sub else ""
        reason = "it expired" if raw_state == "JOB_STATE_EXPIRED" else f"Vertex AI does not say why{while_doing}"
    return core.Snapshot(
        state=now,
        raw_state=raw_state,
        progress=progress(job),
        points=tuple(points),
        events=tuple(events(job)),
        model=model if now.final else None,
        checkpoints=tuple(checkpoints(job)) if now.final else (),
        billed=billed(job),
        error=reason if now is core.RunState.FAILED else None,
        warnings=tuple(messages),
        resolved=hyperparameters(spec)[0],
        not_reported=missing,
        pending=("the model's endpoint",) if now is core.RunState.SUCCEEDED and _lacks_endpoint(job) else (),
    )


def spec_of(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a job that says how it is tuned; empty if there is none that is known."""
    return next((job[name] for name in _SPECS if job.get(name)), {})


def stats_of(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the statistics of the tuning data; empty until the service reports them."""
    stats = job.get("tuningDataStats") or {}
    return next((stats[name] for name in _STATS if stats.get(name)), {})


def tuned_model(job: Mapping[str, Any]) -> core.ModelRef | None:
    """Return the tuned model: its endpoint for Gemini, its folder of weights for open models."""
    base = str(job.get("baseModel") or "") or None
    tuned = job.get("tunedModel") or {}
    if endpoint := tuned.get("endpoint"):
        return core.ModelRef(id=endpoint, base=base, data={"model": tuned.get("model"), "job": job.get("name")})
    if (output := job.get("outputUri")) and job.get("state") == "JOB_STATE_SUCCEEDED":
        folder = f"{output.rstrip('/')}/postprocess/node-0/checkpoints/final"
        return core.ModelRef(id=folder, base=base, data={"weights": True, "job": job.get("name")})
    if model := tuned.get("model"):
        return core.ModelRef(id=model, base=base, data={"model": model, "job": job.get("name")})
    return None


def _lacks_endpoint(job: Mapping[str, Any]) -> bool:
    """Return whether a tuned Gemini has its name and not yet its endpoint; weights of open models never have one."""
    tuned = job.get("tunedModel") or {}
    return bool(tuned.get("model")) and not tuned.get("endpoint") and not job.get("outputUri")


def checkpoints(job: Mapping[str, Any]) -> Iterator[core.ModelRef]:
    """Yield the exported checkpoints that have an endpoint."""
    base = str(job.get("baseModel") or "") or None
    for checkpoint in (job.get("tunedModel") or {}).get("checkpoints") or []:
        if checkpoint.get("endpoint"):
            facts = {"checkpoint_id": checkpoint.get("checkpointId"), "epoch": whole(checkpoint.get("epoch"))}
            yield core.ModelRef(
                id=checkpoint["endpoint"], base=base, data=facts | {"step": whole(checkpoint.get("step"))}
            )


def progress(job: Mapping[str, Any]) -> core.Progress:
    """Return the steps and epochs done, if the service reports them."""
    done = job.get("tuningJobMetadata") or {}
    epoch = whole(done.get("completedEpochCount"))
    return core.Progress(
        step=whole(done.get("completedStepCount")),
        total_steps=whole(stats_of(job).get("tuningStepCount")),
        epoch=float(epoch) if epoch is not None else None,
    )


def billed(job: Mapping[str, Any]) -> core.Billed | None:
    """Return the billed training tokens: those of one epoch times the epochs; None until both are known, and for a
    reinforcement job, of which Google does not say what it is billed by."""
    if job.get("reinforcementTuningSpec"):
        return None
    tokens = whole(stats_of(job).get("totalBillableTokenCount"))
    epochs = hyperparameters(spec_of(job))[0].get("epochs")
    if tokens is None or epochs is None:
        return None
    return core.Billed(
        tokens=tokens * epochs, source=f"tuningDataStats.totalBillableTokenCount ({tokens:,}) x {epochs} epochs"
    )


def data_warnings(job: Mapping[str, Any]) -> Iterator[str]:
    """Yield warnings of rows that the service cut or left out, by number if it reports them."""
    stats = stats_of(job)
    cut = whole(stats.get("totalTruncatedExampleCount")) or 0
    if cut:
        rows = [int(index) for index in stats.get("truncatedExampleIndices") or []]
        yield f"{cut} rows were longer than the limit and were truncated{_numbers(rows)}"
    reasons = stats.get("droppedExampleReasons") or []
    if reasons:
        rows = [int(index) for index in stats.get("droppedExampleIndices") or []]
        reason_text = "; ".join(dict.fromkeys(map(str, reasons)))
        yield f"{len(rows) or len(reasons)} rows were dropped{_numbers(rows)}: {reason_text}"


def _numbers(rows: list[int]) -> str:
    if not rows:
        return ""
    more = f" and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
    return f" (indices {', '.join(map(str, rows[:NAMED_ROWS]))}{more})"


def events(job: Mapping[str, Any]) -> Iterator[core.Event]:
    """Yield the sub-state and the error, each once."""
    name, when = str(job.get("name") or ""), core.unix_seconds(job.get("updateTime") or job.get("createTime")) or 0.0
    sub = str(job.get("tuningJobState") or "")
    if sub and not sub.endswith("UNSPECIFIED"):
        yield core.Event(id=f"{name}:{sub}", time=when, message=SUB_STATES.get(sub, sub))
    error = job.get("error") or {}
    if error.get("message"):
        yield core.Event(id=f"{name}:error", time=when, level="error", message=str(error["message"]))


def hyperparameters(spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the service's hyperparameters by our names, and those that have none."""
    values, unmapped = core.read_values(spec.get("hyperParameters") or {}, _FIELDS)
    if spec.get("exportLastCheckpointOnly"):
        values["keep_checkpoints"] = 1
    return values, unmapped


def remote_model(job: Mapping[str, Any]) -> core.RemoteModel | None:
    """Convert a job to its tuned model; None for a job without one."""
    model = tuned_model(job)
    if model is None:
        return None
    return core.RemoteModel(
        id=model.id,
        base=model.base,
        job=job.get("name"),
        created=core.unix_seconds(job.get("endTime") or job.get("createTime")),
        data={**model.data, "name": job.get("tunedModelDisplayName")},
    )


#: What a remote job holds in fields of its own; an import answers these keys by them.
_HELD = frozenset(("baseModel", "preTunedModel", "tunedModelDisplayName", *_SPECS))
_SPEC_HELD = frozenset(("hyperParameters", "trainingDatasetUri", "validationDatasetUri", "exportLastCheckpointOnly"))


def remote_job(job: Mapping[str, Any]) -> core.RemoteJob:
    """Convert a job: base, hyperparameters and files."""
    spec = spec_of(job)
    values, unmapped = hyperparameters(spec)
    uris = {"train": spec.get("trainingDatasetUri"), "validation": spec.get("validationDatasetUri")}
    model = tuned_model(job)
    method = next((method_name for name, method_name in _SPECS.items() if job.get(name)), "sft")
    return core.RemoteJob(
        id=str(job.get("name") or ""),
        model=model.id if model else "",
        base=str(job.get("baseModel") or (job.get("preTunedModel") or {}).get("tunedModelName") or ""),
        method=method,
        hyperparameters=values,
        unmapped=unmapped,
        files={role: str(uri) for role, uri in uris.items() if uri},
        name=job.get("tunedModelDisplayName"),
        record={key: value for key, value in job.items() if key not in _HELD}
        | {key: value for key, value in spec.items() if key not in _SPEC_HELD},
        data={"mode": spec.get("tuningMode")},
    )


def series(raw: str) -> str:
    """Return our name for one of Google's curves; one without keeps its own, under train/ or validation/."""
    if raw in SERIES:
        return SERIES[raw]
    name = raw.lstrip("/")
    return f"validation/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


def job_ref(job: Mapping[str, Any]) -> core.JobRef:
    """Return a reference to a job, with the address of its page in the console."""
    name = str(job["name"])
    _, project, _, location, _, id = name.split("/")
    url = f"https://console.cloud.google.com/vertex-ai/tuning/locations/{location}/tuningJob/{id}/monitor"
    return core.JobRef(id=name, url=f"{url}?project={project}")


def location_of(name: str) -> str | None:
    """Return the location in a resource name."""
    parts = name.split("/")
    return parts[parts.index("locations") + 1] if "locations" in parts[:-1] else None


def whole(value: Any) -> int | None:
    """Return a whole number, which REST spells as text; None if there is none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
