"""What a backend can express, declared as data that reads like the vendor's own reference page.

One declaration a field; a field left out is an error at import. The declarations are the only source for validation,
request building, receipts, command-line help, the support matrix in the docs and the wire test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, Protocol

from llmtune.errors import did_you_mean
from llmtune.job.spec import Hyperparameters

#: The seven words (docs/concepts.md#the-seven-words).
Support = Literal["sent", "converted", "inherent", "unsupported", "invalid", "default", "not_applicable"]

#: A knob whose default the vendor does not tell.
NOT_PUBLISHED = "not published"

#: The settings of answering, which go out with each question to the model.
GENERATION_FIELDS = ("temperature", "top_p", "top_k", "max_tokens")

#: The job's own fields that travel.
JOB_FIELDS = ("name", "seed", "tags")

#: Everything a backend must say something about: the hyperparameters, and the two above.
DECLARED_FIELDS: tuple[str, ...] = (*Hyperparameters.model_fields, *JOB_FIELDS, *GENERATION_FIELDS)


# --- the values a knob takes -----------------------------------------------------------------------------------------
class ValueType(Protocol):
    """What a knob takes: `fault` says what is wrong with a value (None when nothing is), `describe` what is right."""

    def fault(self, value: Any) -> str | None:
        """What is wrong with the value, as a clause ("must be a whole number, not 'x'"); None when nothing is."""
        ...

    def describe(self) -> str:
        """What is right, as a noun phrase: "a whole number from 1 to 20"."""
        ...


@dataclass(frozen=True)
class Int(ValueType):
    """A whole number from `low` to `high`, both included; None is open."""

    low: int | None = None
    high: int | None = None

    def fault(self, value: Any) -> str | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and (self.low is None or value >= self.low) and (self.high is None or value <= self.high):
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

    def fault(self, value: Any) -> str | None:
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

    def fault(self, value: Any) -> str | None:
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

    def fault(self, value: Any) -> str | None:
        if value in self.allowed:
            return None
        near = did_you_mean(str(value), [str(word) for word in self.allowed])
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        return f"must be {self.describe()}, not {value!r}{meant}"

    def describe(self) -> str:
        return f"one of {', '.join(str(word) for word in self.allowed)}"


@dataclass(frozen=True)
class Text(ValueType):
    """Text of at most `longest` characters."""

    longest: int | None = None

    def fault(self, value: Any) -> str | None:
        if isinstance(value, str) and (self.longest is None or len(value) <= self.longest):
            return None
        return f"must be {self.describe()}, not {value!r}"

    def describe(self) -> str:
        return f"text of at most {self.longest} characters" if self.longest else "text"


@dataclass(frozen=True)
class Mapped(ValueType):
    """A mapping of names to values (tags, per-layer factors); `most` bounds how many."""

    most: int | None = None

    def fault(self, value: Any) -> str | None:
        if isinstance(value, Mapping) and (self.most is None or len(value) <= self.most):
            return None
        return f"must be {self.describe()}"

    def describe(self) -> str:
        return f"a mapping of at most {self.most} entries" if self.most else "a mapping"


@dataclass(frozen=True)
class Anything(ValueType):
    """Whatever the job's own type allows; the backend narrows nothing."""

    def fault(self, value: Any) -> str | None:
        return None

    def describe(self) -> str:
        return "as in the job"


