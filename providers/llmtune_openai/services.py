"""Differences between services with OpenAI's fine-tuning API: facts, parameters, and where a run key is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    Converted,
    Declarations,
    EpochRange,
    Limits,
    ModelEntry,
    NotOffered,
    Sent,
    SubmitSafety,
    Target,
    Unsupported,
)
from llmtune.provider import catalog as catalogs
from llmtune_openai import declarations
from llmtune_openai.automatic_epochs import bound_automatic_epochs
from llmtune_openai.graders import declare_grader

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
    reinforcement: Declarations | None = None
    methods: Mapping[str, Ability]
    adapters: Mapping[str, Ability]
    limits: Mapping[str, Limits]
    abilities: Abilities = declarations.ABILITIES
    key_env: str = "OPENAI_API_KEY"
    make_key: Callable[[str], Callable[[], str] | None] | None = None
    """Returns a function that makes short-lived keys for an address, where the variable of the key is not set; or None
    where what it needs is not installed."""

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

    upload_days: tuple[int, int] | None = None
    """The fewest and the most days after which it removes an uploaded file if asked; None: there is no such field."""

    may_lack_lists: bool = False
    """Whether its jobs may have no list of events or checkpoints; else a missing list is an error."""

    epochs_if_unset: Callable[[Target], EpochRange] | None = None
    """Between how many epochs it chooses for a target; None: its default is declared, or nothing is known."""

    concurrency: int | None = None
    concurrency_source: str = ""
    job_page: str | None = None
    """Where a person can look at a job; `{}` is its id."""

    left_out: tuple[str, ...] = ()
    """Fields of OpenAI's requests that are never sent here, as `leave_out_fields` takes them."""

    left_out_reason: str = ""
    """Why not, for receipts."""

    methods_sent: tuple[str, ...] = ()
    """Methods whose jobs have the field `method` where `left_out` takes it from all others."""

    make_grader: Callable[[Target], Converted] | None = None
    """Returns what becomes of a grader in a reinforcement job; None: one of OpenAI's kind that holds its source."""

    own_kind: str = ""
    """The provider that alone can serve its tuned models, where they need more than OpenAI's calls; "" for none."""

    assumed: str = ""
    """A warning that stands on every plan: these facts are borrowed."""

    def known(self) -> Catalog:
        """Load the catalogue, overlaid with the user's own."""
        return catalogs.load(self.kind, self.catalog)

    def capabilities(self, target: Target) -> Capabilities:
        """Return what a target supports here."""
        catalog = self.known()
        entry, warnings = find_model(catalog, target.model)
        is_known = not warnings and not self.assumed
        warnings = (self.assumed,) if self.assumed else warnings
        declared = {"dpo": self.dpo, "reinforcement": self.reinforcement}.get(target.method) or self.sft
        limits = replace(
            self.limits.get(target.method, self.limits["sft"]), max_tokens_per_row=entry.max_tokens_per_row
        )
        return Capabilities(
            parameters=declared,
            family=entry.family,
            limits=limits,
            lifecycle=entry.lifecycle or catalog.lifecycle,
            price=entry.price,
            abilities=self.abilities,
            methods=_methods_of(entry, self.methods),
            adapters=self.adapters,
            grader=self._find_grader(target),
            concurrency=self.concurrency,
            concurrency_source=self.concurrency_source,
            epochs_if_unset=self.epochs_if_unset(target) if self.epochs_if_unset is not None else None,
            known_model=is_known,
            warnings=(*warnings, *self._notes(target)),
        )

    def _find_grader(self, target: Target) -> Converted | None:
        is_sent = "method" not in self.left_out or "reinforcement" in self.methods_sent
        if self.reinforcement is None or not is_sent:
            return None
        return declare_grader(self.kind) if self.make_grader is None else self.make_grader(target)

    def _notes(self, target: Target) -> Iterator[str]:
        """Yield what of a job is not sent because of `left_out`, where no field of the receipt says so."""
        if "integrations" in self.left_out and target.options.get("wandb"):
            yield f"provider_options.{target.provider}.wandb is {self.left_out_reason}"
        if "validation_file" in self.left_out and target.rows.get("validation"):
            yield f"the validation rows are {self.left_out_reason}"
        if self.left_out and not self.key_in:
            yield "no field carries the run's key here: a submit whose answer is lost is never repeated"


def _methods_of(entry: ModelEntry, offered: Mapping[str, Ability]) -> dict[str, Ability]:
    methods = dict(offered)
    for name in ("sft", "dpo", "reinforcement"):
        if methods.get(name) is True and name not in entry.methods:
            methods[name] = NotOffered(f"{entry.id or 'a model that is not listed'} is not offered for {name}")
    return methods


