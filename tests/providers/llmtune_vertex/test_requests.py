"""Bodies against Google's own definitions: aiplatform's v1beta1 protos, and google-genai's types for preferences."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.errors import VendorError
from llmtune.provider.declarations import Converted, Sent
from llmtune.provider.types import RunKey, UploadRef
from llmtune.testing.wire_check import CANDIDATES, COMPANIONS, moved_paths
from llmtune_vertex import VertexProvider, declarations, requests
from llmtune_vertex.fake.service import FakeVertex
from llmtune_vertex.settings import VertexSettings
from tests.providers.llmtune_vertex.conftest import FLASH, LLAMA, provider_at, receipt_for

FULL = VertexSettings(
    project="p", location="us-central1", bucket="b", service_account="a@b.iam.gserviceaccount.com", kms_key_name="k"
)
FILES = {
    "train": UploadRef(id="gs://my-bucket/train.jsonl"),
    "validation": UploadRef(id="gs://my-bucket/validation.jsonl", role="validation"),
}


def built(model: str, **fields: Any) -> dict[str, Any]:
    provider = VertexProvider(settings=FULL)
    return requests.with_key(provider.build(receipt_for(provider, model, **fields), FILES).body, "lt0123456789")


def as_proto(sent: dict[str, Any]) -> Any:
    """Return the body read by the proto's own JSON parser, which refuses unknown fields and enum words."""
    from google.cloud.aiplatform_v1beta1 import types
    from google.protobuf import json_format

    return types.TuningJob(json_format.ParseDict(sent, types.TuningJob.pb(types.TuningJob())))


def test_a_gemini_body_is_a_tuning_job() -> None:
    job = as_proto(
        built(FLASH, epochs=3, learning_rate_multiplier=0.5, lora_rank=4, keep_checkpoints=1, tags={"team": "search"})
    )
    assert job.base_model == FLASH
    spec = job.supervised_tuning_spec
    assert spec.training_dataset_uri == "gs://my-bucket/train.jsonl"
    assert spec.validation_dataset_uri == "gs://my-bucket/validation.jsonl"
    assert (spec.hyper_parameters.epoch_count, spec.hyper_parameters.learning_rate_multiplier) == (3, 0.5)
    assert spec.hyper_parameters.adapter_size.name == "ADAPTER_SIZE_FOUR"
    assert spec.export_last_checkpoint_only is True
    assert job.tuned_model_display_name == "wire-truth"
    assert dict(job.labels) == {"team": "search", "llmtune_run": "lt0123456789"}
    assert job.service_account == "a@b.iam.gserviceaccount.com"
    assert job.encryption_spec.kms_key_name == "k"


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_an_open_model_body_is_a_tuning_job(adapter: str) -> None:
    options = {"custom_base_model": "gs://b/weights", "description": "d"}
    job = as_proto(
        built(LLAMA, adapter=adapter, epochs=2, batch_size=8, learning_rate=1e-4, lora_rank=16, options=options)
    )
    spec = job.supervised_tuning_spec
    assert spec.tuning_mode.name == declarations.TUNING_MODES[adapter]
    assert (spec.hyper_parameters.batch_size, spec.hyper_parameters.learning_rate) == (8, 1e-4)
    assert job.output_uri == "gs://b/llmtune/output/lt0123456789"
    assert (job.custom_base_model, job.description) == ("gs://b/weights", "d")


def test_going_on_from_a_tuned_model_is_a_tuning_job() -> None:
    tuned = "projects/p/locations/us-central1/models/1@1"
    job = as_proto(built(tuned, options={"pre_tuned_model_checkpoint_id": "2"}))
    assert (job.pre_tuned_model.tuned_model_name, job.pre_tuned_model.checkpoint_id) == (tuned, "2")


def test_the_parser_would_notice() -> None:
    with pytest.raises(Exception, match="epochs"):
        as_proto({"supervisedTuningSpec": {"hyperParameters": {"epochs": 3}}})
    with pytest.raises(Exception, match="ADAPTER_SIZE_THREE"):
        as_proto({"supervisedTuningSpec": {"hyperParameters": {"adapterSize": "ADAPTER_SIZE_THREE"}}})


