"""What SageMaker says, in our words: states, progress, events, metrics and models as pure functions over plain data."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

import llmtune.provider as core
from llmtune_bedrock import responses as bedrock
from llmtune_bedrock.declarations import RUN_TAG
from llmtune_sagemaker.declarations import ALPHA, BETA, CLIPPING, SAME
from llmtune_sagemaker.errors import advice
from llmtune_sagemaker.recipes import TECHNIQUES

#: SageMaker's words for the state of a job. The set is open: an unknown one means running, with a warning.
STATES: Mapping[str, core.RunState] = {
    **bedrock.STATES,
    "Deleting": core.RunState.CANCELLING,
}
#: Where its second word says more about a job in progress.
_IN_PROGRESS: Mapping[str, core.RunState] = {
    "Starting": core.RunState.QUEUED,
    "Pending": core.RunState.QUEUED,
    "Uploading": core.RunState.FINALIZING,
}
#: Second words of a job that was stopped by a limit of its own and by nobody's wish.
_LIMITS = ("MaxRuntimeExceeded", "MaxWaitTimeExceeded")

#: Names under which recipes report what has a series of its own; of any other the name is kept.
_SERIES: Mapping[str, str] = {
    **dict.fromkeys(("train_loss", "training_loss", "loss", "train/loss", "train:loss"), "train/loss"),
    **dict.fromkeys(
        ("eval_loss", "val_loss", "validation_loss", "val/loss", "eval/loss", "validation:loss", "validation/loss"),
        "validation/loss",
    ),
    **dict.fromkeys(("lr", "learning_rate", "train/lr", "train/learning_rate"), "train/learning_rate"),
    **dict.fromkeys(("grad_norm", "train/grad_norm"), "train/grad_norm"),
    # Reinforcement: VERL's names, which Bedrock's guide has too (AWS, Create and manage fine-tuning jobs, 2026).
    **dict.fromkeys(("critic/rewards/mean", "train/reward"), "train/reward"),
    **dict.fromkeys(("val/reward/mean", "validation/reward"), "validation/reward"),
}

#: VERL puts the data source and the number of answers into the name: "val-core/llmtune/reward/mean@1".
_VALIDATION_REWARD = re.compile(r"val-(core|score)/(llmtune/)?rewards?/mean@1")

#: Our hyperparameter for each of a recipe's, and how its text is read.
_READ: Mapping[str, type[int] | type[float] | type[str]] = {
    "max_epochs": int,
    "max_steps": int,
    "global_batch_size": int,
    "learning_rate": float,
    "lr_scheduler": str,
    "lr_warmup_steps_ratio": float,
    "warmup_steps": int,
    "weight_decay": float,
    "lora_rank": int,
    "lora_dropout": float,
    "dataset_max_len": int,
    "save_steps": int,
}
_BACK: Mapping[str, tuple[str, Any]] = {
    **{own: (name, _READ[own]) for name, own in SAME.items() if own in _READ},
    ALPHA: ("lora_alpha", float),
    CLIPPING: ("max_grad_norm", float),
    BETA: ("dpo_beta", float),
}

#: What a remote job holds in fields of its own; an import answers these keys by them.
HELD = frozenset(
    (
        *("TrainingJobName", "HyperParameters", "InputDataConfig", "ServerlessJobConfig", "Tags", "ResponseMetadata"),
        *("BaseModelArn", "CustomizationTechnique", "SequenceLength"),
    )
)


def read_state(status: str, detail: str = "") -> tuple[core.RunState, tuple[str, ...]]:
    """Return our state for SageMaker's word and its second word (`detail`), and a warning when the first is new."""
    found, warnings = core.read_state(status, STATES, "SageMaker")
    if status == "InProgress":
        found = _IN_PROGRESS.get(detail, found)
    elif status == "Stopped" and detail in _LIMITS:
        found = core.RunState.FAILED
    return found, warnings


def series(name: str) -> str:
    """Return the series of a metric, by the name that the recipe gives it."""
    known = _SERIES.get(name.lower())
    if known:
        return known
    if _VALIDATION_REWARD.fullmatch(name.lower()):
        return "validation/reward"
    return name if name.startswith(("train/", "validation/")) else f"train/{name}"


