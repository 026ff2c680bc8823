"""Every field of the job moves exactly what the declarations say, family by family; and what each family takes."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.provider.declarations import Converted, Sent
from llmtune.provider.receipt import Receipt
from llmtune.provider.translate import translate
from llmtune.provider.types import Target, UploadRef
from llmtune.testing.wire_check import check_request_fields, job_with
from llmtune_bedrock import BedrockProvider
from llmtune_bedrock.capabilities import FAMILIES
from llmtune_bedrock.settings import BedrockSettings

ROLE = "arn:aws:iam::123456789012:role/llmtune"
SETTINGS = BedrockSettings(region="us-east-1", bucket="my-bucket", role_arn=ROLE)
FILES = {
    "train": UploadRef(id="s3://my-bucket/llmtune/data/train.jsonl"),
    "validation": UploadRef(id="s3://my-bucket/llmtune/data/validation.jsonl", role="validation"),
}
MODELS = {
    "nova": "amazon.nova-micro-v1:0:128k",
    "nova-2": "amazon.nova-2-lite-v1:0:256k",
    "claude-3-haiku": "anthropic.claude-3-haiku-20240307-v1:0:200k",
    "llama-3.1": "meta.llama3-1-8b-instruct-v1:0:128k",
    "llama-3.2": "meta.llama3-2-1b-instruct-v1:0:128k",
    "llama-3.3": "meta.llama3-3-70b-instruct-v1:0:128k",
    "titan-premier": "amazon.titan-text-premier-v1:0:32k",
    "titan": "amazon.titan-text-express-v1:0:8k",
    "cohere": "cohere.command-text-v14:7:4k",
    "cohere-light": "cohere.command-light-text-v14:7:4k",
}

#: AWS's own tables ("Custom model hyperparameters", 2026): (low, high, default) by wire name.
TABLES: dict[str, dict[str, tuple[float, float, float]]] = {
    "nova": {
        "epochCount": (1, 5, 2),
        "learningRate": (1e-6, 1e-4, 1e-5),
        "learningRateWarmupSteps": (0, 100, 10),
    },
    "titan-premier": {
        "epochCount": (1, 5, 2),
        "batchSize": (1, 1, 1),
        "learningRate": (1e-7, 1e-5, 1e-6),
        "learningRateWarmupSteps": (0, 20, 5),
    },
    "titan": {
        "epochCount": (1, 10, 5),
        "batchSize": (1, 64, 1),
        "learningRate": (0.0, 1, 1e-5),
        "learningRateWarmupSteps": (0, 250, 5),
    },
    "claude-3-haiku": {
        "epochCount": (1, 10, 2),
        "batchSize": (4, 256, 32),
        "learningRateMultiplier": (0.1, 2, 1),
        "earlyStoppingThreshold": (0, 0.1, 0.001),
        "earlyStoppingPatience": (1, 10, 2),
    },
    "llama-3.1": {"epochCount": (1, 10, 5), "batchSize": (1, 1, 1), "learningRate": (5e-6, 0.1, 1e-4)},
    "llama-3.2": {"epochCount": (1, 10, 5), "batchSize": (1, 1, 1), "learningRate": (5e-6, 0.1, 1e-4)},
    "llama-3.3": {"epochCount": (1, 10, 5), "batchSize": (1, 1, 1), "learningRate": (5e-6, 0.1, 1e-4)},
    "cohere": {
        "epochCount": (1, 100, 1),
        "batchSize": (8, 8, 8),
        "learningRate": (5e-6, 0.1, 1e-5),
        "earlyStoppingThreshold": (0, 0.1, 0.01),
        "earlyStoppingPatience": (1, 10, 6),
    },
    "cohere-light": {
        "epochCount": (1, 100, 1),
        "batchSize": (8, 32, 8),
        "learningRate": (5e-6, 0.1, 1e-5),
        "earlyStoppingThreshold": (0, 0.1, 0.01),
        "earlyStoppingPatience": (1, 10, 6),
    },
}
FIELD_OF = {
    "epochCount": "epochs",
    "batchSize": "batch_size",
    "learningRate": "learning_rate",
    "learningRateMultiplier": "learning_rate_multiplier",
    "learningRateWarmupSteps": "warmup_steps",
    "earlyStoppingThreshold": "early_stopping_threshold",
    "earlyStoppingPatience": "early_stopping_patience",
}


def receipt_for(model: str, **fields: Any) -> Receipt:
    options = fields.pop("options", {})
    rows = fields.pop("rows", 1000)
    target = Target(provider="bedrock", kind="bedrock", model=model, options=options)
    return translate(
        job_with(target, fields), target, BedrockProvider(settings=SETTINGS).capabilities(target), rows=rows
    )


def body_for(model: str, **fields: Any) -> dict[str, Any]:
    return BedrockProvider(settings=SETTINGS).build(receipt_for(model, **fields), FILES).body


@pytest.mark.parametrize("family", MODELS)
def test_what_is_declared_is_what_moves(family: str) -> None:
    assert check_request_fields(BedrockProvider(settings=SETTINGS), MODELS[family]) == []


def test_every_family_is_tested() -> None:
    assert set(MODELS) == set(FAMILIES)


@pytest.mark.parametrize("family", TABLES)
def test_the_published_table_holds_at_its_edges(family: str) -> None:
    model = MODELS[family]
    for wire, (low, high, default) in TABLES[family].items():
        field = FIELD_OF[wire]
        declared = FAMILIES[family].parameters[field]
        assert isinstance(declared, (Sent, Converted))
        assert declared.default == default
        is_integer = wire in ("epochCount", "batchSize", "learningRateWarmupSteps", "earlyStoppingPatience")
        for good in {low, high, default}:
            value = int(good) if is_integer else good
            if field == "learning_rate" and value == 0:  # the job itself has no rate of 0
                continue
            sent = body_for(model, **{field: value})["hyperParameters"][wire]
            assert isinstance(sent, str)
            assert float(sent) == value
        for bad in (high + 1 if is_integer else high * 1.01, low - 1 if is_integer else low * 0.99):
            if bad > 0 and (not is_integer or bad >= 1):
                row = receipt_for(model, **{field: int(bad) if is_integer else bad})[field]
                assert row.support == "invalid", (wire, bad)
                assert str(low).rstrip("0") in (row.reason or "") or f"{high:g}" in (row.reason or "")
    for field, declared in FAMILIES[family].parameters.items():
        if isinstance(declared, (Sent, Converted)) and declared.request_path.startswith("hyperParameters."):
            assert declared.request_path.removeprefix("hyperParameters.") in TABLES[family], field


def test_small_rates_are_spelled_without_an_exponent() -> None:
    sent = body_for(MODELS["nova"], learning_rate=1e-5)
    assert sent["hyperParameters"] == {"learningRate": "0.00001"}


def test_a_multiplier_goes_through_the_published_default() -> None:
    receipt = receipt_for(MODELS["nova"], learning_rate_multiplier=2.0)
    assert receipt["learning_rate_multiplier"].support == "converted"
    assert "2 x Nova's published default 1e-05 = 2e-05" in (receipt["learning_rate_multiplier"].rule or "")
    assert receipt.request_parameters()["hyperParameters"] == {"learningRate": "0.00002"}
    refused = receipt_for(MODELS["nova"], learning_rate_multiplier=20.0)
    assert refused["learning_rate_multiplier"].support == "invalid"


def test_a_warm_up_ratio_needs_a_published_batch_size() -> None:
    assert receipt_for(MODELS["nova"], warmup_ratio=0.1, batch_size=8)["warmup_ratio"].support == "unsupported"
    titan = receipt_for(MODELS["titan"], warmup_ratio=0.1, batch_size=8, epochs=2)
    assert titan.request_parameters()["hyperParameters"]["learningRateWarmupSteps"] == "25"


def test_the_whole_body_of_a_nova_job() -> None:
    settings = SETTINGS.model_copy(
        update={"kms_key_id": "alias/k", "subnet_ids": ("subnet-1",), "security_group_ids": ("sg-1",)}
    )
    receipt = receipt_for(MODELS["nova"], epochs=3, learning_rate=2e-5, warmup_steps=5, tags={"team": "search"})
    assert BedrockProvider(settings=settings).build(receipt, FILES).body == {
        "roleArn": ROLE,
        "baseModelIdentifier": "amazon.nova-micro-v1:0:128k",
        "customizationType": "FINE_TUNING",
        "trainingDataConfig": {"s3Uri": "s3://my-bucket/llmtune/data/train.jsonl"},
        "validationDataConfig": {"validators": [{"s3Uri": "s3://my-bucket/llmtune/data/validation.jsonl"}]},
        "outputDataConfig": {"s3Uri": "s3://my-bucket/llmtune/output"},
        "customModelKmsKeyId": "alias/k",
        "vpcConfig": {"subnetIds": ["subnet-1"], "securityGroupIds": ["sg-1"]},
        "hyperParameters": {"epochCount": "3", "learningRate": "0.00002", "learningRateWarmupSteps": "5"},
        "customModelName": "wire-truth",
        "jobTags": [{"key": "team", "value": "search"}],
    }


def test_nova_2_sends_no_validation_set_and_says_that_its_table_is_unknown() -> None:
    assert "validationDataConfig" not in body_for(MODELS["nova-2"])
    receipt = receipt_for(MODELS["nova-2"], epochs=2)
    assert any("publishes no hyperparameter table" in warning for warning in receipt.warnings)
    assert "unverified" in (receipt["epochs"].reason or "")


def test_options_go_out_and_may_not_contradict_the_job() -> None:
    sent = body_for(MODELS["cohere"], options={"eval_percentage": 20})
    assert sent["hyperParameters"] == {"evalPercentage": "20"}
    extra = {"extra_hyperparameters": {"epochCount": "9"}}
    with pytest.raises(Exception, match="epochCount"):
        body_for(MODELS["nova"], epochs=2, options=extra)
    assert body_for(MODELS["nova"], options=extra)["hyperParameters"] == {"epochCount": "9"}


def test_names_fit_beside_the_run_key_and_tags_are_held_to_aws() -> None:
    name = body_for(MODELS["nova"], name="My model: v2 (ünïcode) " + "x" * 60)["customModelName"]
    assert len(name) <= 50
    assert name.startswith("My-model-v2-n-code-x")
    assert receipt_for(MODELS["nova"], tags={"aws:x": "1"})["tags"].support == "invalid"
    assert receipt_for(MODELS["nova"], tags={"a": "x" * 257})["tags"].support == "invalid"