# --- rules that change a value on its way ----------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a conversion may look at: the job's own numbers, and nothing of the vendor's that is not published.

    `hyperparameters` are the job's for this provider, `method` and `adapter` those of the target.
    """

    hyperparameters: Hyperparameters
    rows: int | None = None
    """Training rows, once the dataset has been read."""

    method: str = "sft"
    adapter: str = "lora"


@dataclass(frozen=True)
class Changed:
    """The value that goes out, and the rule in words. `exact` means nothing was changed but the spelling."""

    value: Any
    rule: str
    exact: bool = False


@dataclass(frozen=True)
class Refused:
    """Why a value cannot be converted. `invalid` when the knob exists and the value is not allowed.

    `reason` is a clause that follows the field's name.
    """

    reason: str
    invalid: bool = False


#: Turns a value of the job into the vendor's, or says why not.
Rule = Callable[[Any, Facts], Changed | Refused]


# --- one declaration a field -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sent:
    """The knob exists: the value goes out under `wire` (a dotted path in the request body), same meaning and value.

    `encode` changes the spelling only ("3" for 3); `also` are constants that go out with it; `where` tells a training
    knob from one of the generation request.

    `type` says which values are allowed, `default` what the vendor uses when nothing is sent (`NOT_PUBLISHED` where
    it does not tell, None where nothing is), `source` the page and its day.
    """

    wire: str
    type: ValueType
    default: Any = NOT_PUBLISHED
    source: str = ""
    encode: Callable[[Any], Any] | None = None
    also: Mapping[str, Any] = field(default_factory=dict)
    where: Literal["training", "generation"] = "training"
    note: str = ""


@dataclass(frozen=True)
class Converted:
    """The knob exists in another unit or grid: `rule` turns the value into the vendor's, or refuses.

    `type` is what the vendor takes, checked after the rule. `says` describes the rule for the matrix.

    `wire`, `default`, `source`, `encode`, `also` and `where` are as in `Sent`.
    """

    wire: str
    type: ValueType
    rule: Rule
    says: str
    default: Any = NOT_PUBLISHED
    source: str = ""
    encode: Callable[[Any], Any] | None = None
    also: Mapping[str, Any] = field(default_factory=dict)
    where: Literal["training", "generation"] = "training"
    note: str = ""


@dataclass(frozen=True)
class Inherent:
    """Nothing to send: the backend always does exactly `value`.

    `reason` says how that is known, `source` where.
    """

    value: Any
    reason: str
    source: str = ""


@dataclass(frozen=True)
class Unsupported:
    """No knob, and the backend does something else: `reason` says what, and why."""

    reason: str
    source: str = ""


@dataclass(frozen=True)
class NotApplicable:
    """The field has no meaning for this target.

    `reason` says why, `source` where that stands.
    """

    reason: str
    source: str = ""


#: What a backend says of one field.
Declaration = Sent | Converted | Inherent | Unsupported | NotApplicable


class Declarations(Mapping[str, Declaration]):
    """One declaration for every field in `DECLARED_FIELDS`; a missing or misspelt one raises at import."""

    def __init__(self, **declared: Declaration) -> None:
        missing = [name for name in DECLARED_FIELDS if name not in declared]
        unknown = [name for name in declared if name not in DECLARED_FIELDS]
        if missing or unknown:
            raise TypeError(f"declarations: missing {missing or 'none'}, unknown {unknown or 'none'}")
        self._declared = {name: declared[name] for name in DECLARED_FIELDS}

    def __getitem__(self, name: str) -> Declaration:
        return self._declared[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)

    @classmethod
    def only(cls, otherwise: str, **declared: Declaration) -> Declarations:
        """The declarations given; every field that is not among them is unsupported, for the reason `otherwise`.

        For packages of their own: a field that a later llmtune adds to the job is then answered and does not break
        the import. Raises `TypeError` for a name that is no field.
        """
        return cls(**({name: Unsupported(otherwise) for name in DECLARED_FIELDS} | declared))

    def but(self, **changed: Declaration) -> Declarations:
        """The same declarations with some replaced: what differs between one model family and another."""
        return Declarations(**(self._declared | changed))

    @property
    def wires(self) -> dict[str, str]:
        """Field -> wire path of every knob of the training request (what the wire test compares)."""
        return {
            name: entry.wire
            for name, entry in self._declared.items()
            if isinstance(entry, (Sent, Converted)) and entry.where == "training"
        }


# --- everything else a backend says of itself ------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the backend takes as a dataset. None where nothing is published or there is no limit.

    `min_rows` and `max_rows` count training rows, `max_validation_rows` validation rows, `max_total_rows` both
    together; `max_bytes` is the size of one file, `max_tokens_per_row` that of one row in the model's tokens.
    """

    format: str = "chat"
    """Row format it is sent in, as registered under `llmtune.formats`."""

    min_rows: int | None = None
    max_rows: int | None = None
    max_validation_rows: int | None = None
    max_total_rows: int | None = None
    max_bytes: int | None = None
    max_tokens_per_row: int | None = None
    validation: Literal["used", "unused", "required"] = "used"
    """Whether the backend evaluates on validation rows while it trains."""

    source: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """Whether the service takes jobs, until when, and for whom.

    `closes` is the first day on which it takes no new job; `answers_until` the day on which tuned models stop.

    `status` is what the vendor says; the dates decide. `for_whom` restricts who may use it, and `alternatives` are
    providers to go to.
    """

    status: Literal["active", "closing", "retired"] = "active"
    closes: date | None = None
    answers_until: date | None = None
    for_whom: str = ""
    note: str = ""
    source: str = ""
    alternatives: tuple[str, ...] = ()

    def closed_on(self, today: date) -> bool:
        """Whether no new job is taken on that day."""
        return self.status == "retired" or (self.closes is not None and today >= self.closes)

    def sentence(self, today: date) -> str:
        """The state on that day, in words: "takes no new jobs after 2027-01-05, 46 days left"."""
        if self.closes is not None and today >= self.closes:
            text = f"retired {self.closes}" if self.status == "retired" else f"closed to new jobs since {self.closes}"
        elif self.status == "retired":
            text = "retired"
        elif self.closes is not None:
            days = (self.closes - today).days
            text = f"takes no new jobs from {self.closes} on, {days} day{'s' if days != 1 else ''} left"
        else:
            text = "active"
        if self.for_whom and not self.closed_on(today):
            text += f"; {self.for_whom}"
        if self.answers_until is not None:
            verb = "stopped" if today >= self.answers_until else "stop"
            text += f"; tuned models {verb} answering on {self.answers_until}"
        return text


