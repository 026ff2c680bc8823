"""Limits and conditions of a backend: dataset limits, dates, prices and abilities, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

from llmtune.job.spec import NOT_YET


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a dataset. None where nothing is published or there is no limit.

    `min_rows` and `max_rows` count training rows, `max_validation_rows` validation rows, `max_total_rows` both
    together; `max_bytes` is the size of one file, `max_tokens_per_row` that of one row in the model's tokens.
    """

    format: str = "chat"
    """Row format it is sent in, as registered under `llmtune.formats`."""

    text_format: str | None = None
    """Row format that plain text is sent in, where it is another one; None where `format` holds it, or nothing does."""

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

    def format_of(self, kind: str) -> str:
        """Return the row format that rows of a kind (chat, preference or text) are sent in."""
        return self.text_format if kind == "text" and self.text_format is not None else self.format


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """Whether the service takes jobs, until when, and for whom.

    `closes` is the first day on which it takes no new job; `answers_until` the day on which tuned models stop.

    `status` is what the vendor says; the dates decide. `for_whom` restricts who may use it, and `alternatives` are
    providers to go to. `unverified` names what `answers_until` rests on where no page of the vendor's confirms it.
    """

    status: Literal["active", "closing", "retired"] = "active"
    closes: date | None = None
    answers_until: date | None = None
    for_whom: str = ""
    note: str = ""
    source: str = ""
    unverified: str = ""
    alternatives: tuple[str, ...] = ()

    def closed_on(self, today: date) -> bool:
        """Return whether no new job is taken on that day."""
        return self.status == "retired" or (self.closes is not None and today >= self.closes)

    def sentence(self, today: date) -> str:
        """Describe the state on that day: "takes no new jobs from 2027-01-05 on, 46 days left"."""
        if self.closes is not None and today >= self.closes:
            text = f"retired {self.closes}" if self.status == "retired" else f"closed to new jobs since {self.closes}"
        elif self.status == "retired":
            text = "retired"
        elif self.closes is not None:
            days = (self.closes - today).days
            text = f"takes no new jobs from {self.closes} on, {days} day{'s' if days != 1 else ''} left"
        else:
            text = "closing" if self.status == "closing" else "active"
        if self.for_whom and not self.closed_on(today):
            text += f"; {self.for_whom}"
        if self.answers_until is not None:
            verb = "stopped" if today >= self.answers_until else "stop"
            text += f"; tuned models {verb} answering on {self.answers_until}"
            text += f" (unverified: {self.unverified})" if self.unverified else ""
        return text


#: What a price is for, and the unit that it is per, in the order in which prices are listed.
PRICE_UNITS: Mapping[str, str] = {
    "training": "million training tokens (dataset tokens times epochs)",
    "training_hour": "hour of training",
    "training_step": "training step",
    "training_minimum": "job, at least",
    "input": "million tokens in, tuned model",
    "cached_input": "million cached tokens in, tuned model",
    "output": "million tokens out, tuned model",
    "batch_input": "million tokens in, tuned model, in batches",
    "batch_output": "million tokens out, tuned model, in batches",
    "base_input": "million tokens in, base model",
    "base_output": "million tokens out, base model",
    "hosting": "hour of a standing deployment",
    "storage": "month and stored model",
    "import_unit": "month and custom model unit, for an imported model",
}

#: Any of these prices says what training costs.
TRAINING_PRICES = ("training", "training_hour", "training_step")


