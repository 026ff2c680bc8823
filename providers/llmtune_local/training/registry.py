"""The trainer of each method."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmtune_local.run_state.schema import RunRequest
    from llmtune_local.training.trainer import Trainer


def trainer_for(request: RunRequest) -> type[Trainer]:
    """Return the trainer of the request's method."""
    if request.method == "dpo":
        from llmtune_local.training.dpo_trainer import PreferenceTrainer

        return PreferenceTrainer
    if request.method == "classification":
        from llmtune_local.training.classification_trainer import ClassificationTrainer

        return ClassificationTrainer
    if request.method == "reinforcement":
        from llmtune_local.training.grpo_trainer import ReinforcementTrainer

        return ReinforcementTrainer
    from llmtune_local.training.trainer import Trainer

    return Trainer
