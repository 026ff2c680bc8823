"""What differs between services that speak OpenAI's fine-tuning API: facts, knobs, and where a run key can travel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from llmtune.provider import (
    Abilities,
    Ability,
    Capabilities,
    Catalog,
    Declarations,
    Limits,
    ModelEntry,
    No,
    SubmitSafety,
    Target,
)
from llmtune.provider import catalog as catalogs
from llmtune_nebius import declarations
from llmtune_openai import declarations as parameters

Profile = Literal["openai", "nebius", "compatible"]

#: Lists are asked for this long after an unclear submit: they are said to lag, by how much is not published.
SEARCHABLE = SubmitSafety(kind="searchable", window=60.0)

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service: its name for people, and everything that the adapter must know before it calls."""

    title: str
    kind: str
    """The name under which a user's own catalogue overlays this one."""

    catalog: Path
    sft: Declarations
    dpo: Declarations | None
    methods: Mapping[str, Ability]
    adapters: Mapping[str, Ability]
    limits: Mapping[str, Limits]
    abilities: Abilities = parameters.ABILITIES
    key_env: str = "OPENAI_API_KEY"
    base_url: str | None = None
    """Where it is reached when nothing else is configured; None leaves that to the SDK."""

    key_in: tuple[Literal["metadata", "suffix"], ...] = ("metadata",)
    """Where the run key travels."""

    longest_suffix: int = 64
    safety: SubmitSafety = SEARCHABLE
    max_tokens_word: str = "max_completion_tokens"

    lora_flag: bool = False
    """Whether `hyperparameters.lora` says if an adapter or all weights are trained."""

    uploaded_is_ready: bool = False
    """Whether a file in the state "uploaded" counts as usable: the service does not say what it means."""

    upload_in_parts_above: int | None = None
    """Files larger than this many bytes go up in parts; None: there is no such way."""

    may_lack_lists: bool = False
    """Whether its jobs may have no list of events or checkpoints; else a missing list is an error."""

    concurrency: int | None = None
    concurrency_source: str = ""
    job_page: str | None = None
    """Where a person can look at a job; `{}` is its id."""

    assumed: str = ""
    """A warning that stands on every plan: these facts are borrowed."""

    def known(self) -> Catalog:
        """The catalogue, with the user's own laid over it."""
        return catalogs.load(self.kind, self.catalog)

    def capabilities(self, target: Target) -> Capabilities:
        """What a target can express here."""
        known = self.known()
        entry, warnings = find_model(known, target.model)
        if self.assumed:
            warnings = (self.assumed,)
        declared = self.dpo if target.method == "dpo" and self.dpo is not None else self.sft
        limits = self.limits.get(target.method, self.limits["sft"])
        return Capabilities(
            parameters=declared,
            family=entry.family,
            limits=_with_tokens(limits, entry.max_tokens_per_row),
            lifecycle=entry.lifecycle or known.lifecycle,
            price=entry.price,
            abilities=self.abilities,
            methods=_methods_of(entry, self.methods),
            adapters=self.adapters,
            concurrency=self.concurrency,
            concurrency_source=self.concurrency_source,
            known_model=not warnings,
            warnings=warnings,
        )


def _with_tokens(limits: Limits, tokens: int | None) -> Limits:
    return replace(limits, max_tokens_per_row=tokens)


def _methods_of(entry: ModelEntry, offered: Mapping[str, Ability]) -> dict[str, Ability]:
    methods = dict(offered)
    for name in ("sft", "dpo"):
        if methods.get(name) is True and name not in entry.methods:
            methods[name] = No(f"{entry.id} is not offered for {name}")
    return methods


def base_of(model: str) -> str:
    """The base model inside a tuned model's id: `ft:BASE:ORG:SUFFIX:ID` or `BASE.ft-ID`; else the id itself."""
    if model.startswith("ft:"):
        return model.split(":")[1]
    return model.split(".ft-")[0]


def find_model(known: Catalog, model: str) -> tuple[ModelEntry, tuple[str, ...]]:
    """The catalogue's entry of a base model, an alias of one, or a model tuned from one."""
    if not model:
        return known.default, ()
    base = base_of(model)
    for entry in known.models.values():
        if base == entry.id or base in entry.facts.get("aliases", ()):
            return entry, ()
    return known.model(base)


def profile_of(base_url: str | None) -> Profile:
    """Whose facts hold for a base URL: OpenAI's for its own hosts and for this machine, else by the host's name."""
    host = urlsplit(base_url).hostname or "" if base_url else ""
    if not host or host == "openai.com" or host.endswith(".openai.com"):
        return "openai"
    if host in ("localhost", "127.0.0.1", "::1"):  # a gateway or a fake; whoever runs it can say otherwise
        return "openai"
    return "nebius" if host.endswith(".nebius.com") else "compatible"


OPENAI = Service(
    title="OpenAI",
    kind="openai",
    catalog=_HERE / "catalog.toml",
    sft=parameters.SFT,
    dpo=parameters.DPO,
    methods=parameters.METHODS,
    adapters=parameters.ADAPTERS,
    limits={method: parameters.limits(method, None) for method in ("sft", "dpo")},
    upload_in_parts_above=512 * 1024**2,
    job_page="https://platform.openai.com/finetune/{}",
)

NEBIUS = Service(
    title="Nebius Token Factory",
    kind="nebius",
    catalog=_HERE.parent / "llmtune_nebius" / "catalog.toml",
    sft=declarations.PARAMETERS,
    dpo=None,
    methods=declarations.METHODS,
    adapters=declarations.ADAPTERS,
    limits={"sft": declarations.LIMITS},
    abilities=Abilities(billed_cost=No("the service does not tell what it billed")),
    key_env="NEBIUS_API_KEY",
    base_url="https://api.tokenfactory.nebius.com/v1/",
    key_in=("suffix",),
    max_tokens_word="max_tokens",
    lora_flag=True,
    uploaded_is_ready=True,
    may_lack_lists=True,
)

#: Where the key comes back is not known, so an unclear submit is never repeated.
COMPATIBLE = Service(
    title="the OpenAI-compatible service",
    kind="openai-compatible",
    catalog=_HERE / "compatible.toml",
    sft=parameters.SFT,
    dpo=parameters.DPO,
    methods=parameters.METHODS,
    adapters=parameters.ADAPTERS,
    limits={method: parameters.limits(method, None) for method in ("sft", "dpo")},
    key_in=("metadata",),
    safety=SubmitSafety(kind="none"),
    max_tokens_word="max_tokens",
    uploaded_is_ready=True,
    may_lack_lists=True,
    assumed="this is not OpenAI: what its API takes is assumed to be what OpenAI's takes, and nothing is known of"
    " its models, prices and dates",
)

SERVICES: dict[Profile, Service] = {"openai": OPENAI, "nebius": NEBIUS, "compatible": COMPATIBLE}
