"""Tokenizers with the chat templates of well-known families: those on which the local trainer is tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tokenizers() -> Callable[[str], Any]:
    from tests.providers.llmtune_local.conftest import family

    return family


@pytest.fixture(scope="session")
def turn_ends() -> dict[str, str]:
    from tests.providers.llmtune_local.conftest import FAMILIES

    return {name: values[4] for name, values in FAMILIES.items()}


@pytest.fixture(scope="session")
def new_tokenizer() -> Callable[..., Any]:
    from tests.providers.llmtune_local.conftest import build_tokenizer

    return build_tokenizer