def snapshot(job: Mapping[str, Any], curves: Iterable[core.MetricPoint] = ()) -> core.Snapshot:
    """Convert a DescribeTrainingJob answer, with the curves of MLflow when there are any."""
    status, detail = str(job.get("TrainingJobStatus", "Unknown")), str(job.get("SecondaryStatus") or "")
    now, warnings = read_state(status, detail)
    technique = (job.get("ServerlessJobConfig") or {}).get("CustomizationTechnique")
    channels = [str(channel.get("ChannelName")) for channel in job.get("InputDataConfig") or () if channel]
    missing = {"train/token_accuracy": "the recipes report losses only"}
    if "validation" not in channels and technique != "RLVR":
        missing["validation/loss"] = "no validation rows were sent"
    points = [*curves]
    done = progress(job)
    values, _ = hyperparameters(job.get("HyperParameters") or {})
    return core.Snapshot(
        state=now,
        raw_state=f"{status} ({detail})" if detail and detail != status else status,
        progress=done,
        points=(*points, *final_points(job, {point.series for point in points}, done)),
        events=tuple(events(job)),
        model=tuned_model(job) if now is core.RunState.SUCCEEDED else None,
        billed=billed(job),
        error=why_failed(job) if now is core.RunState.FAILED else None,
        warnings=warnings,
        resolved=values,
        not_reported=missing,
    )


def progress(job: Mapping[str, Any]) -> core.Progress:
    """Return how far the job is. SageMaker does not say whether it counts steps anew in each epoch: both are read."""
    info = job.get("ProgressInfo") or {}
    step, each = _count(info.get("CurrentStep")), _count(info.get("TotalStepCountPerEpoch"))
    epoch, epochs = _count(info.get("CurrentEpoch")), _count(info.get("MaxEpoch"))
    if step is None:
        return core.Progress()
    total = each * epochs if each and epochs else None
    if each and epoch and step <= each:
        step += (epoch - 1) * each
    if total is not None:
        step = min(step, total)
    return core.Progress(step=step, total_steps=total, epoch=step / each if each else None)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def final_points(job: Mapping[str, Any], drawn: Container[str], done: core.Progress) -> Iterable[core.MetricPoint]:
    """Yield the final metrics of a job that has ended, but for the series whose curves are `drawn` already.

    They come without a step and get the run's last one.
    """
    if not read_state(str(job.get("TrainingJobStatus")))[0].final:
        return
    for metric in job.get("FinalMetricDataList") or ():
        name, value = metric.get("MetricName"), core.read_number(metric.get("Value"))
        title = series(str(name))
        if name and value is not None and title not in drawn:
            yield core.MetricPoint(
                step=done.total_steps or done.step or 0,
                series=title,
                value=value,
                time=core.unix_seconds(metric.get("Timestamp")),
                source="vendor_api",
                raw_name=str(name),
            )


def events(job: Mapping[str, Any]) -> Iterable[core.Event]:
    """Yield the transitions of the second word, one event each, and the reason of a failed job."""
    name = str(job.get("TrainingJobName", ""))
    for index, step in enumerate(job.get("SecondaryStatusTransitions") or ()):
        status, message = str(step.get("Status") or ""), str(step.get("StatusMessage") or "")
        if status:
            yield core.Event(
                id=f"{name}:{index}:{status}",
                time=core.unix_seconds(step.get("StartTime")) or 0.0,
                level="error" if status == "Failed" else "warning" if status in _LIMITS else "info",
                message=f"{status}: {message}" if message else status,
            )
    if reason := job.get("FailureReason"):
        yield core.Event(
            id=f"{name}:failure",
            time=core.unix_seconds(job.get("TrainingEndTime") or job.get("LastModifiedTime")) or 0.0,
            level="error",
            message=str(reason),
        )


def why_failed(job: Mapping[str, Any]) -> str | None:
    """Return why a job has no model, in AWS's words, with what can be done."""
    message = str(job.get("FailureReason") or "")
    if message:
        hint = advice(message)
        return f"{message.rstrip('.')} ({hint})" if hint else message
    if job.get("SecondaryStatus") in _LIMITS:
        return f"{job['SecondaryStatus']}: the job's time limit ended it (option max_runtime_seconds)"
    return None


