"""Azure OpenAI passes the suite that every provider passes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from llmtune.testing.conformance import ConformanceSuite
from llmtune.testing.markers import Mark, never
from llmtune_azure import AzureProvider
from llmtune_azure.fake.service import FakeAzure
from llmtune_azure.settings import AzureSettings


class TestAzure(ConformanceSuite):
    model = "gpt-4.1-mini-2025-04-14"
    hyperparameters: ClassVar[dict[str, Any]] = {"epochs": 2, "batch_size": 8}
    provider_options: ClassVar[dict[str, Any]] = {"training_type": "GlobalStandard"}
    marks: ClassVar[dict[str, Mark]] = {
        "test_what_we_made_is_removed_and_removing_it_twice_does_no_harm": never(
            "the v1 endpoint deletes no models; files are deleted"
        ),
    }

    @pytest.fixture
    def vendor(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "az-test")
        monkeypatch.setenv("ARM_TOKEN", "az-test")
        with FakeAzure(api_key="az-test") as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor: FakeAzure) -> AzureProvider:
        return AzureProvider("azure", settings_for(vendor))


@pytest.mark.slow
class TestAzureReinforcement(TestAzure):
    """Reinforcement jobs, whose training hours nobody knows before they end."""

    model = "o4-mini-2025-04-16"
    method = "reinforcement"
    test_the_whole_way_past_a_fault = None  # the same code as for the other methods
    hyperparameters: ClassVar[dict[str, Any]] = {"epochs": 2, "eval_every": 2}
    provider_options: ClassVar[dict[str, Any]] = {"reasoning_effort": "low"}


def settings_for(vendor: FakeAzure, **more: Any) -> AzureSettings:
    """The settings of a resource that the fake plays."""
    values: dict[str, Any] = {
        "endpoint": vendor.url,
        "management_url": vendor.url,
        "management_token_env": "ARM_TOKEN",
        "subscription_id": "11111111-2222-3333-4444-555555555555",
        "resource_group": "tuning",
        "account_name": "mine",
        "timeout": 5,
    }
    return AzureSettings.model_validate(values | more)
