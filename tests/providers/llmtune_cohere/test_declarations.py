"""What Cohere's declarations say moves, moves in the request body; nothing else does. Both transports."""

from __future__ import annotations

import pytest

from llmtune.testing.wire_check import check_request_fields
from llmtune_cohere import CohereProvider
from llmtune_cohere.settings import CohereSettings

API = CohereSettings(base_url="http://localhost:1")
OWN = CohereSettings(service_url="http://localhost:5000")


@pytest.mark.parametrize("settings", [CohereSettings(), API])
@pytest.mark.parametrize("method", ["sft", "classification"])
def test_declared_is_moved_by_the_api(settings: CohereSettings, method: str) -> None:
    mismatches = check_request_fields(CohereProvider(settings=settings), "command-r-08-2024", method=method)
    assert not mismatches, "\n".join(map(str, mismatches))


@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_declared_is_moved_by_the_open_trainer(adapter: str) -> None:
    mismatches = check_request_fields(
        CohereProvider(settings=OWN), "command-r-08-2024", adapter=adapter, companions={"lora_rank": {}}
    )
    assert not mismatches, "\n".join(map(str, mismatches))
