"""The tuned models of a job, which the job itself does not name: `fine_tuned_model` stays null here.

A model is known as "JOB:CHECKPOINT", which is the `source` of a registration; its weights are the checkpoint's files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmtune.provider import ModelRef, RemoteModel, unix_seconds
from llmtune_openai.responses import hyperparameters_of


def is_lora(job: Mapping[str, Any]) -> bool:
    """Return whether a job trained an adapter; the service's own default is all weights."""
    return bool(hyperparameters_of(job)[1].get("lora"))


def models_of(job: Mapping[str, Any], checkpoints: Iterable[Mapping[str, Any]]) -> list[ModelRef]:
    """Return the model of each checkpoint, oldest first; the last one of a job that has succeeded is its model."""
    listed = [entry for entry in checkpoints if entry.get("id")]
    listed.sort(key=lambda entry: (entry.get("step_number") or 0, entry.get("created_at") or 0))
    return [
        ModelRef(
            id=f"{job['id']}:{entry['id']}",
            base=str(job.get("model") or ""),
            data={
                "job": str(job["id"]),
                "checkpoint": str(entry["id"]),
                "step": entry.get("step_number"),
                "files": [str(id) for id in entry.get("result_files") or ()],
                "lora": is_lora(job),
            },
        )
        for entry in listed
    ]


def remote_model(job: Mapping[str, Any], models: Iterable[ModelRef]) -> RemoteModel | None:
    """Return the last of a job's models as the account holds it; None where there is none."""
    model = next(reversed(list(models)), None)
    if model is None:
        return None
    return RemoteModel(
        id=model.id, base=model.base, job=str(job["id"]), created=unix_seconds(job.get("finished_at")), data=model.data
    )
