"""A stateful stand-in for Azure OpenAI, for tests and for `python -m llmtune.testing.serve`."""

from llmtune_azure.fake.service import FakeAzure

__all__ = ["FakeAzure"]
