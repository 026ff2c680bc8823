"""What a backend sets around a job: dataset limits, dates, prices and abilities, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

from llmtune.job.spec import NOT_YET


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
            text += f" (unverified: {self.unverified})" if self.unverified else ""
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
    training and on validation rows are reported. `checkpoints`: earlier states of the model can be had. `serving`,
    `base_serving`: the tuned and the untuned model can be asked. `logits`: with scores of its tokens.
    `billed_cost`: what was billed is reported.
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


#: The methods that no provider runs yet, each with the reason; the rest of a provider's own `methods`.
NOT_YET_METHODS: dict[str, Ability] = {name: No(f"not yet: {reason}") for name, reason in NOT_YET.items()}
