"""Every request body we make is one that OpenAI's published specification allows; what it lets pass, we refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from llmtune.errors import InvalidJob
from llmtune.job.spec import TuningJob
from llmtune.provider.translate import translate
from llmtune.provider.types import RunKey, Target, UploadRef
from llmtune.testing.wire_check import CANDIDATES, COMPANIONS, job_with
from llmtune_openai import OpenAIProvider
from llmtune_openai import requests as bodies
from tests.job_texts import JOB_CHARACTERS
from tests.providers.llmtune_openai.conftest import MODEL, receipt

SPEC = Path(__file__).resolve().parents[3].parent / "shared" / "specs" / "openai-finetune-subset.examples.yaml"
FILES = {"train": UploadRef(id="file-t"), "validation": UploadRef(id="file-v")}
KEY = RunKey("lt0123456789")

pytestmark = pytest.mark.skipif(not SPEC.is_file(), reason="the third-party material beside the checkout is absent")


def modern(schema: Any) -> Any:
    """Convert OpenAPI 3.0's `nullable` and boolean `exclusiveMinimum` to JSON schema 2020-12."""
    if isinstance(schema, list):
        return [modern(subschema) for subschema in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {name: modern(value) for name, value in schema.items() if name not in ("nullable", "example")}
    if isinstance(converted.get("exclusiveMinimum"), bool) and converted.pop("exclusiveMinimum"):
        converted["exclusiveMinimum"] = converted.pop("minimum")
    if schema.get("nullable") is True:
        return {"anyOf": [converted, {"type": "null"}]}
    return converted


@pytest.fixture(scope="module")
def contract() -> Draft202012Validator:
    spec = modern(YAML(typ="safe").load(SPEC.read_text(encoding="utf-8")))
    schema = {"$ref": "#/components/schemas/CreateFineTuningJobRequest", "components": spec["components"]}
    return Draft202012Validator(schema)


def faults(contract: Draft202012Validator, body: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in contract.iter_errors(body)]


def test_the_contract_can_refuse(contract: Draft202012Validator) -> None:
    good = {"model": "m", "training_file": "f", "method": {"type": "supervised"}}
    assert not faults(contract, good)
    hyperparameters = {"n_epochs": 51, "batch_size": 0, "learning_rate_multiplier": 0}
    wrong: list[dict[str, Any]] = [
        {"model": "m"},
        {**good, "seed": -1},
        {**good, "suffix": "x" * 65},
        {**good, "method": {"type": "grpo"}},
        *(
            {**good, "method": {"type": "supervised", "supervised": {"hyperparameters": {name: value}}}}
            for name, value in hyperparameters.items()
        ),
    ]
    for body in wrong:
        assert faults(contract, body), body


@pytest.mark.parametrize("method", ["sft", "dpo"])
@pytest.mark.parametrize("field", sorted(CANDIDATES))
def test_each_field_alone(contract: Draft202012Validator, method: str, field: str) -> None:
    provider = OpenAIProvider()
    target = Target(provider="openai", kind="openai", model=MODEL, method=method)
    for value in CANDIDATES[field]:
        job = job_with(target, {**COMPANIONS.get(field, {}), field: value})
        job_receipt = translate(job, target, provider.capabilities(target), rows=1000)
        if not job_receipt.refusals:
            body = bodies.keyed(provider.service, provider.build(job_receipt, FILES).body, KEY)
            assert not faults(contract, body)


@settings(max_examples=60)
@given(
    name=st.text(JOB_CHARACTERS, min_size=1, max_size=128),
    hyperparameters=st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 50),
            "batch_size": st.integers(1, 256),
            "learning_rate_multiplier": st.floats(1e-6, 100),
            "dpo_beta": st.floats(1e-3, 2),
        },
    ),
    seed=st.none() | st.integers(0, 2**31 - 1),
    tags=st.dictionaries(
        st.text(JOB_CHARACTERS, min_size=1, max_size=64), st.text(JOB_CHARACTERS, max_size=512), max_size=15
    ),
    method=st.sampled_from(["sft", "dpo"]),
    wandb=st.booleans(),
)
def test_any_job_that_is_not_refused(
    contract: Draft202012Validator,
    name: str,
    hyperparameters: dict[str, float],
    seed: int | None,
    tags: dict[str, str],
    method: str,
    wandb: bool,
) -> None:
    provider = OpenAIProvider()
    job_receipt = receipt(
        provider,
        MODEL,
        name=name,
        method=method,
        seed=seed,
        tags=tags,
        hyperparameters=hyperparameters,
        provider_options={"openai": {"wandb": {"project": "p"}}} if wandb else {},
    )
    if not job_receipt.refusals:
        body = bodies.keyed(provider.service, provider.build(job_receipt, FILES).body, KEY)
        assert not faults(contract, body)
        assert set(body) <= bodies.SDK_FIELDS


@pytest.mark.parametrize(
    "stray",
    [
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"lora_rank": 8}}}},
        {"trainingType": "Standard"},
    ],
)
def test_what_the_specification_lets_pass_a_job_cannot_say(
    contract: Draft202012Validator, stray: dict[str, Any]
) -> None:
    """The specification forbids no unknown key; our job and our options do."""
    assert not faults(contract, {"model": "m", "training_file": "f", "method": {"type": "supervised"}, **stray})
    name = next(iter(stray))
    with pytest.raises(InvalidJob):
        receipt(OpenAIProvider(), MODEL, provider_options={"openai": {name: stray[name]}})
    with pytest.raises(InvalidJob):
        TuningJob.model_validate({"name": "x", "dataset": "d", "model": "m", name: stray[name]})
