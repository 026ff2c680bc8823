"""What Bedrock says, in our words: states, payloads and CSV files as pure functions over plain data."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

import llmtune.provider as core
from llmtune_bedrock.errors import advice

#: Bedrock's words for the state of a job. The set is open: an unknown one means running, with a warning.
STATES: Mapping[str, core.RunState] = {
    "InProgress": core.RunState.RUNNING,
    "Completed": core.RunState.SUCCEEDED,
    "Failed": core.RunState.FAILED,
    "Stopping": core.RunState.CANCELLING,
    "Stopped": core.RunState.CANCELLED,
}

#: The three parts of a job that have a state of their own, in order.
PARTS = ("validationDetails", "dataProcessingDetails", "trainingDetails")
_PART_WORDS = {
    "validationDetails": "validation of the request",
    "dataProcessingDetails": "data processing",
    "trainingDetails": "training",
}

#: Where the curves lie under the job's folder; matched as endings, since AWS's pages and samples disagree.
CSV_KINDS = {"step_wise_training_metrics.csv": "train", "validation_metrics.csv": "validation"}

#: The mean reward of a reinforcement job. AWS's guide has the first names for its console (2026); that the columns
#: of its files are called so is unverified.
REWARD_COLUMNS = {
    "train": ("critic/rewards/mean", "critic_rewards_mean"),
    "validation": ("val-score/rewards/mean@1", "validation_reward_mean"),
}

NEVER_REPORTED = {
    "train/token_accuracy": "Bedrock reports losses and perplexity only",
    "validation/token_accuracy": "Bedrock reports losses and perplexity only",
}

#: Our hyperparameter for each of Bedrock's, and how its text is read.
_BACK: Mapping[str, tuple[str, type[int] | type[float]]] = {
    "epochCount": ("epochs", int),
    "batchSize": ("batch_size", int),
    "learningRate": ("learning_rate", float),
    "learningRateMultiplier": ("learning_rate_multiplier", float),
    "learningRateWarmupSteps": ("warmup_steps", int),
    "earlyStoppingPatience": ("early_stopping_patience", int),
    "earlyStoppingThreshold": ("early_stopping_threshold", float),
    "evalInterval": ("eval_every", int),
}


def read_state(status: str) -> tuple[core.RunState, tuple[str, ...]]:
    """Return our state for Bedrock's word, and a warning when the word is new."""
    return core.read_state(status, STATES, "Bedrock")


def snapshot(
    job: Mapping[str, Any], points: Iterable[core.MetricPoint] = (), *, validation_unused: str = ""
) -> core.Snapshot:
    """Convert a GetModelCustomizationJob answer, with the curves read from S3 when there are any.

    `validation_unused` says why validation rows are not used, for the families that do not.
    """
    status = str(job.get("status", "Unknown"))
    now, warnings = read_state(status)
    curves = list(points)
    final = list(final_points(job, curves))
    validators = (job.get("validationDataConfig") or {}).get("validators") or []
    missing = dict(NEVER_REPORTED)
    if not validators:
        reason = validation_unused or "no validation rows were sent"
        missing |= {"validation/loss": reason, "validation/perplexity": reason}
    model = None
    if arn := job.get("outputModelArn"):
        base = base_id(str(job.get("baseModelArn", "")))
        model = core.ModelRef(id=arn, base=base, data={"name": job.get("outputModelName")})
    if now is core.RunState.SUCCEEDED and not curves:
        warnings = (*warnings, "the curves in S3 could not be found: only the final losses are known")
    return core.Snapshot(
        state=now,
        raw_state=status,
        points=(*curves, *final),
        events=tuple(events(job)),
        model=model if now is core.RunState.SUCCEEDED else None,
        error=why_failed(job) if now is core.RunState.FAILED else None,
        warnings=warnings,
        resolved=hyperparameters(list_hyperparameters(job))[0],
        not_reported=missing,
    )


def why_failed(job: Mapping[str, Any]) -> str | None:
    """Return why a job failed, in AWS's words, with what can be done; else in which part of it."""
    if message := str(job.get("failureMessage") or ""):
        hint = advice(message)
        return f"{message.rstrip('.')} ({hint})" if hint else message
    details = job.get("statusDetails") or {}
    failed = [_PART_WORDS[part] for part in PARTS if (details.get(part) or {}).get("status") == "Failed"]
    return f"AWS does not say why; what failed is the {failed[0]}" if failed else None


def final_points(job: Mapping[str, Any], curves: Iterable[core.MetricPoint]) -> Iterable[core.MetricPoint]:
    """Yield the final losses. The API reports no step: they get the last step of the curve, or 0 without a curve."""
    last = dict.fromkeys(("train/loss", "validation/loss"), 0)
    for point in curves:
        if point.series in last:
            last[point.series] = max(last[point.series], point.step)
    losses = [("train/loss", (job.get("trainingMetrics") or {}).get("trainingLoss"), "trainingMetrics.trainingLoss")]
    for index, validator in enumerate(job.get("validationMetrics") or []):
        series = "validation/loss" if index == 0 else f"validation/loss_{index + 1}"
        losses.append((series, validator.get("validationLoss"), f"validationMetrics[{index}].validationLoss"))
    for series, value, raw in losses:
        if value is not None:
            yield core.MetricPoint(
                step=last.get(series, 0), series=series, value=float(value), source="vendor_api", raw_name=raw
            )


