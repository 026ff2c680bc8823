"""Small helpers for the tests of datasets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.io.reading import read


@pytest.fixture
def both() -> Callable[..., tuple[list[Example], list[Finding]]]:
    """Reads a file into its examples and its findings."""

    def read_both(path: Any, *args: Any, **kwargs: Any) -> tuple[list[Example], list[Finding]]:
        items = list(read(path, *args, **kwargs))
        return (
            [item for item in items if isinstance(item, Example)],
            [item for item in items if isinstance(item, Finding)],
        )

    return read_both
