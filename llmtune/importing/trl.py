"""TRL: the fields of an SFTConfig or DPOConfig, with those of its scripts' ModelConfig and dataset arguments.

Names and defaults: TRL 1.16 and transformers 5.23, `SFTConfig` and `TrainingArguments` (read 2026-11-26).
"""

from __future__ import annotations

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
    "completion_only_loss",
    "assistant_only_loss",
    "max_length",
    "dataset_text_field",
    "packing_strategy",
    "chat_template_path",
    "truncation_mode",
    "dataset_num_proc",
    "use_peft",
    "lora_task_type",
    "eos_token",
    "dataset_train_split",
}

_REASONS = REASONS | {
    "dataset_text_field": "llmtune finds the text by the row format; dataset.columns names it otherwise",
    "dataset_kwargs": "llmtune tokenises by its own renderer",
    "eos_token": "the tokenizer's own is used",
    "pad_token": "nothing is padded",
    "packing_strategy": "rows are never cut by packing",
    "eval_packing": "packing changes speed only",
    "chat_template_path": "give the template itself: provider_options.local.chat_template",
    "model_init_kwargs": "the device, dtype and attention are chosen by provider_options.local",
    "activation_offloading": "not there",
    "shuffle_dataset": "rows are always shuffled, by the seed",
    "loss_type": "the loss is cross-entropy (sft) or the sigmoid DPO loss (dpo)",
    "data_seed": "one seed orders the rows and draws the adapter",
    "dataset_train_split": "the file or folder says which rows are for training",
    "dataset_test_split": "the file or folder says which rows are for testing",
    "dataset_config": "name the file, or hf://OWNER/NAME",
    "dataset_streaming": "rows are tokenised once and read from disk",
    "lora_task_type": "it follows from the method",
    "load_in_8bit": "8-bit base weights are not there; adapter qlora is 4-bit",
    "bnb_4bit_*": "qlora is NF4 with double quantisation",
    "use_bnb_nested_quant": "qlora is NF4 with double quantisation",
    "lora_modules_to_save": "only the adapter is trained",
    "model_revision": "set provider_options.local.revision",
    "do_*": "a run trains, and evaluates where there are rows to evaluate on",
    "save_total_limit": "set keep_checkpoints",
}


def read(keys: Keys) -> Imported:
    """The job of a TRL configuration."""
    beta = "beta" in keys and "completion_only_loss" not in keys
    keys.job["method"] = "dpo" if beta else "sft"
    if "loss_type" in keys:
        loss = keys.take("loss_type")
        if loss not in ("nll", "sigmoid", ["sigmoid"]):
            raise keys.refuse("loss_type", f"{loss!r} is not there: llmtune has nll (sft) and sigmoid (dpo)")
        keys.job["method"] = "dpo" if loss != "nll" else "sft"
        keys.say("loss_type", loss, "mapped", "method", str(keys.job["method"]))
    keys.set("beta", "dpo_beta")
    model = keys.take("model_name_or_path")
    if model is not None:
        keys.say("model_name_or_path", model, "mapped", "model.local")
    _dataset(keys)
    keys.set("learning_rate", "learning_rate", default=1e-6 if keys.job["method"] == "dpo" else 2e-5)
    keys.set("num_train_epochs", "epochs", rule=whole_epochs, default=3)
    if keys.get("max_steps", -1) == -1:
        keys.take("max_steps")
    keys.set("max_steps", "max_steps")
    batch(keys, "per_device_train_batch_size", "gradient_accumulation_steps", default=8)
    keys.set("lr_scheduler_type", "lr_schedule", default="linear")
    steps_or_ratio(keys)
    keys.set("warmup_ratio", "warmup_ratio")
    keys.set("optim", "optimizer", rule=optimizer)
    for name in ("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"):
        keys.set(name, name)
    keys.set("max_grad_norm", "max_grad_norm", default=1.0)
    keys.set("label_smoothing_factor", "label_smoothing")
    _seed(keys)
    _loss(keys)
    _length(keys)
    if "packing" in keys:
        value = keys.take("packing")
        keys.hyperparameters["packing"] = bool(value)
        keys.say("packing", value, "converted", "packing", "it changes speed only, and never which rows make a step")
    _rhythm(keys)
    _adapter(keys)
    precision(keys)
    checkpointing(keys)
    keys.leave_rest(_REASONS)
    return keys.finish(name=keys.path.stem, model=str(model or "MODEL"))


