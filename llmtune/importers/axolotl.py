"""Axolotl: its YAML. Names by the project's configuration reference and examples (read 2026-11-26)."""

from __future__ import annotations

from typing import Any

from llmtune.importers import mapping
from llmtune.importers.keys import Imported, ImportOutcome, Keys
from llmtune.importers.reasons import REASONS

#: Keys that only Axolotl has.
MARKS = {
    "base_model",
    "sequence_len",
    "sample_packing",
    "micro_batch_size",
    "val_set_size",
    "lora_target_linear",
    "num_epochs",
    "train_on_inputs",
}

#: Axolotl's dataset types, and llmtune's row formats. "auto" detects the format from the rows.
_TYPES = {
    "alpaca": "alpaca",
    "sharegpt": "sharegpt",
    "chat_template": "auto",
    "chat_template.default": "auto",
    "completion": "text",
    "named columns": "auto",
    "alpaca_chat.load_qa": "auto",
    "alpaca_w_system.load_open_orca": "auto",
    "context_qa.load_v2": "auto",
    "context_qa": "auto",
    "gpteacher": "auto",
    "jeopardy": "auto",
    "metharme": "auto",
    "oasst": "auto",
    "summarizetldr": "auto",
    "chatml.argilla": "auto",
    "chatml.argilla_chat": "auto",
    "chatml.intel": "auto",
    "chatml.prompt_pairs": "auto",
    "chatml.ultra": "auto",
    "llama3.argilla": "auto",
    "llama3.argilla_chat": "auto",
    "llama3.intel": "auto",
    "llama3.prompt_pairs": "auto",
    "llama3.ultra": "auto",
}

#: Keys that name the first dataset's columns, and llmtune's name for each column.
_FIELDS = {
    "field_messages": "messages",
    "field": "text",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field_system": "system",
    "field_tools": "tools",
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
}
_USUAL = "from/value, role/content and the usual roles are read by themselves; fix others in the rows"
_IN_DATASETS = {
    "message_property_mappings": _USUAL,
    "message_field_role": _USUAL,
    "message_field_content": _USUAL,
    "roles": _USUAL,
    "roles_to_train": "assistant turns are trained; set weight 0 on those that are not to be learned",
    "train_on_eos": "the end of each trained turn is trained",
    "train_on_eot": "the end of each trained turn is trained",
    "message_field_training": "train, training and weight on a turn are read by themselves; rename another field",
    "message_field_training_detail": "set weight 0 or 1 on the turns themselves",
    "drop_system_message": "take it out of the rows",
    "format": "the prompt is instruction and input, with an empty line between; write another into the rows",
    "conversation": "the tokenizer's own template is used",
    "chat_template": "the tokenizer's own template is used",
    "ds_type": "the kind of file is seen from the file",
    "name": "name the file of that subset",
    "split": "name the file of that split",
    "shards": "give the rows that are to be used",
    "shards_idx": "give the rows that are to be used",
    "preprocess_shards": "rows are tokenised once and read from disk",
    "trust_remote_code": "code from a dataset's repository is never run",
    "revision": "name the file",
}

