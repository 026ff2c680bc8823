"""What is searched: ranges and choices of hyperparameters, checked before anything is run."""

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

#: Fields whose values lie orders of magnitude apart.
_LOG = ("learning_rate", "learning_rate_multiplier", "weight_decay", "adam_epsilon", "dpo_beta")

#: Points of a range in a grid.
GRID_POINTS = 4


class Range(FrozenModel):
    """All values between two bounds, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """A value, by the study's sampler."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def describe(self) -> str:
        """In words: "2e-05 to 0.002, on a logarithmic scale"."""
        return f"{self.low:g} to {self.high:g}" + (", on a logarithmic scale" if self.log else "")

    def points(self) -> list[Any]:
        """Its values in a grid."""
        if self.whole and self.high - self.low < GRID_POINTS:
            return list(range(int(self.low), int(self.high) + 1))
        steps = [place / (GRID_POINTS - 1) for place in range(GRID_POINTS)]
        if self.log:
            found = [math.exp(math.log(self.low) + step * math.log(self.high / self.low)) for step in steps]
        else:
            found = [self.low + step * (self.high - self.low) for step in steps]
        found[0], found[-1] = self.low, self.high
        return sorted({round(each) for each in found}) if self.whole else found


class Choice(FrozenModel):
    """One of some values."""

    values: tuple[Any, ...]

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """A value, by the study's sampler."""
        return trial.suggest_categorical(name, list(self.values))

    def describe(self) -> str:
        """In words: "8, 16 or 32"."""
        words = [str(value) for value in self.values]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"

    def points(self) -> list[Any]:
        """Its values in a grid."""
        return list(self.values)


Space = dict[str, Range | Choice]


def as_given(space: Space) -> dict[str, Any]:
    """A space as it can be given again."""
    return {
        name: list(part.values) if name == "provider" and isinstance(part, Choice) else part
        for name, part in space.items()
    }


def read_space(given: Mapping[str, Any]) -> Space:
    """A space from Python: (low, high) is a range, a list a choice, `Range` and `Choice` are taken as they are.

    Besides hyperparameters, "model" may be searched. Raises `InvalidJob` for a field that does not exist, a value that
    it cannot have, or bounds the wrong way round.
    """
    if not given:
        raise InvalidJob("there is nothing to search", where="space", hint="give space={'learning_rate': (1e-5, 1e-3)}")
    space: Space = {}
    known = (*Hyperparameters.model_fields, "model")
    for name, value in given.items():
        if name not in known:
            near = did_you_mean(name, known)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidJob(f"{name!r} is no hyperparameter{meant}", where="space")
        space[name] = _part(name, value)
        for each in space[name].points():
            check(name, each)
    return space


def _part(name: str, value: Any) -> Range | Choice:
    if isinstance(value, Range | Choice):
        return value
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, int | float) for each in value):
        low, high = value
        if low >= high:
            raise InvalidJob(f"{name}: {low:g} is not below {high:g}", where="space")
        whole = isinstance(low, int) and isinstance(high, int)
        return Range(low=low, high=high, log=name in _LOG and low > 0, whole=whole)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return Choice(values=tuple(value))
    raise InvalidJob(f"{name}: {value!r} is neither a range (low, high) nor a list of values", where="space")


def check(name: str, value: Any) -> None:
    """Whether a hyperparameter can have that value at all. Raises `InvalidJob`."""
    if name == "model":
        return
    try:
        Hyperparameters.model_validate({name: value})
    except (InvalidJob, ValidationError) as error:
        raise InvalidJob(f"{name} = {value!r}: {getattr(error, 'message', error)}", where="space") from None


def parse_space(texts: Sequence[str]) -> dict[str, Any]:
    """A space from the command line: "learning_rate=1e-5..1e-3", "lora_rank=4,8,16"."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise InvalidJob(
                f"{text!r} is no part of a space", where="--space", hint="write FIELD=LOW..HIGH or FIELD=A,B"
            )
        span = re.fullmatch(r"\s*(\S+?)\s*\.\.\s*(\S+)\s*", value)
        if span is not None:
            low, high = _number(span[1]), _number(span[2])
            if isinstance(low, str) or isinstance(high, str):
                raise InvalidJob(f"{text!r}: a range needs two numbers", where="--space")
            found[name.strip()] = (low, high)
        else:
            found[name.strip()] = [_number(each.strip()) for each in value.split(",")]
    return found


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
