"""A stateful stand-in for Bedrock and S3, for tests and for `python -m llmtune.testing.serve`."""

from llmtune_bedrock.fake.service import FakeBedrock

__all__ = ["FakeBedrock"]