_REASONS = REASONS | {
    "model_type": "the model's own configuration says it",
    "tokenizer_type": "the model's own tokenizer is used",
    "tokenizer_config": "the model's own tokenizer is used",
    "is_llama_derived_model": "the model's own configuration says it",
    "load_in_8bit": "8-bit base weights are not there; adapter qlora is 4-bit",
    "lora_fan_in_fan_out": "it follows from the layer",
    "lora_modules_to_save": "only the adapter is trained",
    "lora_model_dir": "to train on from an adapter, give its folder as the model",
    "lora_mlp_kernel": "adapters are fused where that is exact",
    "lora_qkv_kernel": "adapters are fused where that is exact",
    "lora_o_kernel": "adapters are fused where that is exact",
    "eval_sample_packing": "packing changes speed only",
    "evals_per_epoch": "it needs the number of rows: set eval_every in steps",
    "saves_per_epoch": "a checkpoint is written at the end of each epoch; set checkpoint_every in steps for more",
    "eval_table_size": "the report shows the worst rows",
    "eval_max_new_tokens": "set evaluation.max_tokens",
    "dataset_exact_deduplication": "llmtune data check names duplicates; they are not taken out",
    "shuffle_merged_datasets": "rows are always shuffled, by the seed",
    "test_datasets": "set dataset.validation or dataset.test",
    "tokenizer_use_fast": "the model's own tokenizer is used",
    "tokenizer_legacy": "the model's own tokenizer is used",
    "resize_token_embeddings_to_32x": "the embeddings keep their size",
    "eot_tokens": "the end of a turn is found in the template",
    "noisy_embedding_alpha": "noise on embeddings is not supported",
    "peft_layers_to_transform": "name the layers in lora_target_modules",
    "lora_target_parameters": "adapters are put on linear layers",
    "loraplus_*": "two rates are not there; layer_lr_multipliers sets one a layer",
    "relora_*": "not there",
    "gptq*": "qlora is bitsandbytes NF4",
    "quantization": "qlora is bitsandbytes NF4",
    "qat": "not there",
    "batch_size": "batch_size is micro_batch_size x gradient_accumulation_steps here",
    "auto_find_batch_size": "micro-batches are chosen by memory",
    "optim_args": "set adam_beta1, adam_beta2, adam_epsilon",
    "optim_target_modules": "every trained weight takes the one optimizer",
    "cosine_constant_lr_ratio": "the schedule has no such setting here",
    "lr_quadratic_warmup": "a warm-up climbs in a straight line",
    "embedding_lr*": "layer_lr_multipliers sets a rate for a layer by its name",
    "lr_groups": "layer_lr_multipliers sets a rate for a layer by its name",
    "early_stopping_*": "set early_stopping_patience and early_stopping_threshold",
    "do_causal_lm_eval": "the report has llmtune's own metrics",
    "do_bench_eval": "the report has llmtune's own metrics",
    "eval_causal_lm_metrics": "the report has llmtune's own metrics",
    "loss_watchdog_*": "a loss that is not finite ends the run",
    "save_first_step": "a checkpoint is written every checkpoint_every steps",
    "save_safetensors": "weights are always safetensors",
    "train_on_inputs": "in dpo answers are compared; prompts have no weight",
    "skip_prepare_dataset": "rows are tokenised once and read from disk",
    "dataset_shard_*": "give the rows that are to be used",
    "dataset_keep_in_memory": "rows are tokenised once and read from disk",
    "dataset_num_proc": "rows are tokenised once and read from disk",
    "shuffle_before_merging_datasets": "rows are always shuffled, by the seed",
    "pretrain_*": "long texts are cut, not packed across",
    "sample_packing_*": "packing changes speed only",
    "multipack_*": "packing changes speed only",
    "min_sample_len": "take short rows out of the file",
    "rpo_alpha": "the loss is the sigmoid DPO loss alone",
    "dpo_use_weighting": "the loss is the sigmoid DPO loss alone",
    "dpo_*": "the loss is the sigmoid DPO loss alone",
    "rl_adapter_ref_model": "the reference is the base model, read by switching the adapter off",
    "use_tensorboard": "set it when the job is run: --sink tensorboard:DIR",
    "use_wandb": "set it when the job is run: --sink wandb:PROJECT",
    "use_mlflow": "set it when the job is run: --sink mlflow:URI",
    "use_comet": "the report and `llmtune runs show` hold every point",
    "device_map": "the model lies on one device",
    "max_memory": "the model lies on one device",
    "gpu_memory_limit": "the model lies on one device",
    "low_cpu_mem_usage": "weights are read straight from disk",
    "bfloat16": "set provider_options.local.dtype",
    "float16": "bfloat16 where the hardware has it, else float32",
    "fp8": "bfloat16 where the hardware has it, else float32",
    "sequence_parallel_degree": "the local trainer runs on one device",
    "context_parallel_size": "the local trainer runs on one device",
    "tensor_parallel_size": "the local trainer runs on one device",
    "dp_*": "the local trainer runs on one device",
    "flash_attn_*": "the attention is chosen by device and model",
    "sageattention": "the attention is chosen by device and model",
    "eager_attention": "the attention is chosen by device and model",
    "flex_attention": "the attention is chosen by device and model",
    "scaling_softmax": "the attention is exact",
    "gc_steps": "memory is given back by itself",
    "profiler_*": "not there",
    "chat_template": "the tokenizer's own template is used; another goes into provider_options.local.chat_template",
    "default_system_message": "put it into the rows",
    "plugins": "not there",
    "liger_*": "the loss is computed in chunks anyway",
    "cut_cross_entropy": "the loss is computed in chunks anyway",
    "unfrozen_parameters": "all weights or an adapter; layer_lr_multipliers with 0 freezes layers",
    "adam_*": "set adam_beta1, adam_beta2, adam_epsilon",
    "wandb_*": "the report and `llmtune runs show` hold every point",
}


