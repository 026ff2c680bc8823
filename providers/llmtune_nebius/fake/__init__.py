"""A stateful stand-in for Nebius Token Factory, for tests and for `python -m llmtune.testing.serve`."""

from llmtune_nebius.fake.service import FakeNebius

__all__ = ["FakeNebius"]
