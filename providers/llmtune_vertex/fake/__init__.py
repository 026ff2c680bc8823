"""A stateful stand-in for Vertex AI and Cloud Storage, for tests and for `python -m llmtune.testing.serve`."""

from llmtune_vertex.fake.service import FakeVertex

__all__ = ["FakeVertex"]
