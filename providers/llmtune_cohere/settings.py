"""The account: which service is meant, which key; and the way on when it is the one that has closed."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from llmtune.config import read_secret
from llmtune.errors import InvalidSettings, MissingCredentials, MissingExtra, ProviderClosed
from llmtune.provider import Account, Lifecycle, Options, Readiness

if TYPE_CHECKING:
    import cohere
    import httpx

    from llmtune.provider import Catalog, ModelEntry

#: Hosts of the public service, which no longer tunes. Naming one of them explicitly changes nothing.
PUBLIC_HOSTS = ("api.cohere.com", "api.cohere.ai", "production.api.cohere.ai")

KEY_VARIABLES = ("CO_API_KEY", "COHERE_API_KEY")

#: A checkpoint to go on with where the asked-for model has no published weights.
FALLBACK_WEIGHTS = "CohereForAI/aya-expanse-8b"

Transport = Literal["closed", "api", "self-hosted"]


class CohereOptions(Options):
    """What Cohere can do beyond the common fields."""

    wandb_project: str | None = None
    """Weights & Biases project."""

    wandb_entity: str | None = None
    """Weights & Biases entity."""

    wandb_run_id: str | None = None
    """Weights & Biases run (cohere-finetune only)."""

    wandb_api_key_env: str | None = None
    """API: name of the environment variable that holds the Weights & Biases key; read when the job is submitted."""

    parallel_strategy: Literal["fsdp", "vanilla", "deepspeed"] | None = None
    """cohere-finetune: how several GPUs share the work; its default is fsdp."""

    gradient_checkpointing: bool | None = None
    """cohere-finetune: recompute activations to save memory; its default is true."""

    validation_batch_size: Annotated[int, Field(ge=1)] | None = None
    """cohere-finetune: rows evaluated at once; its default is 16."""

    eval_percentage: Annotated[float, Field(ge=0.05, le=0.5)] | None = None
    """cohere-finetune: share split off for evaluation where no validation rows are given; its default is 0.2."""

    rslora: bool | None = None
    """cohere-finetune: rank-stabilised LoRA (the update is scaled by alpha / sqrt(rank)); its default is true."""


class CohereSettings(Account):
    """How to reach a service that still tunes."""

    base_url: str | None = None
    """An endpoint that still serves Cohere's fine-tuning API (a private deployment). None: the retired public one."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the API key; None is CO_API_KEY, else COHERE_API_KEY."""

    service_url: str | None = None
    """Address of your own cohere-finetune container, such as http://localhost:5000. Excludes base_url."""

    inference_url: str | None = None
    """Address of its inference container, such as http://localhost:5001; without it tuned models are not asked."""

    data_root: Path | None = None
    """The folder on this machine that the container sees as `container_root` (PATH_PREFIX of its README)."""

    container_root: str = "/opt/finetuning"
    """That folder as the container sees it."""

    dataset_wait: Annotated[float, Field(gt=0)] = 900.0
    """Seconds to wait for an uploaded dataset to be validated."""

    poll_interval: Annotated[float, Field(gt=0)] = 2.0
    """Seconds between two looks while waiting for a dataset."""

    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds until an unanswered request is given up."""


def transport(settings: CohereSettings) -> Transport:
    """Which service these settings mean. Raises `InvalidSettings` when they name two."""
    if settings.service_url and settings.base_url:
        raise InvalidSettings("cohere: base_url (the API) and service_url (cohere-finetune) exclude each other")
    if settings.service_url:
        return "self-hosted"
    if settings.base_url and urlsplit(settings.base_url).hostname not in PUBLIC_HOSTS:
        return "api"
    return "closed"


def lifecycle(settings: CohereSettings, known: Catalog, entry: ModelEntry) -> Lifecycle:
    """Retired for the public service; for an endpoint of the user's own, active with a word on whose it is."""
    where = transport(settings)
    if where == "closed":
        retired = entry.lifecycle or known.lifecycle
        return replace(retired, note=f"{retired.note.split(' Continue on')[0]} {way_on(entry)}")
    address = settings.service_url if where == "self-hosted" else settings.base_url
    what = "your own cohere-finetune" if where == "self-hosted" else "an endpoint of your own that serves the API"
    return Lifecycle(
        status="active",
        note=f"{what} at {address}; Cohere's own service retired on {known.lifecycle.closes}",
        source=known.lifecycle.source,
    )


