"""Account settings and job options of Cohere, and which of its services they mean. No secret is ever among them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from llmtune.errors import InvalidSettings
from llmtune.provider import Options, ProviderSettings

#: Hosts of the public service, which no longer tunes. Naming one of them explicitly changes nothing.
PUBLIC_HOSTS = ("api.cohere.com", "api.cohere.ai", "production.api.cohere.ai")

#: Where the public service kept datasets, whose addresses its answers name.
STORAGE_HOSTS = ("storage.googleapis.com", "cohere.com", "cohere.ai")

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


class CohereSettings(ProviderSettings):
    """How to reach a service that still tunes."""

    required = {"data_root": "data_root (the folder on this machine that is shared with the container)"}

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

    storage_hosts: tuple[str, ...] = ()
    """API: hosts, besides Cohere's own, from which the files of a dataset are fetched (over https, subdomains too)."""

    dataset_wait: Annotated[float, Field(gt=0)] = 900.0
    """Seconds to wait for an uploaded dataset to be validated."""

    poll_interval: Annotated[float, Field(gt=0)] = 2.0
    """Seconds between two looks while waiting for a dataset."""

    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds until an unanswered request is given up."""

    def missing(self) -> tuple[str, ...]:
        """Return the settings that one's own trainer lacks; the API needs none but its address."""
        return super().missing() if self.service_url else ()

    @property
    def transport(self) -> Transport:
        """Which service is meant. Raises `InvalidSettings` when two are named."""
        if self.service_url and self.base_url:
            raise InvalidSettings("cohere: base_url (the API) and service_url (cohere-finetune) exclude each other")
        if self.service_url:
            return "self-hosted"
        if self.base_url and urlsplit(self.base_url).hostname not in PUBLIC_HOSTS:
            return "api"
        return "closed"