def read(keys: Keys) -> Imported:
    """Read an Axolotl configuration into a job. Raises `InvalidJob` for what no job can express, naming the key."""
    goal = keys.take("rl")
    if goal not in (None, "dpo"):
        raise keys.refuse("rl", f"{goal!r} is not there: llmtune trains by sft and dpo")
    keys.job["method"] = goal or "sft"
    if goal:
        keys.add_line("rl", goal, "mapped", "method", "dpo")
    for key in ("rl_beta", "dpo_beta"):
        keys.map_field(key, "dpo_beta")
    if goal:
        keys.map_field("dpo_label_smoothing", "label_smoothing")
    model = keys.take("base_model")
    keys.add_line("base_model", model, "mapped", "model.local")
    _map_datasets(keys)
    if "train" not in keys.dataset:
        mapping.map_held_out(keys, "val_set_size")
    keys.map_field("learning_rate", "learning_rate", rule=mapping.convert_number)
    keys.map_field("num_epochs", "epochs", rule=mapping.convert_epochs, default=1)
    mapping.map_max_steps(keys)
    packs = int(keys.to_number("sequence_len", keys.get("sequence_len", 512))) if keys.get("sample_packing") else None
    mapping.map_batch_size(keys, "micro_batch_size", "gradient_accumulation_steps", default=1, packs=packs)
    mapping.map_schedule(keys, "lr_scheduler", default="cosine")
    keys.map_field("cosine_min_lr_ratio", "min_lr_ratio")
    _map_warmup(keys)
    keys.map_field("optimizer", "optimizer", rule=mapping.convert_optimizer)
    for name in ("weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon"):
        keys.map_field(name, name)
    _map_loss(keys)
    _map_length(keys)
    keys.map_field(
        "sample_packing", "packing", rule=lambda on: (bool(on), "here it never changes which rows make a step")
    )
    keys.map_field("early_stopping_patience", "early_stopping_patience")
    mapping.map_intervals(keys, strategies=False)
    mapping.map_seed(keys)
    _map_adapter(keys)
    _map_template(keys)
    mapping.map_precision(keys)
    mapping.map_gradient_checkpointing(keys)
    keys.leave_out_others(_REASONS)
    return keys.finish(name=keys.path.stem, model=str(model))


def _map_datasets(keys: Keys) -> None:
    """Map the first dataset and the validation file; the other datasets are left out."""
    datasets = keys.take("datasets") or keys.take("pretraining_dataset") or []
    entries: list[dict[str, Any]] = (
        [entry for entry in datasets if isinstance(entry, dict)] if isinstance(datasets, list) else []
    )
    if not entries:
        raise keys.refuse("datasets", "names no dataset")
    first, *unused = entries
    where = first.get("data_files") or first.get("path")
    if isinstance(where, list):
        unused = [*({"path": file} for file in where[1:]), *unused]
        where = where[0]
    where = mapping.resolve_address(str(where))
    if where.startswith("hf://"):
        where = mapping.add_hub_options(
            keys, where, first, "datasets[0].", config="name", split="split", revision="revision"
        )
    _map_validation_file(keys, where)
    keys.add_line(
        "datasets[0].path",
        first.get("path"),
        "mapped" if where == first.get("path") else "converted",
        "dataset.path",
        where,
    )
    _map_row_format(keys, first, where)
    for number, entry in enumerate(unused, start=1):
        keys.add_line(
            f"datasets[{number}]", entry, "left out", None, "a job has one dataset: llmtune data mix joins files"
        )


def _map_validation_file(keys: Keys, train: str) -> None:
    """Map `test_datasets`, where there are any, to the validation file beside the training file at `train`."""
    held_out = keys.take("test_datasets")
    if not (isinstance(held_out, list) and held_out and isinstance(held_out[0], dict)):
        keys.dataset["path"] = train
        return
    validation = mapping.resolve_address(str(held_out[0].get("data_files") or held_out[0].get("path")))
    keys.dataset |= {"train": train, "validation": validation}
    keys.add_line("test_datasets", held_out[0].get("path"), "converted", "dataset.validation", validation)
    for number, entry in enumerate(held_out[1:], start=1):
        keys.add_line(f"test_datasets[{number}]", entry, "left out", None, "a job has one file for validation")
    if "val_set_size" in keys:
        keys.add_line("val_set_size", keys.take("val_set_size"), "left out", None, "test_datasets validate")
    keys.dataset["split"] = (1.0, 0.0, 0.0)


