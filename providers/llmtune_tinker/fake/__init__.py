"""A stand-in for Tinker, for tests and for trying things out: `python -m llmtune.testing.serve tinker`."""

from llmtune_tinker.fake.service import FakeTinker

__all__ = ["FakeTinker"]
