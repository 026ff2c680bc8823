"""The values that a declared parameter may take: numbers in a range, choices, text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from llmtune.errors import did_you_mean


# --- the values of a parameter --------------------------------------------------------------------------------------
class ValueType(Protocol):
    """The values that a parameter takes: `error` reports an invalid value, `describe` names the valid ones."""

    def error(self, value: Any) -> str | None:
        """Return what is wrong with the value as a clause ("must be a whole number, not 'x'"); None if nothing is."""
        ...

    def describe(self) -> str:
        """Describe the allowed values as a noun phrase: "a whole number from 1 to 20"."""
        ...


@dataclass(frozen=True)
class Int(ValueType):
    """A whole number from `low` to `high`, both included; None is open."""

    low: int | None = None
    high: int | None = None

    def error(self, value: Any) -> str | None:
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if is_integer and (self.low is None or value >= self.low) and (self.high is None or value <= self.high):
            return None
        return f"must be {self.describe()}, not {value!r}"

    def describe(self) -> str:
        if self.low is not None and self.high is not None:
            return f"exactly {self.low}" if self.low == self.high else f"a whole number from {self.low} to {self.high}"
        if self.low is not None:
            return f"a whole number >= {self.low}"
        return f"a whole number <= {self.high}" if self.high is not None else "a whole number"


@dataclass(frozen=True, kw_only=True)
class Float(ValueType):
    """A finite number within the bounds given (gt and lt exclude the bound itself).

    `ge` and `le` include the bound. NaN, the infinities and booleans are never taken.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def error(self, value: Any) -> str | None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if (
            number
            and (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        ):
            return None
        return f"must be {self.describe()}, not {value!r}"

    def describe(self) -> str:
        signs = (("> ", self.gt), (">= ", self.ge), ("< ", self.lt), ("<= ", self.le))
        bounds = [f"{sign}{bound:g}" for sign, bound in signs if bound is not None]
        return "a number" + (f" {' and '.join(bounds)}" if bounds else "")


@dataclass(frozen=True)
class Bool(ValueType):
    """True or false."""

    def error(self, value: Any) -> str | None:
        return None if isinstance(value, bool) else f"must be true or false, not {value!r}"

    def describe(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Choice(ValueType):
    """One of the values listed.

    `allowed` are those values; a fault names the nearest.
    """

    allowed: tuple[Any, ...]

    def __init__(self, *allowed: Any) -> None:
        object.__setattr__(self, "allowed", allowed)

    def error(self, value: Any) -> str | None:
        if value in self.allowed:
            return None
        suggestions = did_you_mean(str(value), [str(choice) for choice in self.allowed])
        suggestion = f" (did you mean {suggestions[0]!r}?)" if suggestions else ""
        return f"must be {self.describe()}, not {value!r}{suggestion}"

    def describe(self) -> str:
        return f"one of {', '.join(str(choice) for choice in self.allowed)}"


@dataclass(frozen=True)
class Text(ValueType):
    """Text of at most `longest` characters."""

    longest: int | None = None

    def error(self, value: Any) -> str | None:
        if isinstance(value, str) and (self.longest is None or len(value) <= self.longest):
            return None
        return f"must be {self.describe()}, not {value!r}"

    def describe(self) -> str:
        return f"text of at most {self.longest} characters" if self.longest else "text"


@dataclass(frozen=True)
class MappingValue(ValueType):
    """A mapping of names to values (tags, per-layer factors); `most` bounds how many."""

    most: int | None = None

    def error(self, value: Any) -> str | None:
        if isinstance(value, Mapping) and (self.most is None or len(value) <= self.most):
            return None
        return f"must be {self.describe()}"

    def describe(self) -> str:
        return f"a mapping of at most {self.most} entries" if self.most else "a mapping"


@dataclass(frozen=True, kw_only=True)
class Tags(ValueType):
    """Text by name: at most `most` entries, whose names and values match the two patterns; `rule` says so in words.

    The name `own` carries llmtune's key and is not the user's to set.
    """

    most: int
    names: str
    values: str
    rule: str
    own: str

    def error(self, value: Any) -> str | None:
        if not isinstance(value, Mapping) or len(value) > self.most:
            return f"must be {self.describe()}"
        if self.own in value:
            return f"must not hold {self.own!r}, which carries llmtune's own key"
        for name, text in value.items():
            if not re.fullmatch(self.names, str(name)) or not re.fullmatch(self.values, str(text)):
                return f"must be {self.describe()}, not {name}={text}"
        return None

    def describe(self) -> str:
        return f"at most {self.most} tags, {self.rule}"


@dataclass(frozen=True)
class AnyValue(ValueType):
    """Whatever the job's own type allows; the backend narrows nothing."""

    def error(self, value: Any) -> str | None:
        return None

    def describe(self) -> str:
        return "as in the job"
