"""Account settings and job options of Azure OpenAI. No secret is ever among them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmtune.provider import Options, ProviderSettings
from llmtune_openai.settings import Wandb

#: The three words the service takes. Any other makes it drop the whole body: "The fineTuningJob field is required".
TrainingType = Literal["Standard", "GlobalStandard", "developerTier"]

Sku = Literal["Standard", "GlobalStandard", "DeveloperTier", "DataZoneStandard", "ProvisionedManaged"]


class AzureSettings(ProviderSettings):
    """Which Azure OpenAI resource is used, as whom, and how tuned models are deployed on it."""

    variables = {"endpoint": ("AZURE_OPENAI_ENDPOINT",), "subscription_id": ("AZURE_SUBSCRIPTION_ID",)}
    required = {"endpoint": 'endpoint ("https://NAME.openai.azure.com")'}

    endpoint: str | None = None
    """Address of the resource ("https://NAME.openai.azure.com") or of a Foundry project; unset:
    AZURE_OPENAI_ENDPOINT."""

    auth: Literal["key", "entra"] | None = None
    """How to sign in for training and inference; unset: by key where its variable is set, else through Entra ID."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; unset: AZURE_OPENAI_API_KEY."""

    token_env: str | None = None
    """Name of an environment variable that holds a ready-made Entra token for the resource; unset:
    AZURE_OPENAI_AD_TOKEN."""

    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds that one call may take; unset: 120, and 600 for files."""

    upload_expires_days: Annotated[int, Field(ge=14, le=30)] | Literal["never"] = 30
    """Days after which Azure removes an uploaded file, 14 to 30 or "never": a job must have read it by then. A resource
    holds 500 files without expiry at most (llmtune runs cleanup removes them)."""

    subscription_id: str | None = None
    """Subscription of the resource, needed to deploy; unset: AZURE_SUBSCRIPTION_ID."""

    resource_group: str | None = None
    """Resource group of the resource, needed to deploy."""

    account_name: str | None = None
    """Name of the resource, needed to deploy; unset: the first part of the endpoint's host."""

    management_url: str | None = None
    """Address of Azure's control plane; unset: the public cloud's."""

    management_token_env: str | None = None
    """Name of an environment variable that holds a ready-made Entra token for the control plane; unset: the chain of
    azure-identity (environment, managed identity, az login, ...)."""

    deployment_sku: Sku = "Standard"
    """Kind of deployment. DeveloperTier has no hourly price and is removed by Azure after 24 hours."""

    deployment_capacity: Annotated[int, Field(ge=1)] = 50
    """Capacity of a deployment, in thousand tokens a minute. Integer >= 1."""

    region: str | None = None
    """Region of the resource ("eastus2"), for which `llmtune prices azure --live` asks; nothing else needs it."""

    prices_url: str | None = None
    """Address of Azure's public price list, for a proxy or a test; unset: https://prices.azure.com/api/retail/prices.
    No credential is sent to it."""

    base_deployment: str | None = None
    """A standing deployment of the untuned base model, which evaluations may ask for comparison."""


class AzureOptions(Options):
    """What travels with a job to Azure alone."""

    training_type: TrainingType | None = None
    """Where it is trained: Standard (in the region), GlobalStandard (cheaper, weights are copied) or developerTier
    (spot: cheapest, may be interrupted, no residency). Unset: the service's default, Standard."""

    compute_multiplier: Annotated[float, Field(gt=1e-5, le=10)] | None = None
    """Reinforcement: factor on the computing for exploring answers, above 0.00001 and at most 10. Unset: automatic."""

    eval_samples: Annotated[int, Field(ge=1)] | None = None
    """Reinforcement: answers to each validation row in an evaluation. Integer >= 1. Unset: automatic."""

    reasoning_effort: Literal["low", "medium", "high"] | None = None
    """Reinforcement: how much the model reasons while it trains. Unset: the service's default."""

    wandb: Wandb | None = None
    """Send the job's metrics to Weights & Biases."""
