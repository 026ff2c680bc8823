"""What is declared moves in the request body, and nothing else does."""

from __future__ import annotations

import pytest

from llmtune.testing.wire_check import check_request_fields
from llmtune_openai import OpenAIProvider
from llmtune_openai.settings import OpenAISettings


@pytest.mark.parametrize("method", ["sft", "dpo"])
@pytest.mark.parametrize("base_url", [None, "https://llm.example.com/v1"])
def test_openai(method: str, base_url: str | None) -> None:
    provider = OpenAIProvider("openai", OpenAISettings(base_url=base_url))
    mismatches = check_request_fields(provider, "gpt-4.1-2025-04-14", method=method)
    assert not mismatches, "\n".join(map(str, mismatches))


def test_the_check_sees_a_forgotten_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder that drops the batch size is caught: the test above can fail."""
    import llmtune_openai.requests as bodies

    def forgetful(body: dict, parameters: dict) -> dict:  # type: ignore[type-arg]
        parameters.get("method", {}).get("supervised", {}).get("hyperparameters", {}).pop("batch_size", None)
        return original(body, parameters)

    original = bodies.deep_merge
    monkeypatch.setattr(bodies, "deep_merge", forgetful)
    assert "batch_size" in {mismatch.field for mismatch in check_request_fields(OpenAIProvider(), "gpt-4.1-2025-04-14")}
