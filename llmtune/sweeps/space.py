"""The search space: ranges and choices of hyperparameters, checked before anything is run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llmtune._models import FrozenModel
from llmtune.errors import InvalidJob, did_you_mean
from llmtune.job.spec import Hyperparameters

if TYPE_CHECKING:
    import optuna

#: Fields that are searched on a logarithmic scale.
_LOG = ("learning_rate", "learning_rate_multiplier", "weight_decay", "adam_epsilon", "dpo_beta")

#: Values that a grid takes from a range.
GRID_POINTS = 4


class Range(FrozenModel):
    """All values between two bounds, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Return a value chosen by the study's sampler."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def describe(self) -> str:
        """Return the range in words: "2e-05 to 0.002, on a logarithmic scale"."""
        return f"{self.low:g} to {self.high:g}" + (", on a logarithmic scale" if self.log else "")

    def grid_points(self) -> list[Any]:
        """Return the values that a grid search tries."""
        if self.whole and self.high - self.low < GRID_POINTS:
            return list(range(int(self.low), int(self.high) + 1))
        fractions = [index / (GRID_POINTS - 1) for index in range(GRID_POINTS)]
        if self.log:
            values = [
                math.exp(math.log(self.low) + fraction * math.log(self.high / self.low)) for fraction in fractions
            ]
        else:
            values = [self.low + fraction * (self.high - self.low) for fraction in fractions]
        values[0], values[-1] = self.low, self.high
        return sorted({round(value) for value in values}) if self.whole else values


class Choice(FrozenModel):
    """One of some values."""

    values: tuple[Any, ...]

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Return a value chosen by the study's sampler."""
        return trial.suggest_categorical(name, list(self.values))

    def describe(self) -> str:
        """Return the choice in words: "8, 16 or 32"."""
        texts = [str(value) for value in self.values]
        return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"

    def grid_points(self) -> list[Any]:
        """Return the values that a grid search tries."""
        return list(self.values)


Space = dict[str, Range | Choice]


def to_definitions(space: Space) -> dict[str, Any]:
    """Return the space in the form that `resolve` takes, as a caller would have written it."""
    return {
        name: list(part.values) if name == "provider" and isinstance(part, Choice) else part
        for name, part in space.items()
    }


def read_space(definitions: Mapping[str, Any]) -> Space:
    """Read a space given in Python: a tuple (low, high) is a `Range`, a list a `Choice`; both may be given as well.

    Besides hyperparameters, "model" may be searched. Raises `InvalidJob` for a field that does not exist, a value that
    is invalid for its field, or a lower bound that is not below the upper one.
    """
    if not definitions:
        raise InvalidJob("there is nothing to search", where="space", hint="give space={'learning_rate': (1e-5, 1e-3)}")
    space: Space = {}
    names = (*Hyperparameters.model_fields, "model")
    for name, definition in definitions.items():
        if name not in names:
            suggestions = did_you_mean(name, names)
            suggestion = f"; did you mean {suggestions[0]!r}?" if suggestions else ""
            raise InvalidJob(f"{name!r} is not a hyperparameter{suggestion}", where="space")
        space[name] = _read_part(name, definition)
        for point in space[name].grid_points():
            check_value(name, point)
    return space


def _read_part(name: str, value: Any) -> Range | Choice:
    if isinstance(value, Range | Choice):
        return value
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(bound, int | float) for bound in value):
        low, high = value
        if low >= high:
            raise InvalidJob(f"{name}: {low:g} is not below {high:g}", where="space")
        is_whole = isinstance(low, int) and isinstance(high, int)
        return Range(low=low, high=high, log=name in _LOG and low > 0, whole=is_whole)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return Choice(values=tuple(value))
    raise InvalidJob(f"{name}: {value!r} is neither a range (low, high) nor a list of values", where="space")


def check_value(name: str, value: Any) -> None:
    """Raise `InvalidJob` where a hyperparameter cannot have that value."""
    if name == "model":
        return
    try:
        Hyperparameters.model_validate({name: value})
    except (InvalidJob, ValidationError) as error:
        raise InvalidJob(f"{name} = {value!r}: {getattr(error, 'message', error)}", where="space") from None


def parse_space(texts: Sequence[str]) -> dict[str, Any]:
    """Parse the options of the command line: "learning_rate=1e-5..1e-3", "lora_rank=4,8,16"."""
    definitions: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise InvalidJob(
                f"{text!r} is not a field to search", where="--space", hint="write FIELD=LOW..HIGH or FIELD=A,B"
            )
        span = re.fullmatch(r"\s*(\S+?)\s*\.\.\s*(\S+)\s*", value)
        if span is not None:
            low, high = _parse_number(span[1]), _parse_number(span[2])
            if isinstance(low, str) or isinstance(high, str):
                raise InvalidJob(f"{text!r}: a range needs two numbers", where="--space")
            definitions[name.strip()] = (low, high)
        else:
            definitions[name.strip()] = [_parse_number(choice.strip()) for choice in value.split(",")]
    return definitions


def _parse_number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
