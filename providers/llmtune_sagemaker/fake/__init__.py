"""A stateful stand-in for SageMaker, its hub, S3 and MLflow, for tests and for `python -m llmtune.testing.serve`."""

from llmtune_sagemaker.fake.service import FakeSageMaker

__all__ = ["FakeSageMaker"]
