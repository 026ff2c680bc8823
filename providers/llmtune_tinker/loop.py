"""A training loop as a service: the protocol of a vendor that runs forward and backward passes, and nothing else.

The order of rows, their weights, the learning rate of each step, validation, stopping and checkpoints are decided here
(`trainer.py`); a driver such as `tinker_loop.py` makes a vendor's client look like `TrainingLoop`. A new vendor of this
family is one driver.

Steps have numbers, counted from 1 over the whole run. A driver counts them with `StepCounter`, so that no step is
applied twice and none is left out: a loop that was opened from the state after step N takes step N + 1 next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

from llmtune.errors import LlmtuneError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_Value = TypeVar("_Value", covariant=True)

#: How a loop ended, as it is reported to the vendor.
Outcome = Literal["success", "errored", "interrupted"]

#: A loss that is computed on this machine: the log-likelihood of each target, one tensor a row, to one number. Its
#: gradient by them is what the vendor trains on.
CustomLoss: TypeAlias = "Callable[[Sequence[Tensor]], Tensor]"

#: The name of such losses among a loop's `LoopLimits.losses`.
CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class LoopRow:
    """One sequence: position i of `inputs` is trained on `targets[i]` with `weights[i]`. All [tokens]."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass over rows reports."""

    loss_sum: float
    """The sum of weight times negative log-likelihood over the rows, in nats; of a custom loss, its value."""

    log_likelihoods: tuple[NDArray[np.float64], ...] | None = None
    """In nats, of each target token, row by row; None where the vendor leaves them out."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an optimizer step reports; `grad_norm` is None where the vendor does not say."""

    grad_norm: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamSettings:
    """AdamW's settings of one step; `grad_clip_norm` 0 is off."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    grad_clip_norm: float


class Pending(Protocol[_Value]):
    """A call that was sent and whose answer is awaited by `result`, so that two calls share one cycle of the vendor."""

    def result(self) -> _Value:
        """Wait for the answer. Raises `LlmtuneError` in the vendor's own words, and `Stopped` where the run was asked
        to stop while the vendor has paused it."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopLimits:
    """What a loop can do: the names of its `losses`, and the longest row in tokens; None where the request says it."""

    losses: frozenset[str]
    max_row_tokens: int | None = None


class TrainingLoop(Protocol):
    """A model that is being trained at a vendor. One process uses it, and one call after the other is made."""

    limits: LoopLimits

    def open(self, state: str | None, step: int) -> None:
        """Open a new model, or one from a saved state with its optimizer, after `step` steps of the run."""
        ...

    def forward_backward(self, step: int, rows: Sequence[LoopRow]) -> Pending[PassResult]:
        """Add the gradient of these rows by weighted cross-entropy. Raises `StepOutOfOrder`."""
        ...

    def forward_backward_custom(self, step: int, rows: Sequence[LoopRow], loss: CustomLoss) -> Pending[PassResult]:
        """Add the gradient of a loss that is computed here. The vendor's losses must have `CUSTOM`.

        Two passes: one for the log-likelihoods, then weighted cross-entropy, whose weight for each token is minus the
        loss's derivative by its log-likelihood. What `loss` raises comes out of `result`. Raises `StepOutOfOrder`.
        """
        ...

    def optimizer_step(self, step: int, settings: AdamSettings) -> Pending[StepResult]:
        """Update the weights by the gradient of this step, once. Raises `StepOutOfOrder`."""
        ...

    def forward(self, rows: Sequence[LoopRow]) -> PassResult:
        """Measure rows without a gradient."""
        ...

    def save(self, name: str) -> str:
        """Save weights and optimizer; return the address from which `open` continues."""
        ...

    def save_for_sampling(self, name: str) -> str:
        """Save weights that answer; return their address."""
        ...

    def save_for_download(self, name: str) -> str:
        """Save weights as files to take home; return their address."""
        ...

    def delete(self, address: str) -> None:
        """Remove what was saved; quietly done when it is gone."""
        ...

    def close(self, outcome: Outcome, detail: str) -> None:
        """End the session, so that nothing of it stays open."""
        ...


class StepOutOfOrder(LlmtuneError):
    """A step was to be applied twice, or one was left out: a mistake of the loop, never sent to a vendor."""


@dataclass
class StepCounter:
    """The order of steps: each gets its gradient once, then its update once."""

    applied: int = 0
    """Steps whose update was sent."""

    _gradient: int | None = field(default=None, init=False)

    def start_gradient(self, step: int) -> None:
        """Note that the gradient of a step is sent."""
        if step != self.applied + 1 or self._gradient is not None:
            raise StepOutOfOrder(f"the gradient of step {step} cannot follow {self._describe()}")
        self._gradient = step

    def start_update(self, step: int) -> None:
        """Note that the update of a step is sent."""
        if step != self._gradient:
            raise StepOutOfOrder(f"the update of step {step} cannot follow {self._describe()}")
        self.applied, self._gradient = step, None

    def _describe(self) -> str:
        return f"step {self.applied}" if self._gradient is None else f"the gradient of step {self._gradient}"


def count_tokens(rows: Sequence[LoopRow]) -> int:
    """Count the tokens that go to the vendor."""
    return sum(len(row.inputs) for row in rows)
