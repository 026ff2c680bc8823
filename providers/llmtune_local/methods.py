"""Which trainer runs which method."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmtune_local.rundir import RunRequest
    from llmtune_local.trainer import Trainer


def trainer_for(request: RunRequest) -> type[Trainer]:
    """The trainer of the request's method."""
    if request.method == "dpo":
        from llmtune_local.dpo import PreferenceTrainer

        return PreferenceTrainer
    if request.method == "classification":
        from llmtune_local.classify import ClassificationTrainer

        return ClassificationTrainer
    from llmtune_local.trainer import Trainer

    return Trainer
