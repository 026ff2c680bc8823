"""Axolotl: its YAML. Names by the project's configuration reference and examples (read 2026-11-26)."""

from __future__ import annotations

from typing import Any

from llmtune.importing.reading import (
    REASONS,
    Imported,
    Keys,
    Word,
    batch,
    checkpointing,
    optimizer,
    precision,
    steps_or_ratio,
    whole_epochs,
)

#: Keys that no other of the tools has.
MARKS = {
    "base_model",
    "sequence_len",
    "sample_packing",
    "micro_batch_size",
    "val_set_size",
    "datasets",
    "lora_target_linear",
    "num_epochs",
    "train_on_inputs",
}

#: Its dataset types, and our row formats. Others are found out by llmtune itself (auto).
_TYPES = {
    "alpaca": "alpaca",
    "sharegpt": "sharegpt",
    "chat_template": "auto",
    "chat_template.default": "auto",
    "completion": "text",
    "input_output": "auto",
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
    """The job of an Axolotl configuration."""
    goal = keys.take("rl")
    if goal not in (None, "dpo"):
        raise keys.refuse("rl", f"{goal!r} is not there: llmtune trains by sft and dpo")
    keys.job["method"] = goal or "sft"
    if goal:
        keys.say("rl", goal, "mapped", "method", "dpo")
    for key in ("rl_beta", "dpo_beta"):
        keys.set(key, "dpo_beta")
    model = keys.take("base_model")
    keys.say("base_model", model, "mapped", "model.local")
    _datasets(keys)
    _held_out(keys)
    keys.set("learning_rate", "learning_rate", rule=lambda rate: (float(rate), ""))
    keys.set("num_epochs", "epochs", rule=whole_epochs, default=1)
    keys.set("max_steps", "max_steps")
    batch(keys, "micro_batch_size", "gradient_accumulation_steps")
    keys.set("lr_scheduler", "lr_schedule", default="cosine")
    keys.set("cosine_min_lr_ratio", "min_lr_ratio")
    steps_or_ratio(keys)
    keys.set("warmup_ratio", "warmup_ratio")
    keys.set("optimizer", "optimizer", rule=optimizer)
    for name in ("weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon"):
        keys.set(name, name)
    _loss(keys)
    _length(keys)
    keys.set("sample_packing", "packing", rule=lambda on: (bool(on), "it changes speed only, never the loss"))
    keys.set("early_stopping_patience", "early_stopping_patience")
    for key, field in (("eval_steps", "eval_every"), ("save_steps", "checkpoint_every")):
        value = keys.get(key)
        if value is not None and float(value) < 1:
            keys.take(key)
            keys.say(key, value, "left out", field, f"a share of all steps: set {field} in steps")
        else:
            keys.set(key, field, rule=lambda steps: (int(steps), ""))
    keys.set("save_total_limit", "keep_checkpoints")
    seed = keys.take("seed")
    keys.job["seed"] = 42 if seed is None else int(seed)
    keys.say("seed", keys.job["seed"], "default" if seed is None else "mapped", "seed")
    _adapter(keys)
    _template(keys)
    precision(keys)
    checkpointing(keys)
    keys.leave_rest(_REASONS)
    return keys.finish(name=keys.path.stem, model=str(model))


def _datasets(keys: Keys) -> None:
    found = keys.take("datasets") or keys.take("pretraining_dataset") or []
    sets: list[dict[str, Any]] = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    if not sets:
        raise keys.refuse("datasets", "names no dataset")
    first, *others = sets
    where = first.get("data_files") or first.get("path")
    if isinstance(where, list):
        others = [*({"path": each} for each in where[1:]), *others]
        where = where[0]
    where = str(where)
    if not _is_file(where):
        where = f"hf://{where}"
    keys.dataset["path"] = where
    keys.say(
        "datasets[0].path",
        first.get("path"),
        "mapped" if where == first.get("path") else "converted",
        "dataset.path",
        where,
    )
    kind = str(first.get("type") or "")
    form = _TYPES.get(kind, "auto")
    if form != "auto":
        keys.dataset["format"] = form
    known = kind in _TYPES or not kind
    said = form if known else "the row format is found out from the rows; check it with: llmtune data check"
    keys.say("datasets[0].type", first.get("type"), "converted" if known else "left out", "dataset.format", said)
    columns = {
        ours: first[theirs]
        for theirs, ours in (("field_messages", "messages"), ("field", "text"))
        if isinstance(first.get(theirs), str) and first[theirs] != ours
    }
    if columns:
        keys.dataset["columns"] = columns
    for key, value in first.items():
        if key in ("path", "type", "data_files") or value is None:
            continue
        if key in ("field_messages", "field"):
            keys.say(f"datasets[0].{key}", value, "mapped", "dataset.columns")
        else:
            keys.say(f"datasets[0].{key}", value, "left out", None, "llmtune reads the usual names by itself")
    for number, each in enumerate(others, start=1):
        keys.say(f"datasets[{number}]", each, "left out", None, "a job has one dataset: join the files")


def _is_file(where: str) -> bool:
    return where.endswith((".json", ".jsonl", ".parquet", ".csv", ".tsv", ".gz", ".zst")) or where[:1] in "./~"


def _held_out(keys: Keys) -> None:
    value = keys.take("val_set_size")
    share = float(value or 0)
    if share >= 1:
        keys.say("val_set_size", value, "left out", "dataset.split", "a number of rows: set dataset.split in rows")
        return
    keys.dataset["split"] = (1 - share, share, 0.0)
    keys.say("val_set_size", value, "converted", "dataset.split", f"{1 - share:g} train, {share:g} validation, 0 test")


def _loss(keys: Keys) -> None:
    value = keys.take("train_on_inputs")
    weight = 1.0 if value is True else 0.0
    keys.hyperparameters["prompt_loss_weight"] = weight
    word: Word = "default" if value is None else "converted"
    keys.say("train_on_inputs", bool(value), word, "prompt_loss_weight", f"{weight:g}")


def _length(keys: Keys) -> None:
    keys.set("sequence_len", "max_sequence_length")
    wanted = keys.take("excess_length_strategy")
    keys.dataset["on_too_long"] = {"truncate": "truncate", "raise": "error"}.get(str(wanted), "drop")
    word: Word = "default" if wanted is None else "mapped"
    keys.say("excess_length_strategy", wanted or "drop", word, "dataset.on_too_long", keys.dataset["on_too_long"])


def _adapter(keys: Keys) -> None:
    kind, quantised, dora = keys.take("adapter"), keys.take("load_in_4bit"), keys.take("peft_use_dora")
    if kind is None:
        keys.job["adapter"] = "full"
        keys.say("adapter", None, "default", "adapter", "no adapter: all weights are trained")
        return
    if kind not in ("lora", "qlora"):
        raise keys.refuse("adapter", f"{kind!r} is not there: llmtune has lora, qlora, dora and full")
    keys.job["adapter"] = "qlora" if kind == "qlora" or quantised else "dora" if dora else "lora"
    keys.say("adapter", kind, "mapped" if keys.job["adapter"] == kind else "converted", "adapter", keys.job["adapter"])
    for key, value in (("load_in_4bit", quantised), ("peft_use_dora", dora)):
        if value is not None:
            keys.say(key, value, "mapped", "adapter", keys.job["adapter"])
    keys.set("lora_r", "lora_rank", default=8)
    for name in ("lora_alpha", "lora_dropout"):
        keys.set(name, name)
    every = keys.take("lora_target_linear")
    if every:
        keys.hyperparameters["lora_target_modules"] = "all-linear"
        keys.say("lora_target_linear", every, "converted", "lora_target_modules", "all-linear")
    keys.set("lora_target_modules", "lora_target_modules", rule=lambda names: (tuple(names), ""))


def _template(keys: Keys) -> None:
    text = keys.take("chat_template_jinja")
    if text is not None:
        keys.options["chat_template"] = text
        keys.say("chat_template_jinja", text, "mapped", "provider_options.local.chat_template")
    if keys.get("chat_template") == "tokenizer_default":
        keys.say("chat_template", keys.take("chat_template"), "mapped", None, "the tokenizer's own template is used")
