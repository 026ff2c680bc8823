"""Account settings and job options of OpenAI and of services that speak its API. No secret is ever among them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from llmtune._models import DocumentedModel
from llmtune.provider import Options, ProviderSettings


def _split_list(value: Any) -> Any:
    """Split a comma-separated text, as environment variables hold it; leave anything else as it is."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class OpenAISettings(ProviderSettings):
    """Where and as whom OpenAI, or a service that speaks its API, is called."""

    variables = {"base_url": ("OPENAI_BASE_URL",)}

    base_url: str | None = None
    """Address of the service, for another region, a gateway or a compatible service; unset: OPENAI_BASE_URL, else
    OpenAI's own."""

    profile: str | None = None
    """Whose facts hold (openai, nebius, bedrock-mantle, compatible); unset: the host in `base_url` decides."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; unset: OPENAI_API_KEY (NEBIUS_API_KEY at Nebius)."""

    organization: str | None = None
    """Organization id, where the key belongs to several; unset: OPENAI_ORG_ID."""

    project: str | None = None
    """Project id; unset: OPENAI_PROJECT_ID."""

    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds that one call may take; unset: 120, and 600 for files."""

    upload_expires_days: Annotated[int, Field(ge=1, le=30)] | Literal["never"] = 30
    """Days after which the service removes an uploaded file, 1 to 30 or "never": a job must have read it by then, and
    an account holds so many files at most. Not sent to services that have no such field."""

    leave_out: Annotated[tuple[str, ...], BeforeValidator(_split_list)] = ()
    """Fields of OpenAI's requests that this service refuses, and that are not sent to it: "suffix", "seed", "metadata",
    "integrations", "validation_file", "expires_after", a hyperparameter ("batch_size"), or "method" with all of them.
    Plans and reports say what was not sent. Without "metadata" nothing carries the run's key."""


class Wandb(DocumentedModel):
    """Weights & Biases: the vendor writes the job's metrics there (the key is set in the vendor's console)."""

    project: Annotated[str, Field(min_length=1)]
    """Project that the run appears in."""

    name: str | None = None
    """Name of the run; unset: the job's id."""

    entity: str | None = None
    """Team or user; unset: the default of the key."""

    tags: tuple[str, ...] | None = None
    """Labels of the run."""


class OpenAIOptions(Options):
    """What travels with a job to OpenAI alone."""

    wandb: Wandb | None = None
    """Send the job's metrics to Weights & Biases."""
