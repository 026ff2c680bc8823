"""The jobs of a sweep: without the test rows, and with a trial's values."""

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
    """The job on its training and validation rows alone: trials never see the test rows."""
    from llmtune.data.convert import write

    folder = home() / "sweeps" / group.replace(" ", "-")
    paths: dict[str, str] = {}
    kind = {"preference": "preference", "text": "text"}.get(dataset.kind, "chat")
    for role, rows in (("train", dataset.train), ("validation", dataset.validation)):
        path = folder / f"{role}.jsonl"
        if not path.exists():
            make_private_folder(folder)
            mine = folder / f"{role}.{os.getpid()}.jsonl"  # another worker may be writing it too
            write(rows, mine, kind)
            mine.replace(path)
        paths[role] = str(path)
    spec = DatasetSpec(
        train=paths["train"],
        validation=paths["validation"],
        split=(1.0, 0.0, 0.0),
        on_too_long=job.dataset.on_too_long,
    )
    return job.model_copy(update={"dataset": spec})


def with_params(job: TuningJob, params: Mapping[str, Any], provider: str) -> TuningJob:
    """The job with a trial's values."""
    own = {name: value for name, value in params.items() if name not in ("model", "provider")}
    changes: dict[str, Any] = {}
    if own:
        laid = job.hyperparameters_for(provider).merged(Hyperparameters.model_validate(own))
        changes["overrides"] = {**job.overrides, provider: laid}
    if "model" in params:
        changes["model"] = {provider: params["model"]}
    return job.model_copy(update=changes)
