"""What a provider sends to create a job is what the vendor's document, or its SDK's own types, accept.

All model families, methods and adapters that the declarations offer; each field and each option alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from llmtune.provider.registry import get_provider, provider_class
from tests.published import Published
from tests.system.contracts.bodies import bodies

OPENAI_FILES = {"train": "file-abc123", "validation": "file-def456"}
WANDB = {"project": "p", "name": "n", "entity": "e", "tags": ("a", "b")}
OPTIONS: dict[str, dict[str, Any]] = {
    "openai": {"wandb": WANDB},
    "azure": {
        "training_type": "GlobalStandard",
        "wandb": WANDB,
        "compute_multiplier": 2.0,
        "eval_samples": 3,
        "reasoning_effort": "low",
    },
    "vertex": {
        "pre_tuned_model_checkpoint_id": "2",
        "custom_base_model": "gs://bucket/weights",
        "description": "a run",
        "samples_per_prompt": 4,
        "max_output_tokens": 1024,
        "thinking_level": "HIGH",
    },
    "bedrock": {
        "base_inference_id": "us.amazon.nova-micro-v1:0",
        "eval_percentage": 20,
        "extra_hyperparameters": {"someParameter": "1"},
        "continued_pretraining": True,
        "grader_function": "arn:aws:lambda:us-east-1:123456789012:function:grade",
        "samples_per_prompt": 4,
        "max_prompt_length": 512,
        "max_output_tokens": 1024,
        "reasoning_effort": "high",
    },
    "together": {
        "from_checkpoint": "ft-1:10",
        "from_hf_model": "org/model",
        "hf_model_revision": "main",
        "hf_output_repo_name": "org/out",
        "hf_token_env": "HF_TOKEN",
        "train_vision": True,
        "n_evals": 5,
        "n_checkpoints": 3,
        "early_stopping_warmup_evals": 2,
        "dpo_normalize_logratios_by_length": True,
        "rpo_alpha": 0.5,
        "simpo_gamma": 0.5,
        "wandb_project_name": "p",
        "wandb_name": "n",
        "wandb_entity": "e",
        "wandb_base_url": "https://wandb.example",
        "wandb_api_key_env": "WANDB_API_KEY",
    },
}


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_each_option_is_tried(kind: str) -> None:
    assert set(OPTIONS[kind]) == set(provider_class(kind).Options.model_fields)


def check_all(kind: str, files: dict[str, str], check: Any, **settings: Any) -> int:
    """Check each distinct body; return how many there were."""
    faults: dict[str, str] = {}
    seen: set[str] = set()
    for label, body in bodies(get_provider(kind, **settings), files, OPTIONS[kind]):
        sent = json.dumps(body, sort_keys=True)
        if sent in seen:
            continue
        seen.add(sent)
        for fault in check(json.loads(sent)):
            faults.setdefault(str(fault)[:300], label)
    assert faults == {}
    return len(seen)


@pytest.mark.slow
def test_openai_against_its_published_document(shared: Path) -> None:
    published = Published(shared / "specs" / "openai-finetune-subset.examples.yaml")
    schema = {"$ref": "#/components/schemas/CreateFineTuningJobRequest"}
    properties = set(published.document["components"]["schemas"]["CreateFineTuningJobRequest"]["properties"])

    def check(body: dict[str, Any]) -> list[str]:
        return [*published.faults(schema, body), *(f"not published: {name}" for name in set(body) - properties)]

    assert check_all("openai", OPENAI_FILES, check) > 20


@pytest.mark.slow
def test_azure_against_the_excerpt_of_its_document(shared: Path) -> None:
    """Names, enums and ranges of both versions; the body must suit v1, which is the one that is called."""
    text = (shared / "specs" / "azure-openai-finetune-excerpt.yaml").read_text(encoding="utf-8")
    v1 = YAML(typ="safe").load(text)["B_v1"]["schemas"]
    request = v1["CreateFineTuningJobRequest"]
    methods = set(v1["FineTuneMethod.type"]["enum"])
    suffix_min, suffix_max = map(int, request["suffix"].split(".."))
    seed_min, seed_max = map(int, request["seed"].split(".."))
    # trainingType is in no schema of the document; the service takes it, as the excerpt notes.
    names = {"model", "training_file", "validation_file", "suffix", "seed", "integrations", "method", "metadata"}

    def check(body: dict[str, Any]) -> list[str]:
        faults = [f"missing: {name}" for name in request["required"] if not body.get(name)]
        faults += [f"not published: {name}" for name in set(body) - names - {"trainingType", "hyperparameters"}]
        if "suffix" in body and not suffix_min <= len(body["suffix"]) <= suffix_max:
            faults.append(f"suffix {body['suffix']!r}")
        if "seed" in body and not seed_min <= body["seed"] <= seed_max:
            faults.append(f"seed {body['seed']}")
        if (method := body.get("method")) is not None:
            if method["type"] not in methods:
                faults.append(f"method {method['type']}")
            if not {"type"} <= set(method) <= {"type", method["type"]}:
                faults.append(f"method has {sorted(method)}")
            for name, value in method.get(method["type"], {}).get("hyperparameters", {}).items():
                if value != "auto" and not isinstance(value, int | float) and name != "reasoning_effort":
                    faults.append(f"{name} is {value!r}")
        if body.get("trainingType", "Standard") not in ("Standard", "GlobalStandard", "developerTier"):
            faults.append(f"trainingType {body['trainingType']}")
        return faults

    assert check_all("azure", OPENAI_FILES, check) > 10


@pytest.mark.slow
def test_together_against_its_document_and_its_sdks_types(shared: Path) -> None:
    finetune = pytest.importorskip("together.types.finetune")
    published = Published(shared / "specs" / "together-finetuning-v1prefix.yaml")
    operation = published.document["paths"]["/v1/fine-tunes"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    properties = set(schema["properties"])
    # Where the document contradicts itself or the SDK (3.1.1), the SDK holds: a checkpoint takes the model's place;
    # "auto" is the default of a field that is said to be boolean; both schedulers' arguments look the same.
    schema["required"].remove("model")
    del published.document["components"]["schemas"]["TrainingMethodSFT"]["properties"]["train_on_inputs"]["type"]
    arguments = published.document["components"]["schemas"]["LRScheduler"]["properties"]["lr_scheduler_args"]
    arguments["anyOf"] = arguments.pop("oneOf")
    in_the_sdk = set(finetune.FinetuneRequest.model_fields)

    def check(body: dict[str, Any]) -> list[str]:
        assert ("model" in body) != ("from_checkpoint" in body)
        if body["training_type"]["type"] == "Lora":  # the SDK fills both in from the model's limits
            body["training_type"] = {"lora_r": 8, "lora_alpha": 16} | body["training_type"]
        faults = published.faults(schema, body)
        faults += [f"neither published nor in the SDK: {name}" for name in set(body) - properties - in_the_sdk]
        try:
            finetune.FinetuneRequest.model_validate(body)
        except ValueError as error:
            faults.append(str(error))
        return faults

    assert check_all("together", OPENAI_FILES, check) > 30


@pytest.mark.slow
def test_vertex_as_the_types_of_google_genai() -> None:
    types = pytest.importorskip("google.genai.types")
    from llmtune_vertex.requests import sdk_arguments, with_key

    def check(body: dict[str, Any]) -> list[str]:
        keyed = with_key(body, "abcdefghij12")
        faults = []
        try:
            job = types.TuningJob.model_validate({key: value for key, value in keyed.items() if key != "outputUri"})
            spec = job.supervised_tuning_spec or job.preference_optimization_spec or job.reinforcement_tuning_spec
            assert spec is not None
        except ValueError as error:
            faults.append(f"TuningJob: {error}")
        _base, train, config, extra = sdk_arguments(keyed)
        try:
            types.TuningDataset.model_validate({"gcs_uri": train})
            types.CreateTuningJobConfig.model_validate(config)
        except ValueError as error:
            faults.append(f"CreateTuningJobConfig: {error}")
        assert set(extra) <= {"serviceAccount", "reinforcementTuningSpec"}
        labels = keyed.get("labels", {})
        faults += [f"label {key}" for key in labels if not re.fullmatch(r"[a-z0-9_-]{1,63}", key)]
        return faults

    files = {"train": "gs://bucket/train.jsonl", "validation": "gs://bucket/validation.jsonl"}
    settings = {
        "project": "p",
        "location": "us-central1",
        "bucket": "bucket",
        "kms_key_name": "projects/p/locations/l/keyRings/r/cryptoKeys/k",
        "service_account": "run@p.iam.gserviceaccount.com",
    }
    assert check_all("vertex", files, check, **settings) > 20


@pytest.mark.slow
def test_bedrock_by_botocores_own_validation() -> None:
    validate = pytest.importorskip("botocore.validate")
    from llmtune_bedrock import service_model
    from llmtune_bedrock.requests import with_key

    shape = service_model.service("bedrock").operation_model("CreateModelCustomizationJob").input_shape

    def check(body: dict[str, Any]) -> list[str]:
        keyed = with_key(body, "abcdefghij12")
        report = validate.ParamValidator().validate(keyed, shape)
        faults = [report.generate_report()] if report.has_errors() else []
        ours = service_model.faults("bedrock", "CreateModelCustomizationJob", keyed)
        return faults + [f"{path} {fault}" for path, fault in ours]

    files = {"train": "s3://bucket/train.jsonl", "validation": "s3://bucket/validation.jsonl"}
    settings = {
        "region": "us-east-1",
        "bucket": "bucket",
        "role_arn": "arn:aws:iam::123456789012:role/llmtune",
        "kms_key_id": "11111111-2222-3333-4444-555555555555",
        "subnet_ids": ("subnet-0123456789abcdef0",),
        "security_group_ids": ("sg-0123456789abcdef0",),
    }
    assert check_all("bedrock", files, check, **settings) > 20
