"""A fake of the service, and the provider that reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune_hfjobs import HfJobsProvider
from llmtune_hfjobs.fake.service import FakeHfJobs
from llmtune_hfjobs.settings import HfJobsSettings

TOKEN = "hf_key-for-tests-0123456789"

#: What the first job of a request has trained: later ones of the same request copy it.
TRAINED: dict[str, Path] = {}


def provider_at(vendor: Any, **settings: Any) -> HfJobsProvider:
    """Return the provider of a fake."""
    return HfJobsProvider("hfjobs", HfJobsSettings.model_validate({"base_url": vendor.url, "timeout": 10} | settings))


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHfJobs]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with FakeHfJobs(api_key=TOKEN, results=TRAINED) as fake:
        yield fake


@pytest.fixture
def provider(vendor: FakeHfJobs) -> HfJobsProvider:
    return provider_at(vendor)