def base_of(model: str) -> str:
    """Return the base model in a tuned model's id: `ft:BASE:ORG:SUFFIX:ID` or `BASE.ft-ID`; else the id itself."""
    if model.startswith("ft:"):
        return model.split(":")[1]
    return model.split(".ft-")[0]


def find_model(catalog: Catalog, model: str) -> tuple[ModelEntry, tuple[str, ...]]:
    """Return the catalogue's entry of a base model, an alias of one, or a model tuned from one; and warnings."""
    if not model:
        return catalog.default, ()
    base = base_of(model)
    for entry in catalog.models.values():
        if base == entry.id or base in entry.facts.get("aliases", ()):
            return entry, ()
    return catalog.model(base)


#: Fields of a request without which there is no job.
_NEEDED_FIELDS = ("model", "training_file")

#: Fields that no declaration of a job's field names.
_MAX_TOKENS_WORDS = frozenset({"max_tokens", "max_completion_tokens"})
_OTHER_FIELDS = ("validation_file", "method", "metadata", "integrations", "expires_after")


def leave_out_fields(service: Service, fields: Sequence[str], reason: str) -> Service:
    """Return the service without some fields of OpenAI's requests, which it refuses.

    Args:
        service: the service.
        fields: names of fields ("suffix"), paths ("method.supervised.hyperparameters.batch_size") or their last parts
            ("batch_size"); "method" takes all hyperparameters with it.
        reason: why they are not sent, as a clause for receipts: "not sent: ...".

    Raises:
        UnknownName: there is no such field, or no job could be sent without it.
    """
    declared = [method for method in (service.sft, service.dpo, service.reinforcement) if method is not None]
    sent = [entry for method in declared for entry in method.values() if isinstance(entry, (Sent, Converted))]
    paths = {entry.request_path for entry in sent}
    names = {*_OTHER_FIELDS, *_MAX_TOKENS_WORDS, *paths, *(path.rpartition(".")[2] for path in paths)}
    for name in fields:
        if name not in names:
            raise UnknownName("field in leave_out", name, names.difference(_NEEDED_FIELDS))
    if _MAX_TOKENS_WORDS.intersection(fields):
        fields = (*fields, *_MAX_TOKENS_WORDS.difference(fields))
    key_in = tuple(place for place in service.key_in if place not in fields)
    methods = dict(service.methods)
    for name in ("dpo", "reinforcement"):
        if "method" in fields and methods.get(name) is True:
            methods[name] = NotOffered(f"the method is {reason}")
    limits = dict(service.limits)
    if "validation_file" in fields:
        limits = {method: replace(entry, validation="unused") for method, entry in limits.items()}
    return replace(
        service,
        sft=_without(service.sft, fields, reason),
        dpo=None if service.dpo is None else _without(service.dpo, fields, reason),
        reinforcement=None if service.reinforcement is None else _without(service.reinforcement, fields, reason),
        methods=methods,
        limits=limits,
        key_in=key_in,
        safety=service.safety if key_in else SubmitSafety(kind="none"),
        upload_days=None if "expires_after" in fields else service.upload_days,
        left_out=(*service.left_out, *fields),
        left_out_reason=reason,
    )


def _without(declared: Declarations, fields: Sequence[str], reason: str) -> Declarations:
    def is_left_out(path: str) -> bool:
        parents = {".".join(path.split(".")[:depth]) for depth in range(1, path.count(".") + 2)}
        return bool(parents.intersection(fields)) or path.rpartition(".")[2] in fields

    return declared.replace(
        **{
            name: Unsupported(reason)
            for name, entry in declared.items()
            if isinstance(entry, (Sent, Converted)) and is_left_out(entry.request_path)
        }
    )


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
    """Return the services that other packages declare under the entry-point group `llmtune_openai.services`."""
    return tuple(entry.load() for entry in entry_points(group="llmtune_openai.services"))


OPENAI = Service(
    title="OpenAI",
    kind="openai",
    epochs_if_unset=bound_automatic_epochs,
    catalog=_HERE / "catalog.toml",
    sft=declarations.SFT,
    dpo=declarations.DPO,
    methods={
        **declarations.METHODS,
        "reinforcement": NotOffered("not yet: OpenAI has no model left that it tunes by reinforcement"),
    },
    adapters=declarations.ADAPTERS,
    limits={method: declarations.limits(method, None) for method in ("sft", "dpo")},
    hosts=("openai.com",),
    upload_in_parts_above=512 * 1024**2,
    upload_days=(1, 30),  # 3,600 to 2,592,000 seconds (openai 3.52.0, file_create_params.py)
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
    upload_days=None,
    job_page=None,
    methods=declarations.METHODS,
    safety=SubmitSafety(kind="none"),
    max_tokens_word="max_tokens",
    uploaded_is_ready=True,
    may_lack_lists=True,
    assumed="this is not OpenAI: what its API takes is assumed to be what OpenAI's takes, and nothing is known of"
    " its models, prices and dates",
)
