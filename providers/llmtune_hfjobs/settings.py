"""The account at Hugging Face."""

from __future__ import annotations

from pydantic import Field

from llmtune.provider import ServiceSettings
from llmtune_local.rented.settings import RentedOptions


class HfJobsOptions(RentedOptions):
    """Options of a run on Hugging Face Jobs."""

    gated: bool = False
    """Give the machine the token of `model_token_env`, as a secret, to read a model that not everybody may read.
    Otherwise it gets no token at all."""


class HfJobsSettings(ServiceSettings):
    """The account, its private bucket, and what the machines start from."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the token; unset: HF_TOKEN. It needs write access to jobs and
    buckets."""

    model_token_env: str | None = None
    """Name of the environment variable with a token that may only read models, for the option `gated`."""

    namespace: str | None = None
    """User or organisation that pays for the jobs; unset: the user of the token."""

    bucket: str = Field(default="llmtune", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
    """Name of the private bucket in that namespace; it is made where there is none."""

    image: str = "ghcr.io/astral-sh/uv:python3.12-bookworm"
    """Docker image of the machine: one with uv, which installs the trainer."""

    runs: str | None = None
    """Folder on this machine for the runs that come home; None: `hfjobs/runs` in llmtune's home."""
