"""The account at Google Cloud: which project, where, which bucket; and the options that travel with a job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from llmtune.errors import InvalidSettings
from llmtune.provider import Account, Options

if TYPE_CHECKING:
    from collections.abc import Sequence


class VertexSettings(Account):
    """Account facts of one configured instance. Credentials come from Google's own chain, never from here."""

    project: str | None = None
    """Google Cloud project id; unset: GOOGLE_CLOUD_PROJECT."""

    location: str | None = None
    """Where jobs are tuned ("us-central1", "europe-west4", "global"); unset: GOOGLE_CLOUD_LOCATION."""

    bucket: str | None = None
    """Cloud Storage bucket for datasets and the weights of open models, without "gs://"."""

    prefix: str = "llmtune"
    """Folder in the bucket."""

    service_account: str | None = None
    """E-mail of the service account that the tuning job runs as; unset: Google's own service identity."""

    kms_key_name: str | None = None
    """Customer-managed encryption key of job and model: projects/P/locations/L/keyRings/R/cryptoKeys/K."""

    serving_location: str | None = None
    """Where tuned models answer; unset: the tuning location ("us" or "eu" for Gemini 3 models)."""

    base_url: str | None = None
    """Address of the API, for a proxy or a test; unset: Google's."""

    storage_url: str | None = None
    """Address of Cloud Storage, for a proxy or a test; unset: Google's."""

    token_env: str | None = None
    """Name of an environment variable that holds an access token; unset: Google's application-default chain."""

    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds until a call to the API is given up. > 0."""


class VertexOptions(Options):
    """Options of Vertex AI alone, under `provider_options.vertex` in a job."""

    pre_tuned_model_checkpoint_id: str | None = None
    """With a tuned model as base ("projects/..."): the checkpoint to go on from; unset: its default one."""

    custom_base_model: str | None = None
    """Open models: weights of your own to start from (gs://...), instead of the published ones."""

    description: Annotated[str, Field(max_length=1024)] | None = None
    """Shown beside the job in the console."""


def project(settings: VertexSettings) -> str | None:
    """The project: from the settings, or from the variables that Google's SDK reads."""
    return settings.project or os.environ.get("GOOGLE_CLOUD_PROJECT") or None


def location(settings: VertexSettings) -> str | None:
    """The tuning location: from the settings, or from the variables that Google's SDK reads."""
    names = ("GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION")
    return settings.location or next((os.environ[name] for name in names if os.environ.get(name)), None)


def missing(settings: VertexSettings) -> tuple[str, ...]:
    """Settings without which no job can be sent."""
    needed = {"project": project(settings), "location": location(settings), "bucket": settings.bucket}
    return tuple(name for name, value in needed.items() if not value)


def require(name: str, settings: VertexSettings, *fields: str) -> None:
    """Raise `InvalidSettings` naming the first of `fields` that is not set, and the two places to set it."""
    unset = [field for field in missing(settings) if field in fields]
    if unset:
        raise InvalidSettings(needs(name, unset))


def needs(name: str, fields: Sequence[str]) -> str:
    """One sentence that says which settings are missing and where they go."""
    words = {"bucket": 'bucket (a Cloud Storage bucket, without "gs://")', "location": 'location ("us-central1")'}
    named = [words.get(field, field) for field in fields]
    listed = " and ".join([*([", ".join(named[:-1])] if named[:-1] else []), named[-1]])
    variables = ", ".join(f"LLMTUNE_{name.upper().replace('-', '_')}_{field.upper()}" for field in fields)
    return f"{name} needs {listed}: set it under [providers.{name}] in llmtune.toml, or as {variables}"


def credentials(settings: VertexSettings) -> Literal["found", "not found", "not checked"]:
    """Whether Google's chain has something to read, told from files and variables alone."""
    if settings.token_env:
        return "found" if os.environ.get(settings.token_env) else "not found"
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        return "found" if Path(named).is_file() else "not found"
    folder = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    if (Path(folder) / "application_default_credentials.json").is_file():
        return "found"
    return "not checked" if on_google_cloud() else "not found"


def on_google_cloud() -> bool:
    """Whether this machine is one of Google's, where a metadata server may hand out credentials."""
    if os.environ.get("K_SERVICE") or os.environ.get("GAE_SERVICE"):
        return True
    try:
        return Path("/sys/class/dmi/id/product_name").read_text(encoding="utf-8").startswith("Google")
    except OSError:
        return False
