"""A provider that knows only why it can do nothing, and says so instead of "unknown provider"."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import llmtune.provider as core
from llmtune.errors import ProviderClosed

TABLE = Path(__file__).with_name("vendors.toml")
METHODS = ("sft", "dpo", "classification", "reinforcement", "distillation", "continued_pretraining")


@dataclass(frozen=True, kw_only=True)
class RetiredModel:
    """One row of the table: what is so, since when, who says so, and what to do instead."""

    vendor: str
    fact: str
    way_on: str
    alternatives: tuple[str, ...]
    source: str
    checked: date
    closes: date | None = None
    since: str = ""

    @property
    def sentence(self) -> str:
        """The fact with its subject."""
        return f"{self.vendor} {self.fact}"


@dataclass(frozen=True, kw_only=True)
class RetiredLifecycle(core.Lifecycle):
    """A lifecycle whose sentence the table gives: not every vendor has a day on which it closed."""

    text: str = ""

    def sentence(self, today: date) -> str:
        return self.text


@cache
def table() -> dict[str, RetiredModel]:
    """Read the retired vendors by name."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {name: RetiredModel(**(row | {"alternatives": tuple(row["alternatives"])})) for name, row in rows.items()}


class RetiredProvider(core.BaseProvider):
    """A vendor that is gone. Everything that would reach it raises `ProviderClosed` with the way on."""

    listed = False
    Settings = core.ProviderSettings

    @property
    def gone(self) -> RetiredModel:
        """The vendor's row of the table."""
        return table()[self.kind]

    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return that nothing is supported, with the reason, the date and the source. Pure."""
        gone = self.gone
        reason = core.NotOffered(f"{gone.vendor} tunes no models")
        field = core.NotApplicable("no service is there to take it", gone.source)
        return core.Capabilities(
            parameters=core.Declarations(**dict.fromkeys(core.DECLARED_FIELDS, field)),
            family=gone.vendor,
            limits=core.Limits(source=gone.source),
            lifecycle=RetiredLifecycle(
                status="retired",
                closes=gone.closes,
                note=f"{gone.sentence}. Instead: {gone.way_on}",
                source=f"{gone.source}; checked {gone.checked}",
                alternatives=gone.alternatives,
                text=f"retired {gone.since}" if gone.since else "no fine-tuning: inference only",
            ),
            price=core.Price(source=gone.source, checked=gone.checked, note="no fine-tuning is sold"),
            abilities=core.Abilities(cancel=reason, metrics=reason, validation_metrics=reason, checkpoints=reason),
            methods=dict.fromkeys(METHODS, reason),
            adapters=dict.fromkeys(("lora", "qlora", "dora", "full"), True),
        )

    def find_credentials(self) -> core.Credentials:
        """Return "not needed", with the hint where to go instead."""
        return "not needed", self.gone.way_on

    def refuse(self, *_: Any, **__: Any) -> Any:
        """Raise the refusal that every call ends in."""
        gone = self.gone
        raise ProviderClosed(
            f"{self.name}: {gone.sentence} ({gone.source}; checked {gone.checked})",
            provider=self.name,
            since=gone.closes,
            alternatives=gone.alternatives,
            hint=gone.way_on,
        )

    encode = build = preflight = find_upload = upload = submit = find = poll = cancel = refuse
    deploy = find_deployment = undeploy = generator = base_model = snippet = refuse
    inventory = fetch = download = delete = refuse


class GoogleAIStudio(RetiredProvider):
    """Google AI Studio; tune on Vertex AI instead."""

    kind = "google-ai-studio"


class Mistral(RetiredProvider):
    """Mistral's API."""

    kind = "mistral"


class Databricks(RetiredProvider):
    """Databricks Foundation Model Fine-tuning."""

    kind = "databricks"


class Groq(RetiredProvider):
    """Groq, which serves adapters and tunes none."""

    kind = "groq"