@dataclass(frozen=True, kw_only=True)
class Price:
    """Prices in `currency`, each with a source and the date it was checked. None: not published.

    training: per million training tokens (dataset tokens times epochs). hosting: per hour of a standing deployment.
    input and output: per million tokens of the tuned model; base_input and base_output: of the untuned one.
    storage: per month and model.
    """

    training: float | None = None
    hosting: float | None = None
    input: float | None = None
    output: float | None = None
    storage: float | None = None
    base_input: float | None = None
    base_output: float | None = None
    currency: str = "USD"
    source: str = ""
    checked: date | None = None
    note: str = ""


@dataclass(frozen=True)
class No:
    """What a backend does not do, and why; falsy.

    `reason` is a clause for people: "the service has no pause".
    """

    reason: str

    def __bool__(self) -> bool:
        return False


#: True, or `No(reason)`.
Ability = Literal[True] | No


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What exists beside training.

    `cancel`, `pause`: a job can be stopped, or halted and resumed. `metrics`, `validation_metrics`: curves on
    training and on validation rows are told. `checkpoints`: earlier states of the model can be had. `serving`,
    `base_serving`: the tuned and the untuned model can be asked. `logits`: with scores of its tokens.
    `billed_cost`: what was billed is told.
    """

    cancel: Ability = True
    pause: Ability = No("the service has no pause")
    metrics: Ability = True
    validation_metrics: Ability = True
    checkpoints: Ability = True
    serving: Ability = True
    base_serving: Ability = True
    logits: Ability = No("the service returns text only")
    billed_cost: Ability = No("the service does not tell what it billed")
    deployment: Literal["none", "optional", "required"] = "none"
    """Whether the tuned model must be deployed, at a price, before it answers."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Everything one target can express. Data: asking costs nothing and imports nothing.

    `parameters` declares every field of a job, `family` names the kind of model that they hold for. `limits`,
    `lifecycle`, `price` and `abilities` are as their classes say. `methods` and `adapters` hold True or the reason
    why not; `concurrency_source` is the page for `concurrency`. `warnings` go into the plan.
    """

    parameters: Declarations
    family: str
    limits: Limits
    lifecycle: Lifecycle = Lifecycle()
    price: Price = Price()
    abilities: Abilities = Abilities()
    methods: Mapping[str, Ability] = field(default_factory=lambda: {"sft": True})
    adapters: Mapping[str, Ability] = field(default_factory=lambda: {"lora": True})
    concurrency: int | None = None
    """Jobs that may run at once; None: not published."""

    concurrency_source: str = ""
    known_model: bool = True
    """Whether the model id is in the catalogue; an unknown one is a warning, never a refusal."""

    warnings: tuple[str, ...] = ()

    def method(self, name: str) -> Ability:
        """Whether the method can be run; what is not declared says so."""
        return self.methods.get(name, No(f"method {name!r} is not offered"))

    def adapter(self, name: str) -> Ability:
        """Whether the adapter can be trained; what is not declared says so."""
        return self.adapters.get(name, No(f"adapter {name!r} is not offered"))
