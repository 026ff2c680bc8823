"""What differs between services that speak OpenAI's fine-tuning API: facts, knobs, and where a run key can travel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from llmtune.errors import UnknownName
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
from llmtune_openai import declarations

#: Lists are asked for this long after an unclear submit: they are said to lag, by how much is not published.
SEARCHABLE = SubmitSafety(kind="searchable", window=60.0)

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service: its name for people, and everything that the provider must know before it calls."""

    title: str
    kind: str
    """The name under which a user's own catalogue overlays this one, and by which `profile` chooses it."""

    catalog: Path
    sft: Declarations
    dpo: Declarations | None
    methods: Mapping[str, Ability]
    adapters: Mapping[str, Ability]
    limits: Mapping[str, Limits]
    abilities: Abilities = declarations.ABILITIES
    key_env: str = "OPENAI_API_KEY"
    base_url: str | None = None
    """Where it is reached when nothing else is configured; None leaves that to the SDK."""

    hosts: tuple[str, ...] = ()
    """The domains it answers at: a `base_url` there means this service, whoever configured it."""

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
        limits = replace(
            self.limits.get(target.method, self.limits["sft"]), max_tokens_per_row=entry.max_tokens_per_row
        )
        return Capabilities(
            parameters=declared,
            family=entry.family,
            limits=limits,
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


def service_of(base_url: str | None, profile: str | None = None) -> Service:
    """Return the service whose facts hold: by its name if `profile` is given, otherwise by the host of `base_url`.

    Raises:
        UnknownName: no installed service has the name `profile`.
    """
    host = urlsplit(base_url).hostname or "" if base_url else ""
    if profile is None and host in ("", "localhost", "127.0.0.1", "::1"):
        return OPENAI  # a gateway or a fake on this machine; `profile` can say otherwise
    services = {service.kind: service for service in (OPENAI, *_other_services())}
    if profile is None:
        at_host = (
            service for service in services.values() for domain in service.hosts if f".{host}".endswith(f".{domain}")
        )
        return next(at_host, COMPATIBLE)
    services["compatible"] = COMPATIBLE
    if profile not in services:
        raise UnknownName("profile", profile, services)
    return services[profile]


@cache
def _other_services() -> tuple[Service, ...]:
    """The services that other packages declare under the entry-point group `llmtune_openai.services`."""
    return tuple(entry.load() for entry in entry_points(group="llmtune_openai.services"))


OPENAI = Service(
    title="OpenAI",
    kind="openai",
    catalog=_HERE / "catalog.toml",
    sft=declarations.SFT,
    dpo=declarations.DPO,
    methods=declarations.METHODS,
    adapters=declarations.ADAPTERS,
    limits={method: declarations.limits(method, None) for method in ("sft", "dpo")},
    hosts=("openai.com",),
    upload_in_parts_above=512 * 1024**2,
    job_page="https://platform.openai.com/finetune/{}",
)

#: Where the key comes back is not known, so an unclear submit is never repeated.
COMPATIBLE = replace(
    OPENAI,
    title="the OpenAI-compatible service",
    kind="openai-compatible",
    catalog=_HERE / "compatible.toml",
    hosts=(),
    upload_in_parts_above=None,
    job_page=None,
    safety=SubmitSafety(kind="none"),
    max_tokens_word="max_tokens",
    uploaded_is_ready=True,
    may_lack_lists=True,
    assumed="this is not OpenAI: what its API takes is assumed to be what OpenAI's takes, and nothing is known of"
    " its models, prices and dates",
)