def _map_row_format(keys: Keys, entry: dict[str, Any], where: str) -> None:
    """Map the type and the column names of the dataset at `where`; its other keys are left out."""
    dataset_type = entry.get("type")
    if isinstance(dataset_type, dict):  # columns named one by one, and a template for the prompt
        entry = {**entry, **{key: value for key, value in dataset_type.items() if key in _FIELDS or key == "format"}}
        entry["type"] = "named columns"
    kind = str(entry.get("type") or "")
    row_format = _TYPES.get(kind, "auto")
    if row_format != "auto":
        keys.dataset["format"] = row_format
    is_known = kind in _TYPES or not kind
    reason = row_format if is_known else "the row format is found out from the rows; check it with: llmtune data check"
    keys.add_line(
        "datasets[0].type", entry.get("type"), "converted" if is_known else "left out", "dataset.format", reason
    )
    columns = {
        name: entry[key] for key, name in _FIELDS.items() if isinstance(entry.get(key), str) and entry[key] != name
    }
    if columns:
        keys.dataset["columns"] = columns
    for key, value in entry.items():
        if key in ("path", "type", "data_files", *(("name", "split", "revision") if "hf://" in where else ())):
            continue
        if key in _FIELDS:
            keys.add_line(f"datasets[0].{key}", value, "mapped", "dataset.columns")
        elif value is not None:
            reason = _IN_DATASETS.get(key, "not known to llmtune: look up what it does in Axolotl")
            keys.add_line(f"datasets[0].{key}", value, "left out", None, reason)


def _map_warmup(keys: Keys) -> None:
    """Map the warm-up, with Axolotl's default: it takes 0 for "not set" and warms up all the same."""
    for key in ("warmup_steps", "warmup_ratio"):
        if key in keys and not keys.get(key):
            keys.add_line(key, keys.take(key), "left out", None, f"0 means not set in {keys.tool}")
    if "warmup_steps" not in keys and "warmup_ratio" not in keys:
        keys.hyperparameters["warmup_ratio"] = 0.03
        reason = f"not set; {keys.tool}'s default: 0.03 of all steps, 100 at most (set warmup_steps above 3,333 steps)"
        keys.add_line("warmup_ratio", 0.03, "default", "warmup_ratio", reason)
    mapping.map_warmup(keys)


def _map_loss(keys: Keys) -> None:
    if keys.job["method"] == "dpo":
        return  # dpo compares answers: prompts have no weight
    value = keys.take("train_on_inputs")
    weight = 1.0 if value is True else 0.0
    keys.hyperparameters["prompt_loss_weight"] = weight
    outcome: ImportOutcome = "default" if value is None else "converted"
    keys.add_line("train_on_inputs", bool(value), outcome, "prompt_loss_weight", f"{weight:g}")


def _map_length(keys: Keys) -> None:
    keys.map_field("sequence_len", "max_sequence_length")
    strategy = keys.take("excess_length_strategy")
    keys.dataset["on_too_long"] = {"truncate": "truncate", "raise": "error"}.get(str(strategy), "drop")
    outcome: ImportOutcome = "default" if strategy is None else "mapped"
    keys.add_line(
        "excess_length_strategy", strategy or "drop", outcome, "dataset.on_too_long", keys.dataset["on_too_long"]
    )


def _map_adapter(keys: Keys) -> None:
    kind, quantised, dora = keys.take("adapter"), keys.take("load_in_4bit"), keys.take("peft_use_dora")
    if kind is None:
        keys.job["adapter"] = "full"
        keys.add_line("adapter", None, "default", "adapter", "no adapter: all weights are trained")
        return
    if kind not in ("lora", "qlora"):
        raise keys.refuse("adapter", f"{kind!r} is not there: llmtune has lora, qlora, dora and full")
    keys.job["adapter"] = "qlora" if kind == "qlora" or quantised else "dora" if dora else "lora"
    keys.add_line(
        "adapter", kind, "mapped" if keys.job["adapter"] == kind else "converted", "adapter", keys.job["adapter"]
    )
    for key, value in (("load_in_4bit", quantised), ("peft_use_dora", dora)):
        if value is not None:
            keys.add_line(key, value, "mapped", "adapter", keys.job["adapter"])
    mapping.map_rslora(keys, "peft_use_rslora")
    keys.map_field("lora_r", "lora_rank", default=8)
    for name in ("lora_alpha", "lora_dropout"):
        keys.map_field(name, name)
    every = keys.take("lora_target_linear")
    if every:
        keys.hyperparameters["lora_target_modules"] = "all-linear"
        keys.add_line("lora_target_linear", every, "converted", "lora_target_modules", "all-linear")
    keys.map_field("lora_target_modules", "lora_target_modules", rule=lambda names: (tuple(names), ""))


def _map_template(keys: Keys) -> None:
    text = keys.take("chat_template_jinja")
    if text is not None:
        keys.options["chat_template"] = text
        keys.add_line("chat_template_jinja", text, "mapped", "provider_options.local.chat_template")
    if keys.get("chat_template") == "tokenizer_default":
        keys.add_line(
            "chat_template", keys.take("chat_template"), "mapped", None, "the tokenizer's own template is used"
        )
