"""The account at AWS: region, bucket, role, group of model packages; and the options that travel with a job."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmtune.provider import Options
from llmtune_bedrock.settings import AwsSettings

#: What stands in a request where a setting has no value yet.
PLACEHOLDERS = {
    "role_arn": "<role_arn>",
    "bucket": "<bucket>",
    "region": "<region>",
    "model_package_group": "<model_package_group>",
}


class SageMakerSettings(AwsSettings):
    """Account facts of one configured instance. Credentials come from AWS's own chain, never from here."""

    required = AwsSettings.required | {
        "role_arn": "role_arn (the role that SageMaker assumes)",
        "model_package_group": "model_package_group (the group in which tuned models are registered)",
    }

    role_arn: str | None = None
    """Role that SageMaker assumes: it may read the datasets and write the results, and trusts
    sagemaker.amazonaws.com."""

    model_package_group: str | None = None
    """Name of the model package group in which tuned models are registered. It must exist, unless
    `create_model_package_group` is set."""

    create_model_package_group: bool = False
    """Allow llmtune to create that group when it does not exist. A group costs nothing by itself."""

    mlflow_arn: str | None = None
    """ARN of a SageMaker MLflow app or tracking server that jobs report their curves to, step by step; unset: only
    final metrics are reported."""

    evaluate_locally: bool = False
    """Allow tuned models and their bases to be downloaded and asked on this machine, by the local backend. An open
    model takes about two gigabytes for each billion parameters."""

    base_url: str | None = None
    """Address of SageMaker, for a proxy or a test; unset: AWS's."""

    mlflow_url: str | None = None
    """Address of MLflow's API, for a proxy or a test; unset: AWS's, by `mlflow_arn`."""


class SageMakerOptions(Options):
    """Options of SageMaker alone, under `provider_options.sagemaker` in a job."""

    accept_eula: bool = False
    """Accept the model's end-user licence agreement. Gated models (Llama) need it; it is never accepted for you."""

    sequence_length: Annotated[str, Field(pattern=r"^\d+K$")] | None = None
    """Longest sequence that the training configuration is chosen for ("4K"), out of those the model's recipes offer;
    unset: SageMaker chooses."""

    max_runtime_seconds: Annotated[int, Field(ge=1)] | None = None
    """Time limit of the job in seconds, >= 1; what it has trained by then is billed. Unset: SageMaker's own, a day."""

    source_model_package: str | None = None
    """ARN of a model package of yours to train on from."""

    evaluator_arn: (
        Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:\d{12}:hub-content/\S+$")] | None
    ) = None
    """Reinforcement: ARN of your evaluator, SageMaker's entry for the Lambda function that scores answers."""

    extra_hyperparameters: dict[str, str] = Field(default_factory=dict)
    """Hyperparameters sent as they are, for keys of a recipe that no field of a job stands for."""
