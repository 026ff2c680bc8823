"""Amazon SageMaker: serverless customization of open models through CreateTrainingJob, with boto3."""

from __future__ import annotations

from llmtune_sagemaker.provider import SageMakerProvider

__all__ = ["SageMakerProvider"]
