"""A stateful stand-in for Together"s service, for tests and for `python -m llmtune.testing.serve`."""

from llmtune_together.fake.service import FakeTogether

__all__ = ["FakeTogether"]
