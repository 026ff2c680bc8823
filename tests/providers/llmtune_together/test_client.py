"""Wire truth once more, at the transport: what the real SDK sends is what the plan showed and what is declared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import NotTranslatable
from llmtune.provider.declarations import DECLARED_FIELDS, Converted, Sent
from llmtune.provider.receipt import Receipt
from llmtune.provider.types import Request, RunKey
from llmtune.testing.wire_check import CANDIDATES, COMPANIONS, moved_paths
from llmtune_together import TogetherProvider
from llmtune_together.fake.service import FakeTogether

KEY = RunKey("ltabcde12345")
#: What the SDK fills in by itself from the model's live limits (rank) and from the rank (alpha).
FILLED = {"training_type.lora_r", "training_type.lora_alpha"}


def sent(vendor: FakeTogether, provider: TogetherProvider, request: Request) -> dict[str, Any]:
    """Return the body that reached the service."""
    provider.submit(request, KEY)
    body: dict[str, Any] = json.loads(
        next(call for call in reversed(vendor.requests) if call.route == "create_job").body
    )
    return body


@pytest.mark.parametrize(("method", "adapter"), [("sft", "lora"), ("sft", "full"), ("dpo", "lora")])
def test_the_plan_is_what_is_sent(
    vendor: FakeTogether,
    provider: TogetherProvider,
    request_for: Callable[..., Request],
    method: str,
    adapter: str,
) -> None:
    request = request_for({"epochs": 2, "batch_size": 8, "eval_every": 50, "seed": 3}, method=method, adapter=adapter)
    body = sent(vendor, provider, request)
    different = moved_paths(request.body, body)
    assert different == {"suffix"} | (FILLED if adapter == "lora" else set())
    assert body["suffix"] == f"{request.body['suffix']}-{KEY}"
    if adapter == "lora":
        assert (body["training_type"]["lora_r"], body["training_type"]["lora_alpha"]) == (8, 16)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_every_declared_field_moves_on_the_wire_and_nothing_else_does(
    vendor: FakeTogether,
    provider: TogetherProvider,
    request_for: Callable[..., Request],
    receipt_for: Callable[..., Receipt],
    method: str,
) -> None:
    for name in DECLARED_FIELDS:
        companions = COMPANIONS.get(name, {})
        without = sent(vendor, provider, request_for(companions, method=method))
        went_out = False
        for value in CANDIDATES[name]:
            receipt = receipt_for(provider, {**companions, name: value}, method=method)
            row = receipt[name]
            if row.support == "invalid":
                continue
            try:
                body = sent(vendor, provider, request_for({**companions, name: value}, method=method))
            except NotTranslatable as error:
                if "maximum allowed value" not in str(error):
                    raise
                continue  # the model's own limits are asked when a job is submitted
            moved = moved_paths(without, body)
            expected = {row.wire, *row.also} if row.is_sent and row.where == "training" else set()
            if name == "lora_rank":
                expected |= FILLED
            assert moved <= expected, f"{name}={value!r} moved {moved - expected}"
            went_out = went_out or row.wire in moved
        declared = provider.capabilities(receipt.target).parameters[name]
        is_parameter = isinstance(declared, (Sent, Converted)) and declared.where == "training"
        assert went_out == (is_parameter and receipt[name].support != "not_applicable"), name


def test_submit_makes_three_calls_and_one_of_them_is_paid(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    request = request_for()
    before = len(vendor.requests)
    provider.submit(request, KEY)
    assert [call.route for call in list(vendor.requests)[before:]] == ["model_limits", "estimate_price", "create_job"]


# --- the vendor's own contract ---------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def schema(shared: Path) -> dict[str, Any]:
    """Return the schema of POST /v1/fine-tunes with its references resolved from the vendor's OpenAPI file."""
    from ruamel.yaml import YAML

    path = shared / "specs" / "together-finetuning-v1prefix.yaml"
    if not path.is_file():
        pytest.skip("the vendor's OpenAPI file is not in the material folder beside the checkout")
    spec = YAML(typ="safe").load(path)
    operation = spec["paths"]["/v1/fine-tunes"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    # The file says "boolean" beside a oneOf that allows "auto"; the oneOf is what the service takes.
    for entry in (
        body["properties"]["train_on_inputs"],
        spec["components"]["schemas"]["TrainingMethodSFT"]["properties"]["train_on_inputs"],
    ):
        entry.pop("type", None)
    # A cosine scheduler fits LinearLRSchedulerArgs too (nothing forbids more fields): "one of" means "any of" here.
    args = spec["components"]["schemas"]["LRScheduler"]["properties"]["lr_scheduler_args"]
    args["anyOf"] = args.pop("oneOf")
    return {**body, "components": spec["components"]}


BODIES: list[dict[str, Any]] = [
    {},
    {"method": "dpo", "fields": {"dpo_beta": 0.2}},
    {"adapter": "full"},
    {"fields": {"lora_rank": 16, "lora_alpha": 8.0, "lora_dropout": 0.1, "lora_target_modules": "attention"}},
    {"fields": {"lr_schedule": "linear", "min_lr_ratio": 0.1, "warmup_ratio": 0.1, "weight_decay": 0.1}},
    {"fields": {"prompt_loss_weight": 1.0, "packing": False, "max_sequence_length": 2048, "seed": 1}},
    {"fields": {"batch_size": 8, "epochs": 2, "eval_every": 50, "early_stopping_patience": 2}},
    {"method": "dpo", "options": {"simpo_gamma": 0.5, "rpo_alpha": 1.0}},
    {"options": {"from_hf_model": "acme/model", "hf_model_revision": "main", "wandb_project_name": "p"}},
]


@pytest.mark.parametrize("case", BODIES, ids=[json.dumps(case)[:60] for case in BODIES])
def test_bodies_fit_the_vendors_schema(
    vendor: FakeTogether,
    provider: TogetherProvider,
    request_for: Callable[..., Request],
    schema: dict[str, Any],
    case: dict[str, Any],
) -> None:
    import jsonschema

    job_fields = {key: value for key, value in case.items() if key != "fields"}
    body = sent(vendor, provider, request_for(case.get("fields"), **job_fields))
    jsonschema.Draft202012Validator(schema).validate(body)
    # The schema forbids no other field; names that it does not know must be known to the newer SDK.
    newer = {
        "gradient_accumulation_steps",
        "early_stopping_enabled",
        "early_stopping_patience",
        "early_stopping_min_delta",
        "early_stopping_warmup_evals",
    }
    assert set(body) - set(schema["properties"]) <= newer


def test_the_schema_would_notice(schema: dict[str, Any]) -> None:
    import jsonschema

    check = jsonschema.Draft202012Validator(schema)
    assert not check.is_valid({"training_file": "f", "model": "m", "n_epochs": "three"})
    assert not check.is_valid({"training_file": "f", "model": "m", "training_type": {"type": "Lora", "lora_r": 8}})
    assert check.is_valid({"training_file": "f", "model": "m"})


def test_continuing_from_a_checkpoint_takes_the_models_place(
    vendor: FakeTogether, provider: TogetherProvider, request_for: Callable[..., Request]
) -> None:
    request = request_for(options={"from_checkpoint": "ft-1:10"})
    body = sent(vendor, provider, request)
    assert body["from_checkpoint"] == "ft-1:10"
    assert "model" not in body
    limits = next(call for call in reversed(vendor.requests) if call.route == "model_limits")
    assert limits.query == {"model_name": "ft-1"}
