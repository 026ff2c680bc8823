"""How long a run on this machine takes, estimated before it is started."""

from __future__ import annotations

from collections.abc import Callable

from llmtune._models import DocumentedModel, FrozenModel


class MeasuredSpeed(FrozenModel):
    """How fast an earlier run of the same model, method and adapter was on the same device.

    `run` names it. Tokens are counted as in plans, over all of its time but the evaluation.
    """

    run: str
    tokens: int
    """Tokens that it trained: those of a speed over few tokens are mostly the start of the run."""

    tokens_per_second: float
    """Training speed, rows of validation included."""

    seconds_per_question: float | None = None
    """Seconds of its evaluation by row and model that was asked; None where it was not evaluated."""


#: From a device ("cpu", "cuda") to what an earlier run has measured on it; None where there was none.
FindSpeed = Callable[[str], MeasuredSpeed | None]


class Span(FrozenModel):
    """A time between `low` and `high` seconds."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(low=self.low + other.low, high=self.high + other.high)

    def __str__(self) -> str:
        unit, size = _choose_unit(self.high)
        low, high = (_round(seconds / size) for seconds in (self.low, self.high))
        if low == high:
            return f"{high} {unit}" if high != "1" else f"1 {unit.removesuffix('s')}"
        return f"{low} to {high} {unit}"


def _choose_unit(seconds: float) -> tuple[str, float]:
    if seconds < 100:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 100 * 60 else ("hours", 3600.0)


def _round(value: float) -> str:
    """Round to a whole number, at least 1."""
    return str(max(1, round(value)))


class Duration(DocumentedModel):
    """An estimate of a run's time in seconds, and where it comes from."""

    training: Span | None = None
    """From the start of its process to the result; None where it cannot be estimated."""

    evaluation: Span | None = None
    """Asking the models the test rows; None where nothing is evaluated."""

    source: str = ""
    """What it was computed from, in words."""

    measured: bool = False
    """Whether an earlier run on this machine has measured the speed; else it is rough."""

    unknown: str = ""
    """Why there is no estimate."""

    @property
    def total(self) -> Span | None:
        """The whole time."""
        if self.training is None or self.evaluation is None:
            return self.training
        return self.training + self.evaluation

    def sentence(self) -> str:
        """Describe the estimate: "about 3 to 8 minutes (training ..., evaluation ...), rough: ..."."""
        if self.total is None:
            return f"not estimated ({self.unknown})"
        parts = f" (training {self.training}, evaluation {self.evaluation})" if self.evaluation is not None else ""
        return f"about {self.total}{parts}, {self.source}"
