"""How far a run has come: its counters, which continue after a resume, early stopping, and how a loop breaks off."""

from __future__ import annotations

from dataclasses import dataclass

from llmtune.errors import LlmtuneError


class Diverged(LlmtuneError):
    """The loss or its gradient is no longer a number."""


class Stopped(Exception):
    """The worker was asked to stop; a checkpoint has been written."""


@dataclass(slots=True)
class Progress:
    """The counters that continue after a resume."""

    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    fit_seconds: float = 0.0
    """Of steps, validations and checkpoints together, by which `max_time` counts."""

    sample_seconds: float = 0.0
    """Of the answers while training."""

    base_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    best_step: int = 0
    best_loss: float | None = None
    best_accuracy: float | None = None
    """The accuracy of the best step."""

    base_panel: float | None = None
    """Log-likelihood on the panel before the first step, in nats per token."""

    over_margin: int = 0
    """Validations at which more than `panel_margin` of it was lost."""

    highest_accuracy: float | None = None
    without_improvement: int = 0
    stopped_early: bool = False
    out_of_time: bool = False
    collapse: str = ""
    """Why further training would only do harm, in a clause; "" where it would not."""

    @property
    def is_over(self) -> bool:
        """Return whether the run ends before its last step."""
        return self.stopped_early or self.out_of_time or bool(self.collapse)

    def record_validation(
        self,
        loss: float,
        accuracy: float | None,
        *,
        threshold: float,
        patience: int,
        any_rise: bool,
        total: int,
        allowed: bool = True,
    ) -> bool:
        """Count a validation for early stopping; return whether its step is the best so far.

        `stopped_early` is set after `patience` validations without improvement, unless all `total` steps are done. With
        `any_rise` (the job leaves `eval_every` open) a new highest accuracy is an improvement too: with labels the loss
        is over a few tokens a row and rises with a model's confidence while it still learns. The best loss decides
        which step is kept, whatever the accuracy. A step that is not `allowed` is no improvement.
        """
        rises = False
        if accuracy is not None:
            highest = self.highest_accuracy if self.highest_accuracy is not None else -1.0
            rises = allowed and any_rise and accuracy > highest
            self.highest_accuracy = max(accuracy, highest)
        if allowed and (self.best_loss is None or loss < self.best_loss - threshold):
            self.best_loss, self.best_accuracy = loss, self.validation_accuracy
            self.best_step, self.without_improvement = self.step, 0
            return True
        self.without_improvement = 0 if rises else self.without_improvement + 1
        self.stopped_early = self.without_improvement >= patience and self.step < total
        return False
