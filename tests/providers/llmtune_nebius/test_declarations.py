"""What is declared moves in the request body, and nothing else does."""

from __future__ import annotations

import pytest

from llmtune.testing.wire_check import check_request_fields
from llmtune_nebius.provider import NebiusProvider


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_nebius(adapter: str) -> None:
    mismatches = check_request_fields(NebiusProvider(), "meta-llama/Llama-3.3-70B-Instruct", adapter=adapter)
    assert not mismatches, "\n".join(map(str, mismatches))
