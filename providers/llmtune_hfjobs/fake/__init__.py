"""A stateful stand-in for Hugging Face Jobs, for tests and for `python -m llmtune.testing.serve`."""

from llmtune_hfjobs.fake.service import FakeHfJobs

__all__ = ["FakeHfJobs"]
