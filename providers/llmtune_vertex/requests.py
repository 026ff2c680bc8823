"""The body of the request that creates a tuning job, exactly as google-genai puts it on the wire; and the way back
from the body to that SDK's arguments.

The SDK's spelling is kept where it is odd: keys inside `encryptionSpec`, `preTunedModel` and the parts of a reward go
out in snake_case.
"""

from __future__ import annotations

import copy
from typing import Any

from llmtune.errors import VendorError
from llmtune.provider import Files, Receipt, deep_merge
from llmtune_vertex.declarations import RUN_LABEL, TUNING_MODES
from llmtune_vertex.settings import VertexSettings

SUPERVISED = "supervisedTuningSpec"
PREFERENCE = "preferenceOptimizationSpec"
REINFORCEMENT = "reinforcementTuningSpec"

#: The part of a body that says how it is tuned, and the SDK's word for it, by our method.
SPECS = {
    "sft": (SUPERVISED, "SUPERVISED_FINE_TUNING"),
    "dpo": (PREFERENCE, "PREFERENCE_TUNING"),
    "reinforcement": (REINFORCEMENT, "REINFORCEMENT_TUNING"),
}

#: Options of a reinforcement job -> the service's hyperparameters.
_OPTIONS = {
    "samples_per_prompt": "samplesPerPrompt",
    "max_output_tokens": "maxOutputTokens",
    "thinking_level": "thinkingLevel",
}


def build(receipt: Receipt, files: Files, settings: VertexSettings) -> dict[str, Any]:
    """Build the body for this receipt. The run key's label is added when the job is sent."""
    target, options = receipt.target, receipt.target.options
    spec = SPECS.get(target.method, SPECS["sft"])[0]
    body: dict[str, Any] = {}
    if target.model.startswith("projects/"):
        checkpoint = options.get("pre_tuned_model_checkpoint_id")
        body["preTunedModel"] = {"tuned_model_name": target.model}
        if checkpoint:
            body["preTunedModel"]["checkpoint_id"] = checkpoint
    else:
        body["baseModel"] = target.model
    body[spec] = {"trainingDatasetUri": files["train"].id}
    if "validation" in files:
        body[spec]["validationDatasetUri"] = files["validation"].id
    if receipt.family == "open models":
        body[spec]["tuningMode"] = TUNING_MODES[target.adapter]
        body["outputUri"] = output_uri(settings)
        if custom := options.get("custom_base_model"):
            body["customBaseModel"] = custom
    if spec == REINFORCEMENT:
        chosen = {wire: options[name] for name, wire in _OPTIONS.items() if options.get(name) is not None}
        if chosen:
            body[spec]["hyperParameters"] = chosen
    if description := options.get("description"):
        body["description"] = description
    if settings.kms_key_name:
        body["encryptionSpec"] = {"kms_key_name": settings.kms_key_name}
    if settings.service_account:
        body["serviceAccount"] = settings.service_account
    return deep_merge(body, receipt.request_parameters())


def output_uri(settings: VertexSettings) -> str:
    """Return the folder for the weights of open models; the run key is appended when the job is sent."""
    bucket = settings.bucket or "<bucket>"
    return f"gs://{bucket}/{settings.prefix.strip('/')}/output"


def with_key(body: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the body with the run key as a label, and as the last folder of the output."""
    keyed = copy.deepcopy(body)
    keyed["labels"] = {**keyed.get("labels", {}), RUN_LABEL: key}
    if "outputUri" in keyed:
        keyed["outputUri"] = f"{keyed['outputUri']}/{key}"
    return keyed


#: Our body's hyperparameters -> the SDK's config.
_HYPERPARAMETERS = {
    "epochCount": "epoch_count",
    "learningRateMultiplier": "learning_rate_multiplier",
    "adapterSize": "adapter_size",
    "batchSize": "batch_size",
    "learningRate": "learning_rate",
    "beta": "beta",
    "samplesPerPrompt": "samples_per_prompt",
    "evaluateInterval": "evaluate_interval",
    "checkpointInterval": "checkpoint_interval",
    "maxOutputTokens": "max_output_tokens",
    "thinkingLevel": "thinking_level",
}
_TOP = {
    "tunedModelDisplayName": "tuned_model_display_name",
    "description": "description",
    "labels": "labels",
    "customBaseModel": "custom_base_model",
    "outputUri": "output_uri",
    "encryptionSpec": "encryption_spec",
}
_SPEC = {"exportLastCheckpointOnly": "export_last_checkpoint_only", "tuningMode": "tuning_mode"}


def sdk_arguments(body: dict[str, Any]) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """Return the body as google-genai's arguments: (base model, training URI, config, extra body).

    The service account and a number of steps have no place in the SDK's config and travel as its `extra_body`.

    Raises:
        VendorError: the body holds a key that the SDK could not carry; it is never sent without it.
    """
    remaining = copy.deepcopy(body)
    pre_tuned = remaining.pop("preTunedModel", None)
    base = pre_tuned["tuned_model_name"] if pre_tuned else remaining.pop("baseModel")
    name, method = next(words for words in SPECS.values() if words[0] in remaining)
    spec = remaining.pop(name)
    config: dict[str, Any] = {"method": method}
    if pre_tuned and "checkpoint_id" in pre_tuned:
        config["pre_tuned_model_checkpoint_id"] = pre_tuned["checkpoint_id"]
    train = spec.pop("trainingDatasetUri")
    if validation := spec.pop("validationDatasetUri", None):
        if name == REINFORCEMENT:  # the SDK's config has a field of its own for it
            config["validation_dataset_uri"] = validation
        else:
            config["validation_dataset"] = {"gcs_uri": validation}
    if reward := spec.pop("singleRewardConfig", None):
        config["reward_config"] = reward
    hyperparameters = spec.pop("hyperParameters", {})
    for source, names in ((hyperparameters, _HYPERPARAMETERS), (spec, _SPEC), (remaining, _TOP)):
        for wire, argument in names.items():
            if wire in source:
                config[argument] = source.pop(wire)
    extra: dict[str, Any] = {}
    if "serviceAccount" in remaining:
        extra["serviceAccount"] = remaining.pop("serviceAccount")
    if "stepCount" in hyperparameters:
        extra[name] = {"hyperParameters": {"stepCount": hyperparameters.pop("stepCount")}}
    if unsent_keys := [*hyperparameters, *spec, *remaining]:
        raise VendorError(f"google-genai has no argument for {', '.join(unsent_keys)}")
    return base, train, config, extra
