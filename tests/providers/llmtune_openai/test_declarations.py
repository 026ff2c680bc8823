"""What is declared moves in the request body, and nothing else does."""

from __future__ import annotations

import pytest

from llmtune.testing.wire_check import check_wire_truth
from llmtune_openai import OpenAIProvider
from llmtune_openai.settings import OpenAISettings


@pytest.mark.parametrize("method", ["sft", "dpo"])
@pytest.mark.parametrize("base_url", [None, "https://llm.example.com/v1"])
def test_openai(method: str, base_url: str | None) -> None:
    provider = OpenAIProvider("openai", OpenAISettings(base_url=base_url))
    found = check_wire_truth(provider, "gpt-4.1-2025-04-14", method=method)
    assert not found, "\n".join(map(str, found))


def test_the_check_sees_a_forgotten_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder that drops the batch size is caught: the test above can fail."""
    import llmtune_openai.requests as bodies

    def forgetful(body: dict, knobs: dict) -> dict:  # type: ignore[type-arg]
        knobs.get("method", {}).get("supervised", {}).get("hyperparameters", {}).pop("batch_size", None)
        return original(body, knobs)

    original = bodies.deep_merge
    monkeypatch.setattr(bodies, "deep_merge", forgetful)
    assert "batch_size" in {each.field for each in check_wire_truth(OpenAIProvider(), "gpt-4.1-2025-04-14")}
