"""What is declared moves in the request body, and nothing else does."""

from __future__ import annotations

import pytest

from llmtune.testing.wire_check import check_wire_truth
from llmtune_nebius.provider import NebiusProvider


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_nebius(adapter: str) -> None:
    found = check_wire_truth(NebiusProvider(), "meta-llama/Llama-3.3-70B-Instruct", adapter=adapter)
    assert not found, "\n".join(map(str, found))
