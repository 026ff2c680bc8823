import pytest

from llmtune.testing.conformance import ConformanceSuite, notyet
from llmtune_acme import AcmeProvider
from llmtune_acme.fake import FakeAcme


class TestAcme(ConformanceSuite):
    model = "acme-small"
    marks = {
        "test_a_tuned_model_is_in_the_inventory_and_its_job_comes_back": notyet("Acme has no list of tuned models"),
    }

    @pytest.fixture
    def vendor(self):
        with FakeAcme(api_key="test-key") as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor, monkeypatch):
        monkeypatch.setenv("ACME_API_KEY", "test-key")
        return AcmeProvider(settings=AcmeProvider.Settings(base_url=vendor.url))
