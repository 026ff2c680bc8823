"""Every field of the job moves exactly what the declarations say, family by family; and the bodies as a whole."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.provider.receipt import Receipt
from llmtune.provider.translate import translate
from llmtune.provider.types import Target, UploadRef
from llmtune.testing.wire_check import check_request_fields, job_with
from llmtune_vertex import VertexProvider
from llmtune_vertex.settings import VertexSettings
from tests.job_texts import JOB_CHARACTERS

SETTINGS = VertexSettings(project="my-project", location="us-central1", bucket="my-bucket")
FILES = {
    "train": UploadRef(id="gs://my-bucket/llmtune/data/train.jsonl"),
    "validation": UploadRef(id="gs://my-bucket/llmtune/data/validation.jsonl", role="validation"),
}
FLASH = "gemini-2.5-flash"
PRO = "gemini-2.5-pro"
LLAMA = "meta/llama3_1@llama-3.1-8b-instruct"
GEMMA = "google/gemma3@gemma-3-27b-it"


def receipt_for(model: str, method: str = "sft", adapter: str = "lora", **fields: Any) -> Receipt:
    options = fields.pop("options", {})
    rows = fields.pop("rows", 1000)
    target = Target(provider="vertex", kind="vertex", model=model, method=method, adapter=adapter, options=options)
    capabilities = VertexProvider(settings=SETTINGS).capabilities(target)
    return translate(job_with(target, fields), target, capabilities, rows=rows)


def body_for(model: str, method: str = "sft", adapter: str = "lora", **fields: Any) -> dict[str, Any]:
    return VertexProvider(settings=SETTINGS).build(receipt_for(model, method, adapter, **fields), FILES).body


@pytest.mark.parametrize(
    ("model", "method", "adapter"),
    [
        (FLASH, "sft", "lora"),
        (PRO, "sft", "lora"),
        (FLASH, "dpo", "lora"),
        (LLAMA, "sft", "lora"),
        (GEMMA, "sft", "full"),
        ("gemini-9-new", "sft", "lora"),
    ],
)
def test_what_is_declared_is_what_moves(model: str, method: str, adapter: str) -> None:
    provider = VertexProvider(settings=SETTINGS)
    assert check_request_fields(provider, model, method=method, adapter=adapter) == []


def test_the_whole_body_of_a_gemini_job() -> None:
    receipt = receipt_for(
        FLASH, epochs=3, learning_rate_multiplier=0.5, lora_rank=4, keep_checkpoints=1, tags={"Team": "Search UK"}
    )
    settings = SETTINGS.model_copy(
        update={"service_account": "tuner@my-project.iam.gserviceaccount.com", "kms_key_name": "projects/p/k"}
    )
    request = VertexProvider(settings=settings).build(receipt, FILES)
    assert request.operation == "POST /v1beta1/projects/my-project/locations/us-central1/tuningJobs"
    assert request.body == {
        "baseModel": "gemini-2.5-flash",
        "supervisedTuningSpec": {
            "trainingDatasetUri": "gs://my-bucket/llmtune/data/train.jsonl",
            "validationDatasetUri": "gs://my-bucket/llmtune/data/validation.jsonl",
            "hyperParameters": {
                "epochCount": 3,
                "learningRateMultiplier": 0.5,
                "adapterSize": "ADAPTER_SIZE_FOUR",
            },
            "exportLastCheckpointOnly": True,
        },
        "tunedModelDisplayName": "wire-truth",
        "labels": {"team": "search-uk"},
        "serviceAccount": "tuner@my-project.iam.gserviceaccount.com",
        "encryptionSpec": {"kms_key_name": "projects/p/k"},
    }
    assert receipt["tags"].rule == "labels are lower case a-z, 0-9, _ and -: team=search-uk"


def test_the_whole_body_of_a_preference_job() -> None:
    assert body_for(FLASH, "dpo", epochs=2, dpo_beta=0.2) == {
        "baseModel": "gemini-2.5-flash",
        "preferenceOptimizationSpec": {
            "trainingDatasetUri": "gs://my-bucket/llmtune/data/train.jsonl",
            "validationDatasetUri": "gs://my-bucket/llmtune/data/validation.jsonl",
            "hyperParameters": {"epochCount": 2, "beta": 0.2},
        },
        "tunedModelDisplayName": "wire-truth",
    }


def test_the_whole_body_of_an_open_model_job() -> None:
    body = body_for(LLAMA, batch_size=8, learning_rate=1e-4, lora_rank=16, max_steps=300)
    assert body == {
        "baseModel": LLAMA,
        "supervisedTuningSpec": {
            "trainingDatasetUri": "gs://my-bucket/llmtune/data/train.jsonl",
            "validationDatasetUri": "gs://my-bucket/llmtune/data/validation.jsonl",
            "tuningMode": "TUNING_MODE_PEFT_ADAPTER",
            "hyperParameters": {
                "epochCount": 3,
                "batchSize": 8,
                "learningRate": 1e-4,
                "adapterSize": "ADAPTER_SIZE_SIXTEEN",
            },
        },
        "outputUri": "gs://my-bucket/llmtune/output",
        "tunedModelDisplayName": "wire-truth",
    }
    assert body_for(GEMMA, adapter="full")["supervisedTuningSpec"]["tuningMode"] == "TUNING_MODE_FULL"


def test_going_on_from_a_tuned_model() -> None:
    tuned = "projects/my-project/locations/us-central1/models/123@1"
    receipt = receipt_for(tuned, options={"pre_tuned_model_checkpoint_id": "2"})
    assert receipt.warnings == ()
    body = VertexProvider(settings=SETTINGS).build(receipt, FILES).body
    assert body["preTunedModel"] == {"tuned_model_name": tuned, "checkpoint_id": "2"}
    assert "baseModel" not in body


def test_a_rank_goes_to_a_size_that_exists() -> None:
    row = receipt_for(FLASH, lora_rank=12)["lora_rank"]
    assert (row.support, row.encoded) == ("converted", "ADAPTER_SIZE_SIXTEEN")
    assert row.rule == "rank 12 -> 16; sizes are 1, 2, 4, 8, 16"
    assert receipt_for(PRO, lora_rank=16)["lora_rank"].encoded == "ADAPTER_SIZE_EIGHT"
    assert receipt_for(LLAMA, lora_rank=32)["lora_rank"].encoded == "ADAPTER_SIZE_THIRTY_TWO"


def test_rates_are_never_invented() -> None:
    gemini = receipt_for(FLASH, learning_rate=1e-4)["learning_rate"]
    assert gemini.support == "unsupported"
    assert "not published" in (gemini.reason or "")
    open_model = receipt_for(LLAMA, learning_rate_multiplier=2.0)["learning_rate_multiplier"]
    assert open_model.support == "unsupported"
    assert receipt_for(FLASH)["epochs"].effective == "not published"


def test_labels_keep_to_google_and_leave_ours_alone() -> None:
    assert receipt_for(FLASH, tags={"Team": "a", "team": "b"})["tags"].support == "invalid"
    assert receipt_for(FLASH, tags={"llmtune_run": "a"})["tags"].support == "invalid"
    assert receipt_for(FLASH, tags={"team": "x" * 65})["tags"].support == "invalid"
    assert receipt_for(FLASH, tags={"1team": "x"})["tags"].support == "invalid"


def test_two_checkpoints_cannot_be_asked_for() -> None:
    row = receipt_for(FLASH, keep_checkpoints=2)["keep_checkpoints"]
    assert row.support == "unsupported"
    assert "only the last" in (row.reason or "")


@given(
    tags=st.dictionaries(
        st.text(JOB_CHARACTERS, min_size=1, max_size=70), st.text(JOB_CHARACTERS, max_size=70), max_size=3
    )
)
def test_tags_are_refused_or_become_labels_that_google_takes(tags: dict[str, str]) -> None:
    row = receipt_for(FLASH, tags=tags)["tags"]
    assert row.support in ("sent", "converted", "invalid", "default")
    if row.is_sent:
        assert len(row.encoded) == len(tags)
        for key, value in row.encoded.items():
            assert re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", key)
            assert re.fullmatch(r"[a-z0-9_-]{0,64}", value)


@pytest.mark.parametrize(
    ("model", "shutdown"), [(PRO, "2027-03-31"), (FLASH, "2027-03-31"), ("gemini-2.5-flash-lite", "2027-01-28")]
)
def test_both_dates_of_the_retirement_of_gemini_2_5_are_shown_with_their_sources(model: str, shutdown: str) -> None:
    target = Target(provider="vertex", kind="vertex", model=model)
    lifecycle = VertexProvider(settings=SETTINGS).capabilities(target).lifecycle
    sentence = lifecycle.sentence(date(2026, 12, 1))
    assert sentence.startswith("closing; ")
    assert f"on {shutdown} (unverified: a third party's copy of a notice, 2026-09-16" in sentence
    assert "Google's table has 2026-10-16" in sentence
    assert "new and for inactive projects" in sentence
    assert "copy read 2026-12-01" in lifecycle.note
    assert "open-chat-studio issue 4509, 2026-09-16; unverified" in lifecycle.note
    assert not lifecycle.closed_on(date(2026, 12, 1)), "existing projects may still tune"


def test_gemini_3_is_tuned_and_preference_tuning_is_marked_doubtful() -> None:
    provider = VertexProvider(settings=SETTINGS)
    for model in ("gemini-3.5-flash", "gemini-3.5-flash-lite", "gemini-3.1-flash-lite"):
        capabilities = provider.capabilities(Target(provider="vertex", kind="vertex", model=model))
        assert capabilities.methods["sft"] is True
        assert "or later" in capabilities.lifecycle.note
        assert not any("doubtful" in warning for warning in capabilities.warnings)
    preference = provider.capabilities(Target(provider="vertex", kind="vertex", model=FLASH, method="dpo"))
    assert any("doubtful (unverified)" in warning for warning in preference.warnings)