def _dataset(keys: Keys) -> None:
    name = keys.take("dataset_name") or keys.take("datasets")
    if isinstance(name, str):
        where = name if "." in name.rpartition("/")[2] else f"hf://{name}"
        keys.dataset["path"] = where
        keys.say("dataset_name", name, "converted", "dataset.path", where)
    else:
        keys.dataset["path"] = "data.jsonl"
        keys.say("dataset_name", name, "left out", "dataset.path", "an SFTConfig names no file: put yours here")


def _seed(keys: Keys) -> None:
    seed = keys.take("seed")
    keys.job["seed"] = 42 if seed is None else int(seed)
    if seed is None:
        keys.say("seed", 42, "default", "seed", f"not set; {keys.tool}'s default")
    else:
        keys.say("seed", seed, "mapped", "seed")


def _loss(keys: Keys) -> None:
    answers = [key for key in ("completion_only_loss", "assistant_only_loss") if keys.get(key) is True]
    every = keys.get("completion_only_loss") is False
    for key in ("completion_only_loss", "assistant_only_loss"):
        if key in keys:
            value = keys.take(key)
            word: Word = "converted" if answers or every else "mapped"
            keys.say(key, value, word, "prompt_loss_weight", "0: answers alone" if answers else "1: all tokens alike")
    if answers:
        keys.hyperparameters["prompt_loss_weight"] = 0.0
    elif every:
        keys.hyperparameters["prompt_loss_weight"] = 1.0
    else:
        keys.say(
            "completion_only_loss",
            None,
            "left out",
            "prompt_loss_weight",
            "not set: TRL then trains prompt and completion rows on answers alone and chats on all tokens; llmtune"
            " trains on answers alone unless prompt_loss_weight is set",
        )


def _length(keys: Keys) -> None:
    told = "max_length" in keys
    length = keys.take("max_length", 1024)
    mode = keys.take("truncation_mode")
    if mode is not None and mode != "keep_start":
        keys.say("truncation_mode", mode, "left out", None, "rows are cut at their end")
    elif mode is not None:
        keys.say("truncation_mode", mode, "mapped", "dataset.on_too_long", "truncate")
    keys.hyperparameters["max_sequence_length"] = int(length)
    keys.dataset["on_too_long"] = "truncate"
    said = "longer rows are cut, as TRL does" if told else "not set; TRL cuts rows at its default"
    keys.say("max_length", length, "converted" if told else "default", "max_sequence_length", said)


def _rhythm(keys: Keys) -> None:
    for key, field in (("eval_steps", "eval_every"), ("save_steps", "checkpoint_every")):
        value = keys.get(key)
        if value is not None and float(value) < 1:
            keys.take(key)
            keys.say(key, value, "left out", field, f"a share of all steps: set {field} in steps")
        else:
            keys.set(key, field, rule=lambda steps: (int(steps), ""))
    keys.set("save_total_limit", "keep_checkpoints")


def _adapter(keys: Keys) -> None:
    has = keys.take("use_peft")
    rank = keys.get("lora_r")
    quantised = keys.take("load_in_4bit")
    dora = keys.take("use_dora")
    if has is False or (has is None and rank is None):
        keys.job["adapter"] = "full"
        said = "all weights: no LoRA is configured here (a peft_config in Python is not part of this file)"
        keys.say("use_peft", has, "converted", "adapter", said)
        return
    keys.job["adapter"] = "qlora" if quantised else "dora" if dora else "lora"
    keys.say("use_peft", has, "converted", "adapter", str(keys.job["adapter"]))
    for key, value in (("load_in_4bit", quantised), ("use_dora", dora)):
        if value is not None:
            keys.say(key, value, "mapped", "adapter", str(keys.job["adapter"]))
    keys.set("lora_r", "lora_rank", default=16)
    keys.set("lora_alpha", "lora_alpha", default=32)
    keys.set("lora_dropout", "lora_dropout", default=0.05)
    keys.set("lora_target_modules", "lora_target_modules", rule=lambda names: (_modules(names), ""))


def _modules(names: object) -> object:
    if names in (["all-linear"], "all-linear"):
        return "all-linear"
    return tuple(names) if isinstance(names, list) else names
