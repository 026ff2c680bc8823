"""Account settings and job options of Nebius Token Factory. No secret is ever among them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmtune.provider import Options, ProviderSettings


class NebiusSettings(ProviderSettings):
    """Where and as whom Nebius Token Factory is called."""

    base_url: str | None = None
    """Address of the service; unset: https://api.tokenfactory.nebius.com/v1/."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; unset: NEBIUS_API_KEY."""

    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds that one call may take; unset: 120, and 600 for files."""


class NebiusOptions(Options):
    """What travels with a job to Nebius alone: nothing yet."""
