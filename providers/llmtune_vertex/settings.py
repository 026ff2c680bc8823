"""The account at Google Cloud: which project, where, which bucket; and the options that travel with a job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from llmtune.provider import Options, ProviderSettings


class VertexSettings(ProviderSettings):
    """Settings of one configured instance. Credentials come from Google's own chain, never from here."""

    variables = {
        "project": ("GOOGLE_CLOUD_PROJECT",),
        "location": ("GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION"),
    }
    required = {
        "project": "project",
        "location": 'location ("us-central1")',
        "bucket": 'bucket (a Cloud Storage bucket, without "gs://")',
    }

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

    machine_type: str | None = None
    """Open models: machine that a tuned one is deployed on ("g2-standard-12"); unset: Model Garden's choice."""

    accelerator_type: str | None = None
    """Open models: accelerator of that machine ("NVIDIA_L4")."""

    accelerator_count: Annotated[int, Field(ge=1)] = 1
    """Open models: accelerators of that machine. >= 1."""

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

    samples_per_prompt: Annotated[int, Field(ge=1)] | None = None
    """Reinforcement: answers to each prompt in a step. Integer >= 1. Unset: Google's choice, which is not published."""

    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    """Reinforcement: longest answer while training, in tokens. Integer >= 1. Unset: 32,768."""

    thinking_level: Literal["MINIMAL", "HIGH"] | None = None
    """Reinforcement: how much the model thinks while it trains. Unset: Google's choice."""

    description: Annotated[str, Field(max_length=1024)] | None = None
    """Shown beside the job in the console."""


def find_credentials(settings: VertexSettings) -> Literal["found", "not found", "not checked"]:
    """Return whether Google's chain has credentials to read, judging by files and variables alone."""
    if settings.token_env:
        return "found" if os.environ.get(settings.token_env) else "not found"
    key_file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if key_file:
        return "found" if Path(key_file).is_file() else "not found"
    folder = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    if (Path(folder) / "application_default_credentials.json").is_file():
        return "found"
    return "not checked" if _on_google_cloud() else "not found"


def _on_google_cloud() -> bool:
    """Return whether this machine is one of Google's, where a metadata server may hand out credentials."""
    if os.environ.get("K_SERVICE") or os.environ.get("GAE_SERVICE"):
        return True
    try:
        return Path("/sys/class/dmi/id/product_name").read_text(encoding="utf-8").startswith("Google")
    except OSError:
        return False
