"""Declarations: what a backend does with each field of a job, as data that reads like its reference page.

One declaration per field; a field left out is an error at import. The declarations are the only source for validation,
request building, receipts, command-line help, the support matrix in the docs and the wire test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llmtune.job.spec import Hyperparameters
from llmtune.provider.limits import Abilities, Ability, EpochRange, Lifecycle, Limits, NotOffered, Price
from llmtune.provider.values import ValueType

#: The seven words (docs/concepts.md#the-seven-words).
Support = Literal["sent", "converted", "inherent", "unsupported", "invalid", "default", "not_applicable"]

#: The default of a parameter where the vendor does not publish it.
NOT_PUBLISHED = "not published"

#: The settings of answering, which go out with each question to the model.
GENERATION_FIELDS = ("temperature", "top_p", "top_k", "max_tokens")

#: The job's own fields that travel.
JOB_FIELDS = ("name", "seed", "tags")

#: Everything a backend must say something about: the hyperparameters, and the two above.
DECLARED_FIELDS: tuple[str, ...] = (*Hyperparameters.model_fields, *JOB_FIELDS, *GENERATION_FIELDS)


# --- rules that change a value on its way ----------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class ConversionContext:
    """The input of a conversion: the job's own numbers, and nothing of the vendor's that is not published.

    `hyperparameters` are the job's for this provider, `method` and `adapter` those of the target.
    """

    hyperparameters: Hyperparameters
    rows: int | None = None
    """Training rows, once the dataset has been read."""

    method: str = "sft"
    adapter: str = "lora"


@dataclass(frozen=True)
class ConvertedValue:
    """The value that is sent, and the rule in words. `exact` means that only the spelling was changed."""

    value: Any
    rule: str
    exact: bool = False


@dataclass(frozen=True)
class NotConvertible:
    """Why a value cannot be converted. `invalid` when the parameter exists and the value is not allowed.

    `reason` is a clause that follows the field's name.
    """

    reason: str
    invalid: bool = False


#: Turns a value of the job into the vendor's, or says why not.
Rule = Callable[[Any, ConversionContext], ConvertedValue | NotConvertible]


# --- one declaration a field -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sent:
    """A parameter that the vendor has: the value is sent at `request_path` (dotted, in the body) and means the same.

    `encode` changes the spelling only ("3" for 3); `also` are constants that are sent with it; `where` tells a training
    parameter from one of the generation request.

    `type` says which values are allowed, `default` what the vendor uses when nothing is sent (`NOT_PUBLISHED` where
    it does not tell, None where nothing is), `default_rule` what it was chosen by where that depends on model and rows
    ("all weights of 3.41 M parameters"), `default_unless` the fields that leave it without a default when they are
    set, `source` the page and its day.
    """

    request_path: str
    type: ValueType
    default: Any = NOT_PUBLISHED
    source: str = ""
    encode: Callable[[Any], Any] | None = None
    also: Mapping[str, Any] = field(default_factory=dict)
    where: Literal["training", "generation"] = "training"
    note: str = ""
    default_rule: str = ""
    default_unless: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """A parameter that the vendor has in another unit or grid: `rule` converts the value, or refuses it.

    `type` is what the vendor takes, checked after the rule. `description` says in a few words what the rule does, for
    the matrix. `request_path`, `default`, `source`, `encode`, `also` and `where` are as in `Sent`.
    """

    request_path: str
    type: ValueType
    rule: Rule
    description: str
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
    """No parameter, and the backend does something else: `reason` says what, and why."""

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
    def with_others_unsupported(cls, otherwise: str, **declared: Declaration) -> Declarations:
        """Declare the fields given; every other field is unsupported, for the reason `otherwise`.

        For packages of their own: a field that a later llmtune adds to the job is then answered and does not break
        the import. Raises `TypeError` for a name that is no field.
        """
        return cls(**({name: Unsupported(otherwise) for name in DECLARED_FIELDS} | declared))

    def replace(self, **changed: Declaration) -> Declarations:
        """Return a copy with some declarations replaced: what differs between one model family and another."""
        return Declarations(**(self._declared | changed))

    @property
    def request_paths(self) -> dict[str, str]:
        """The request path of every parameter of the training request, by field; tests compare requests with it."""
        return {
            name: entry.request_path
            for name, entry in self._declared.items()
            if isinstance(entry, (Sent, Converted)) and entry.where == "training"
        }


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
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    price: Price = field(default_factory=Price)
    abilities: Abilities = field(default_factory=Abilities)
    methods: Mapping[str, Ability] = field(default_factory=lambda: {"sft": True})
    adapters: Mapping[str, Ability] = field(default_factory=lambda: {"lora": True})
    grader: Converted | None = None
    """What becomes of a job's grader; None where no reinforcement job is started."""

    concurrency: int | None = None
    """Jobs that may run at once; None: not published."""

    concurrency_source: str = ""
    known_model: bool = True
    """Whether the model id is in the catalogue; an unknown one is a warning, never a refusal."""

    epochs_if_unset: EpochRange | None = None
    """How many epochs are trained where the job and the declared default leave that to the vendor; None: not known."""

    regions: tuple[str, ...] = ()
    """Where the model is tuned, by the vendor's own names of its regions; empty: it states none."""

    warnings: tuple[str, ...] = ()

    def in_region(self, region: str | None) -> Capabilities:
        """Return the capabilities of an account whose region is set: of `regions` that one alone, if it is among them.

        Without a region of the account they stay as they are, and where the vendor states none it is the account's.
        """
        if not region:
            return self
        return replace(self, regions=(region,) if not self.regions or region in self.regions else ())

    def method(self, name: str) -> Ability:
        """Return whether the method can be run; what is not declared says so."""
        return self.methods.get(name, NotOffered(f"method {name!r} is not offered"))

    def adapter(self, name: str) -> Ability:
        """Return whether the adapter can be trained; what is not declared says so."""
        return self.adapters.get(name, NotOffered(f"adapter {name!r} is not offered"))