@dataclass(frozen=True, kw_only=True)
class Price:
    """Prices in `currency`, each with a source and the date it was checked. None: not published, or not billed.

    `training` is per million training tokens (dataset tokens times epochs), `training_hour` and `training_step` per
    hour and step of training; `training_minimum` is the least for a job. `input`, `cached_input` and `output` are per
    million tokens of the tuned model, `batch_input` and `batch_output` in batches, `base_input` and `base_output` of
    the untuned model. `hosting` is per hour of a standing deployment, which is billed `hosting_minimum` hours at least.
    `storage` is per month and model, `import_unit` per month and custom model unit of an imported model.

    `billed` names the prices that a user pays at this vendor; those of them that are None are the unknown ones (see
    `unknown`), and `source` is then the page that was looked at. `by_method` holds training prices that differ by
    "METHOD", "ADAPTER" or "METHOD/ADAPTER". `sources` names the page of a single price where it is not `source`.
    `region` is where the prices hold ("" everywhere).
    """

    training: float | None = None
    training_hour: float | None = None
    training_step: float | None = None
    training_minimum: float | None = None
    input: float | None = None
    cached_input: float | None = None
    output: float | None = None
    batch_input: float | None = None
    batch_output: float | None = None
    base_input: float | None = None
    base_output: float | None = None
    hosting: float | None = None
    hosting_minimum: float | None = None
    storage: float | None = None
    import_unit: float | None = None
    currency: str = "USD"
    region: str = ""
    source: str = ""
    checked: date | None = None
    note: str = ""
    billed: tuple[str, ...] = ("training", "input", "output")
    by_method: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def for_target(self, method: str, adapter: str) -> Price:
        """Return the prices with the training price of that method and adapter, where there is one of its own."""
        for key in (f"{method}/{adapter}", method, adapter):
            if key in self.by_method:
                return replace(self, training=self.by_method[key])
        return self

    def unknown(self) -> tuple[str, ...]:
        """Return the names of the prices that the vendor bills and that are not known."""
        names = []
        for name in self.billed:
            alternatives = TRAINING_PRICES if name == "training" else (name,)
            if all(getattr(self, alternative) is None for alternative in alternatives):
                names.append(name)
        return tuple(names)

    def source_of(self, name: str) -> str:
        """Return the page that states one of the prices."""
        return self.sources.get(name, self.source)


@dataclass(frozen=True)
class EpochRange:
    """How many epochs a vendor may train where the job leaves their number to it.

    `low` and `high` are the least and the most, `high` None where no limit is published; `reason` is a clause that says
    how that is known, `source` where.
    """

    low: int
    high: int | None
    reason: str
    source: str = ""


@dataclass(frozen=True)
class NotOffered:
    """Something that a backend does not offer, with the reason; falsy.

    `reason` is a clause for people: "the service has no pause".
    """

    reason: str

    def __bool__(self) -> bool:
        return False


#: True, or `NotOffered(reason)`.
Ability = Literal[True] | NotOffered


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """The abilities of a backend beside training.

    `cancel`, `pause`: a job can be stopped, or halted and resumed. `metrics`, `validation_metrics`: curves on
    training and on validation rows are reported. `checkpoints`: earlier states of the model can be had. `serving`,
    `base_serving`: the tuned and the untuned model can be asked. `logits`: with scores of its tokens.
    `billed_cost`: what was billed is reported. `samples`: answers of the model are shown while it trains.
    """

    cancel: Ability = True
    pause: Ability = NotOffered("the service has no pause")
    metrics: Ability = True
    validation_metrics: Ability = True
    checkpoints: Ability = True
    serving: Ability = True
    base_serving: Ability = True
    logits: Ability = NotOffered("the service returns text only")
    billed_cost: Ability = NotOffered("the service does not report what it billed")
    samples: Ability = NotOffered("the service shows no answers of a model while it trains")
    deployment: Literal["none", "optional", "required"] = "none"
    """Whether the tuned model must be deployed, at a price, before it answers."""


#: The methods that no provider runs yet, each with the reason; the rest of a provider's own `methods`.
NOT_YET_METHODS: dict[str, Ability] = {
    "reinforcement": NotOffered(
        "not yet: llmtune starts no reinforcement jobs at this backend (docs/reinforcement.md)"
    ),
    **{name: NotOffered(f"not yet: {reason}") for name, reason in NOT_YET.items()},
}