def billed(job: Mapping[str, Any]) -> core.Billed | None:
    """Return the training tokens that AWS bills for the job, once it tells."""
    tokens = _count(job.get("BillableTokenCount"))
    return None if tokens is None else core.Billed(tokens=tokens, source="DescribeTrainingJob, BillableTokenCount")


def tuned_model(job: Mapping[str, Any]) -> core.ModelRef | None:
    """Return the model of a job: its model package, else its artefact in S3; None while there is neither."""
    artefacts = (job.get("ModelArtifacts") or {}).get("S3ModelArtifacts")
    id = job.get("OutputModelPackageArn") or artefacts
    if not id:
        return None
    serverless = job.get("ServerlessJobConfig") or {}
    data = {
        "job": job.get("TrainingJobName"),
        "artefacts": artefacts,
        "adapter": "lora" if serverless.get("Peft") else "full",
    }
    return core.ModelRef(id=str(id), base=base_id(str(serverless.get("BaseModelArn") or "")), data=data)


def hyperparameters(sent: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a recipe's hyperparameters by our names, and those that have none."""
    return core.read_values({name: value for name, value in sent.items() if name != "seed"}, _BACK)


def base_id(arn: str) -> str:
    """Return the model's name in the ARN of a model of the public hub; anything else as it is."""
    return arn.split("/Model/", 1)[1].split("/", 1)[0] if "/Model/" in arn else arn


def job_name(id: str) -> str:
    """Return a job's name, which is also the last part of its ARN."""
    return id.rsplit("/", 1)[-1]


def job_ref(name: str, region: str) -> core.JobRef:
    """Return a reference to a job, with the address of its page in the console."""
    console = f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/jobs/{name}"
    return core.JobRef(id=name, data={"name": name}, url=console)


def remote_model(entry: Mapping[str, Any]) -> core.RemoteModel:
    """Convert a model package from the account's list."""
    return core.RemoteModel(
        id=entry["ModelPackageArn"],
        created=core.unix_seconds(entry.get("CreationTime")),
        data={"group": entry.get("ModelPackageGroupName"), "status": entry.get("ModelPackageStatus")},
    )


def remote_job(job: Mapping[str, Any], model: str) -> core.RemoteJob:
    """Convert the job behind a model package."""
    values, unmapped = hyperparameters(job.get("HyperParameters") or {})
    serverless = job.get("ServerlessJobConfig") or {}
    technique = str(serverless.get("CustomizationTechnique") or "SFT")
    method = next((name for name, word in TECHNIQUES.items() if word == technique), technique)
    files = {}
    for channel in job.get("InputDataConfig") or ():
        uri = ((channel.get("DataSource") or {}).get("S3DataSource") or {}).get("S3Uri")
        if uri and channel.get("ChannelName") in ("train", "validation"):
            files[channel["ChannelName"]] = uri
    seed = core.read_number((job.get("HyperParameters") or {}).get("seed"))
    tags = {str(tag["Key"]): str(tag["Value"]) for tag in job.get("Tags") or () if tag.get("Key") != RUN_TAG}
    return core.RemoteJob(
        id=str(job["TrainingJobName"]),
        model=model,
        base=base_id(str(serverless.get("BaseModelArn") or "")),
        method=method,
        hyperparameters=values,
        unmapped=unmapped,
        seed=int(seed) if seed is not None and 0 <= seed < 2**53 else None,
        files=files,
        name=str(job["TrainingJobName"]),
        tags=tags,
        options={"sequence_length": length} if (length := serverless.get("SequenceLength")) else {},
        names={"sequence_length": "SequenceLength"},
        record={key: value for key, value in {**serverless, **job}.items() if key not in HELD},
        data={"adapter": "lora" if serverless.get("Peft") else "full"},
    )


def package_artefacts(package: Mapping[str, Any]) -> str | None:
    """Return where a model package's weights lie; None where it does not say."""
    for container in (package.get("InferenceSpecification") or {}).get("Containers") or ():
        source = (container.get("ModelDataSource") or {}).get("S3DataSource") or {}
        if uri := source.get("S3Uri") or container.get("ModelDataUrl"):
            return str(uri)
    return None
