"""Weights that were trained elsewhere, imported through the real boto3 against the fake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.data.dataset import Dataset
from llmtune.data.formats.registry import get_format
from llmtune.errors import InvalidData, LlmtuneError
from llmtune.provider.abilities import ImportsWeights
from llmtune.provider.encoding import encode_dataset
from llmtune.provider.types import RunKey
from llmtune_bedrock import BedrockProvider
from llmtune_bedrock.fake.service import FakeBedrock
from tests.providers.llmtune_bedrock.conftest import ROLE, receipt_for

KEY = RunKey("lt0123456789")
TITAN = "amazon.titan-text-lite-v1:0:4k"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "merged"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(f"{{}} {name}")
    return folder


def sent(vendor: FakeBedrock, route: str) -> list[object]:
    return [call.data for call in vendor.requests if call.route == route]


def test_weights_are_uploaded_imported_and_followed(
    provider: BedrockProvider, vendor: FakeBedrock, weights: Path
) -> None:
    assert isinstance(provider, ImportsWeights)
    assert provider.find_import(KEY) is None
    started = provider.import_weights(weights, "Ticket router, v2", KEY)
    assert started.state == "running"
    (body,) = sent(vendor, "create_import")
    assert isinstance(body, dict)
    assert body["importedModelName"] == f"Ticket-router-v2-{KEY}"
    assert body["roleArn"] == ROLE
    assert body["clientRequestToken"] == f"{KEY}-import-0"
    done = provider.find_import(KEY)
    assert done is not None
    assert (done.state, done.raw_state) == ("succeeded", "Completed")
    assert done.model is not None
    assert ":imported-model/" in done.model
    assert any("by the minute" in note for note in done.notes)
    assert any("delete-imported-model" in note for note in done.notes)


def test_a_broken_import_goes_on_and_is_never_paid_twice(
    provider: BedrockProvider, vendor: FakeBedrock, weights: Path
) -> None:
    first = provider.import_weights(weights, "router", KEY)
    uploads = vendor.counts["upload"]
    vendor.imports[0]["jobName"] = "unlisted"  # the list lags: the token still leads to the first job
    again = provider.import_weights(weights, "router", KEY)
    assert again.id == first.id
    assert len(vendor.imports) == 1
    assert vendor.counts["upload"] == uploads, "what is in the bucket is not sent again"


def test_a_failed_import_says_why_and_can_be_started_again(
    provider: BedrockProvider, vendor: FakeBedrock, weights: Path
) -> None:
    vendor.import_fault = "The architecture is not supported"
    provider.import_weights(weights, "router", KEY)
    failed = provider.find_import(KEY)
    assert failed is not None
    assert (failed.state, failed.error) == ("failed", "The architecture is not supported")
    vendor.import_fault = None
    again = provider.import_weights(weights, "router", KEY)
    assert again.id != failed.id
    assert again.name == f"router-{KEY}-1"


def test_a_folder_without_weights_is_refused_before_anything_is_sent(
    provider: BedrockProvider, vendor: FakeBedrock, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match=r"config\.json"):
        provider.import_weights(tmp_path / "empty", "router", KEY)
    assert sent(vendor, "create_import") == []


def test_plain_text_goes_as_continued_pretraining(provider: BedrockProvider, tmp_path: Path) -> None:
    receipt = receipt_for(provider, TITAN, options={"continued_pretraining": True})
    capabilities = provider.capabilities(receipt.target)
    assert capabilities.limits.format == "bedrock_text"
    assert not any("continued pre-training" in warning for warning in capabilities.warnings)
    rows = [get_format("text").read({"text": f"passage {at}"}, at, []) for at in range(3)]
    files = encode_dataset(Dataset(rows), "bedrock_text", tmp_path).files
    assert json.loads(files[0].path.read_text().splitlines()[0]) == {"input": "passage 0"}
    body = provider.build(receipt, {"train": provider.upload(files[0])}).body
    assert body["customizationType"] == "CONTINUED_PRE_TRAINING"
    nova = receipt_for(provider, options={"continued_pretraining": True})
    assert any("is unverified" in warning for warning in provider.capabilities(nova.target).warnings)


def test_only_a_provider_that_takes_weights_in_is_named_to_export() -> None:
    from llmtune.provider.registry import get_provider
    from llmtune.runs.weight_import import require_importer

    with pytest.raises(LlmtuneError, match="takes in no weights"):
        require_importer(get_provider("openai"))
