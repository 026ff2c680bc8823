"""A stateful stand-in for Cohere"s two services, for tests and for `python -m llmtune.testing.serve`."""

from llmtune_cohere.fake.service import FakeCohere, FakeCohereFinetune

__all__ = ["FakeCohere", "FakeCohereFinetune"]