def test_a_preference_body_is_what_google_genai_knows() -> None:
    from google.genai import types

    sent = built(FLASH, method="dpo", epochs=2, dpo_beta=0.2, lora_rank=8, keep_checkpoints=1)
    spec = types.PreferenceOptimizationSpec.model_validate(sent["preferenceOptimizationSpec"])
    assert spec.hyper_parameters is not None
    assert (spec.hyper_parameters.beta, spec.hyper_parameters.epoch_count) == (0.2, 2)
    assert spec.hyper_parameters.adapter_size == types.AdapterSize.ADAPTER_SIZE_EIGHT
    assert (spec.export_last_checkpoint_only, spec.training_dataset_uri) == (True, "gs://my-bucket/train.jsonl")
    with pytest.raises(ValueError, match="extra"):
        types.PreferenceOptimizationSpec.model_validate({"hyperParameters": {"batchSize": 8}})


def test_nothing_is_dropped_between_the_body_and_the_sdk() -> None:
    with pytest.raises(VendorError, match="google-genai has no argument for surprise"):
        requests.sdk_arguments({**built(FLASH), "surprise": 1})


@pytest.mark.parametrize(
    ("model", "method", "adapter", "declared"),
    [
        (FLASH, "sft", "lora", declarations.GEMINI),
        (FLASH, "dpo", "lora", declarations.GEMINI_PREFERENCE),
        ("gemini-2.5-pro", "sft", "lora", declarations.GEMINI_PRO),
        (LLAMA, "sft", "lora", declarations.OPEN_MODELS),
        (LLAMA, "sft", "full", declarations.OPEN_MODELS),
    ],
)
def test_what_is_declared_is_what_google_genai_sends(
    vendor: FakeVertex, model: str, method: str, adapter: str, declared: Any
) -> None:
    """Wire truth at the transport: the plan's body, and nothing else, is what arrives."""
    provider = provider_at(vendor)
    for file in FILES.values():
        vendor.put("my-bucket", file.id.removeprefix("gs://my-bucket/"), b"")
    counter = iter(range(10_000))

    def sent(fields: dict[str, Any]) -> dict[str, Any]:
        key = RunKey(f"lt{next(counter):010}")
        request = provider.build(receipt_for(provider, model, method=method, adapter=adapter, **fields), FILES)
        provider.submit(request, key)
        arrived: dict[str, Any] = [call.data for call in vendor.requests if call.role == "submit"][-1]
        assert arrived == requests.with_key(request.body, key)
        arrived["labels"].pop("llmtune_run")
        if "outputUri" in arrived:
            arrived["outputUri"] = arrived["outputUri"].removesuffix(f"/{key}")
        return arrived if arrived["labels"] else {k: v for k, v in arrived.items() if k != "labels"}

    for field, entry in declared.items():
        is_parameter = isinstance(entry, (Sent, Converted)) and entry.where == "training"
        companions = {name: value for name, value in COMPANIONS.get(field, {}).items() if name != field}
        companions = {
            name: value for name, value in companions.items() if not (field == "max_steps" and name == "epochs")
        }
        before = sent(companions)
        went_out = False
        for value in CANDIDATES[field]:
            receipt = receipt_for(provider, model, method=method, adapter=adapter, **{**companions, field: value})
            if receipt.refusals:
                continue
            row = receipt[field]
            moved = {
                row.wire if row.wire and path.startswith(f"{row.wire}.") else path
                for path in moved_paths(before, sent({**companions, field: value}))
            }
            assert moved <= ({row.wire} if row.is_sent and row.where == "training" else set()), (field, value)
            went_out = went_out or bool(moved)
        applies = receipt_for(provider, model, method=method, adapter=adapter, **companions)[field].support
        assert went_out is (is_parameter and applies != "not_applicable"), field
    assert vendor.complaints == []