def way_on(entry: ModelEntry) -> str:
    """How to go on: the command that runs the same job elsewhere."""
    weights = entry.facts.get("open_weights")
    what = f"the open weights of {entry.id}" if weights else "open weights"
    return (
        f"Continue with {what}: llmtune tune JOB --provider local --model {weights or FALLBACK_WEIGHTS}"
        " (see the weights' own licence first); or name another living backend, or set base_url (an endpoint that"
        " still serves the API) or service_url (your own cohere-finetune) under [providers.cohere]"
    )


def closed(name: str, known: Catalog, entry: ModelEntry) -> ProviderClosed:
    """The refusal of a call to the public service."""
    gone = known.lifecycle
    return ProviderClosed(
        f"{name}: Cohere retired fine-tuning, dashboard and API, on {gone.closes} ({gone.source});"
        " models tuned there no longer answer",
        provider=name,
        since=gone.closes,
        alternatives=("local",),
        hint=way_on(entry),
    )


def key(settings: CohereSettings) -> str | None:
    """The API key in the environment, None when there is none."""
    names = (settings.api_key_env,) if settings.api_key_env else KEY_VARIABLES
    return next((value for name in names if (value := read_secret(name))), None)


def client(name: str, settings: CohereSettings) -> cohere.ClientV2:
    """The SDK's client at the configured endpoint, its own retries off.

    Raises:
        MissingExtra: `cohere` is not installed.
        MissingCredentials: no API key is in the environment.
    """
    try:
        import cohere
    except ImportError:
        raise MissingExtra("cohere", "cohere", purpose=f"provider {name}") from None
    found = key(settings)
    if not found:
        wanted = settings.api_key_env or KEY_VARIABLES[0]
        raise MissingCredentials(
            f"provider {name}: no API key: the environment variable {wanted} is not set",
            hint=f"export {wanted}=...  (the key of the endpoint at {settings.base_url})",
        )
    return cohere.ClientV2(
        api_key=found,
        base_url=settings.base_url,
        timeout=settings.timeout,
        max_retries=0,
        httpx_client=http(settings),
    )


def http(settings: CohereSettings) -> httpx.Client:
    """An HTTP client that keeps no connection open: on a fresh one a failure says more about what has arrived."""
    import httpx

    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(timeout=settings.timeout, follow_redirects=True, limits=limits)


def data_root(name: str, settings: CohereSettings) -> Path:
    """The shared folder of the container. Raises `InvalidSettings` when it is not named or not there."""
    if settings.data_root is None:
        raise InvalidSettings(
            f"provider {name}: cohere-finetune reads its files from a shared folder, which is not named",
            hint=f"set data_root under [providers.{name}] in llmtune.toml, or LLMTUNE_{name.upper()}_DATA_ROOT",
        )
    if not settings.data_root.is_dir():
        raise InvalidSettings(f"provider {name}: data_root {settings.data_root} is not a folder on this machine")
    return settings.data_root


def ready(settings: CohereSettings) -> Readiness:
    """What is there and what is missing; for the retired service nothing is asked for."""
    where = transport(settings)
    if where == "closed":
        return Readiness(extra="not needed", credentials="not needed", hint="the managed service is retired")
    if where == "self-hosted":
        unset = () if settings.data_root else ("data_root",)
        return Readiness(
            extra="installed" if importlib.util.find_spec("httpx") else "missing",
            credentials="not needed",
            missing_settings=unset,
            hint="set data_root under [providers.cohere]: the folder shared with the container" if unset else None,
        )
    installed = importlib.util.find_spec("cohere") is not None
    found = key(settings)
    hint = None
    if not installed:
        hint = "pip install 'llmtune-sdk[cohere]'"
    elif not found:
        hint = f"export {settings.api_key_env or KEY_VARIABLES[0]}=..."
    return Readiness(
        extra="installed" if installed else "missing", credentials="found" if found else "not found", hint=hint
    )