def curve(text: str, kind: str) -> list[core.MetricPoint]:
    """Read the points of a metrics CSV; `kind` is train or validation.

    Columns are found by name: step_number and epoch_number (from 0), training_loss or validation_loss, perplexity
    (not always there), or the mean reward. Line ends of any kind; rows that hold no number are passed over.
    """
    names = {
        f"{'training' if kind == 'train' else 'validation'}_loss": f"{kind}/loss",
        "perplexity": f"{kind}/perplexity",
        **dict.fromkeys(REWARD_COLUMNS[kind], f"{kind}/reward"),
    }
    points = []
    for row in csv.DictReader(io.StringIO(text.lstrip("\ufeff"), newline="")):
        cells = {
            (key or "").strip().lower(): (value or "") for key, value in row.items() if not isinstance(value, list)
        }
        step, epoch = core.read_number(cells.get("step_number")), core.read_number(cells.get("epoch_number"))
        if step is None or step < 0:
            continue
        for column, series in names.items():
            value = core.read_number(cells.get(column))
            if value is not None:
                points.append(
                    core.MetricPoint(
                        step=int(step),
                        series=series,
                        value=value,
                        epoch=epoch if epoch is not None and epoch >= 0 else None,
                        source="vendor_file",
                        raw_name=column,
                    )
                )
    return points


def events(job: Mapping[str, Any]) -> Iterable[core.Event]:
    """Yield the status details, one event per part and state, and the reason of a failed job."""
    arn = str(job.get("jobArn", ""))
    details = job.get("statusDetails") or {}
    for part in PARTS:
        detail = details.get(part) or {}
        status = detail.get("status")
        if status and status != "NotStarted":
            yield core.Event(
                id=f"{arn}:{part}:{status}",
                time=core.unix_seconds(detail.get("lastModifiedTime") or detail.get("creationTime")) or 0.0,
                level="error" if status == "Failed" else "info",
                message=f"{_PART_WORDS[part]}: {status}",
            )
    if message := job.get("failureMessage"):
        yield core.Event(
            id=f"{arn}:failure",
            time=core.unix_seconds(job.get("endTime") or job.get("lastModifiedTime")) or 0.0,
            level="error",
            message=str(message),
        )


def from_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an EventBridge "Model Customization Job State Change" event to GetModelCustomizationJob's answer.

    Raises ValueError for an event of another kind.
    """
    if event.get("detail-type") != "Model Customization Job State Change":
        raise ValueError(f"not a state change of a customization job: {event.get('detail-type')!r}")
    detail = dict(event["detail"])
    detail["status"] = detail.pop("jobStatus", None)
    config = detail.pop("validationDataConfig", None)
    if config:  # the event has one URI where the API has a list of validators
        detail["validationDataConfig"] = {"validators": [config] if "s3Uri" in config else config.get("validators", [])}
    return detail


def list_hyperparameters(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a job's hyperparameters; those of a reinforcement job have a place of their own."""
    rft = (job.get("customizationConfig") or {}).get("rftConfig") or {}
    return rft.get("hyperParameters") or job.get("hyperParameters") or {}


def hyperparameters(sent: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return Bedrock's hyperparameters by our names, and those that have none."""
    return core.read_values(sent, _BACK)


#: What a remote job holds in fields of its own; an import answers these keys by them.
HELD = frozenset(
    ("modelName", "baseModelArn", "hyperParameters", "trainingDataConfig", "validationDataConfig", "ResponseMetadata")
)


def remote_model(entry: Mapping[str, Any]) -> core.RemoteModel:
    """Convert a custom model from the account's list."""
    base = entry.get("baseModelArn")
    return core.RemoteModel(
        id=entry["modelArn"],
        base=base_id(base) if base else None,
        created=core.unix_seconds(entry.get("creationTime")),
        data={"name": entry.get("modelName"), "status": entry.get("modelStatus")},
    )


def base_id(arn: str) -> str:
    """Return the base model's id in the ARN of a foundation or custom model; anything else as it is."""
    if ":custom-model/" in arn:
        return arn.rsplit(":custom-model/", 1)[-1].rpartition("/")[0]
    return arn.rsplit(":foundation-model/", 1)[-1]


def job_ref(arn: str, name: str) -> core.JobRef:
    """Return a reference to a job, with the address of its page in the console."""
    region = arn.split(":")[3] if arn.count(":") > 3 else ""
    console = f"https://{region}.console.aws.amazon.com/bedrock/home?region={region}#/custom-models"
    return core.JobRef(id=arn, data={"name": name}, url=console if region else None)


def job_id(arn: str) -> str:
    """Return the last part of a job's ARN, which names its folder in S3."""
    return arn.rsplit("/", 1)[-1]
