"""Account settings and job options of Together AI. No secret is ever among them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmtune.provider import Options, ProviderSettings


class TogetherOptions(Options):
    """What Together can do beyond the common fields. Sources: the together SDK 3.1.1 and its reference."""

    from_checkpoint: str | None = None
    """Continue from an earlier job: its id or output name, with `:STEP` for one of its checkpoints. Takes the place
    of the model."""

    from_hf_model: str | None = None
    """A Hugging Face repository to start from; the job's model says the architecture."""

    hf_model_revision: str | None = None
    """Revision of `from_hf_model`; None is its main branch."""

    hf_output_repo_name: str | None = None
    """A Hugging Face repository that the result is uploaded to."""

    hf_token_env: str | None = None
    """Name of the environment variable that holds the Hugging Face token; read when the job is submitted."""

    train_vision: bool | None = None
    """Whether the vision encoder of a multimodal model is trained too."""

    n_evals: Annotated[int, Field(ge=0)] | None = None
    """Evaluations over the run; takes the place of eval_every when the number of steps is not known."""

    n_checkpoints: Annotated[int, Field(ge=1)] | None = None
    """Checkpoints over the run; takes the place of checkpoint_every."""

    early_stopping_warmup_evals: Annotated[int, Field(ge=0)] | None = None
    """Evaluations that early stopping skips first; the service's default is 1."""

    dpo_normalize_logratios_by_length: bool | None = None
    """DPO: divide log-ratios by the answer's length."""

    rpo_alpha: Annotated[float, Field(ge=0)] | None = None
    """DPO: weight of a likelihood term on the preferred answer (RPO). >= 0."""

    simpo_gamma: Annotated[float, Field(ge=0)] | None = None
    """DPO: margin of SimPO; above 0 the reference model is not used and lengths are normalised."""

    wandb_project_name: str | None = None
    """Weights & Biases project."""

    wandb_name: str | None = None
    """Weights & Biases run name."""

    wandb_entity: str | None = None
    """Weights & Biases entity."""

    wandb_base_url: str | None = None
    """Address of a Weights & Biases instance of your own."""

    wandb_api_key_env: str | None = None
    """Name of the environment variable that holds the Weights & Biases key; read when the job is submitted."""


class TogetherSettings(ProviderSettings):
    """How to reach the account."""

    variables = {"project_id": ("TOGETHER_PROJECT_ID",)}

    base_url: str | None = None
    """Address of the service; None is the SDK's own, or TOGETHER_BASE_URL."""

    api_key_env: str = "TOGETHER_API_KEY"
    """Name of the environment variable that holds the API key."""

    project_id: str | None = None
    """Project, needed for dedicated endpoints; None is TOGETHER_PROJECT_ID."""

    endpoint_config: str | None = None
    """Configuration revision (cr_...) that a dedicated endpoint runs on; None takes the only one that fits."""

    file_wait: Annotated[float, Field(gt=0)] = 900.0
    """Seconds to wait for an uploaded file to be checked by the service."""

    endpoint_wait: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds to wait for a dedicated endpoint to be ready."""

    poll_interval: Annotated[float, Field(gt=0)] = 2.0
    """Seconds between two looks while waiting for a file or an endpoint."""

    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds until an unanswered request is given up."""
