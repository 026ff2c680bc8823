"""A stateful stand-in for OpenAI"s fine-tuning service, for tests and for `python -m llmtune.testing.serve`."""

from llmtune_openai.fake.service import FakeOpenAI

__all__ = ["FakeOpenAI"]
