"""The jobs of a sweep's trials: without the test rows, and with the trial's values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmtune._safety.private_files import make_private_folder
from llmtune.config import home
from llmtune.job.spec import DatasetSpec, Hyperparameters, TuningJob

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset


def without_test(job: TuningJob, dataset: Dataset, group: str) -> TuningJob:
    """Return the job on its training and validation rows alone: trials see no test rows, no panel and no judge."""
    from llmtune.data.convert import write

    folder = home() / "sweeps" / group.replace(" ", "-")
    paths: dict[str, str] = {}
    kind = {"preference": "preference", "text": "text"}.get(dataset.kind, "chat")
    for role, rows in (("train", dataset.train), ("validation", dataset.validation)):
        path = folder / f"{role}.jsonl"
        if not path.exists():
            make_private_folder(folder)
            temporary = folder / f"{role}.{os.getpid()}.jsonl"  # another worker may be writing it too
            write(rows, temporary, kind)
            temporary.replace(path)
        paths[role] = str(path)
    spec = DatasetSpec(
        train=paths["train"],
        validation=paths["validation"],
        split=(1.0, 0.0, 0.0),
        on_too_long=job.dataset.on_too_long,
    )
    evaluation = job.evaluation.model_copy(update={"panel": False, "judge": None})
    return job.model_copy(update={"dataset": spec, "evaluation": evaluation})


def with_params(job: TuningJob, params: Mapping[str, Any], provider: str) -> TuningJob:
    """Return the job with the values of a trial."""
    hyperparameters = {name: value for name, value in params.items() if name not in ("model", "provider")}
    changes: dict[str, Any] = {}
    if hyperparameters:
        merged = job.hyperparameters_for(provider).merged(Hyperparameters.model_validate(hyperparameters))
        changes["overrides"] = {**job.overrides, provider: merged}
    if "model" in params:
        changes["model"] = {provider: params["model"]}
    return job.model_copy(update=changes)


def settle_provider(job: TuningJob, provider: str) -> TuningJob:
    """Return a job for one provider, with its overrides and its model in their ordinary fields."""
    changes: dict[str, Any] = {
        "hyperparameters": job.hyperparameters_for(provider),
        "overrides": {name: values for name, values in job.overrides.items() if name != provider},
    }
    if isinstance(job.model, dict) and list(job.model) == [provider]:
        changes["model"] = job.model[provider]
    return job.model_copy(update=changes)
