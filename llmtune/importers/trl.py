"""TRL: the fields of an SFTConfig or DPOConfig, with those of its scripts' ModelConfig and dataset arguments.

Names and defaults: TRL 1.16 and transformers 5.23, `SFTConfig` and `TrainingArguments` (read 2026-11-26).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmtune.importers import mapping
from llmtune.importers.keys import Imported, Keys
from llmtune.importers.reasons import REASONS

#: Keys that only TRL has.
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
    "dataset_name",
    "beta",
}

#: Keys of configurations for other trainers of TRL, and their class.
_OTHER_TRAINERS = {
    "num_generations": "GRPOConfig",
    "desirable_weight": "KTOConfig",
    "cpo_alpha": "CPOConfig",
    "center_rewards_coefficient": "RewardConfig",
    "lmbda": "GKDConfig",
}
#: Keys of DPOConfig that change the loss unless they have this value.
_PLAIN_DPO: dict[str, tuple[object, ...]] = {
    "f_divergence_type": ("reverse_kl",),
    "use_weighting": (False,),
    "sync_ref_model": (False,),
    "rpo_alpha": (),
    "ld_alpha": (),
    "loss_weights": (),
}

_ONE_DEVICE = "the local trainer runs on one device"
_SHOWN = "the report and `llmtune runs show` hold every point"
_OWN_METRICS = "the report has llmtune's own metrics"
_FOUND = "columns are found by the row format; dataset.columns names them otherwise"
_REASONS = REASONS | {
    "dataset_text_field": _FOUND,
    "remove_unused_columns": _FOUND,
    "label_names": _FOUND,
    "dataset_kwargs": "llmtune tokenises by its own renderer",
    "eos_token": "the tokenizer's own is used",
    "pad_token": "nothing is padded",
    "packing_strategy": "rows are never cut by packing",
    "eval_packing": "packing changes speed only",
    "chat_template_path": "give the template itself: provider_options.local.chat_template",
    "model_init_kwargs": "the device, dtype and attention are chosen by provider_options.local",
    "dtype": "set provider_options.local.dtype",
    "torch_dtype": "set provider_options.local.dtype",
    "activation_offloading": "not there",
    "shuffle_dataset": "rows are always shuffled, by the seed",
    "train_sampling_strategy": "rows are always shuffled, by the seed",
    "length_column_name": "rows are always shuffled, by the seed",
    "loss_type": "the loss is cross-entropy (sft) or the sigmoid DPO loss (dpo)",
    "data_seed": "one seed orders the rows and draws the adapter",
    "full_determinism": "one seed gives one run on one device",
    "dataset_streaming": "rows are tokenised once and read from disk",
    "dataset_config": "name the file of that subset",
    "dataset_train_split": "the file or folder says which rows are for training",
    "dataset_test_split": "the file or folder says which rows are for testing",
    "lora_task_type": "it follows from the method",
    "lora_*": "adapters are put on linear layers, and only they are trained",
    "load_in_8bit": "8-bit base weights are not there; adapter qlora is 4-bit",
    "bnb_4bit_*": "qlora is NF4 with double quantisation",
    "use_bnb_nested_quant": "qlora is NF4 with double quantisation",
    "model_revision": "set provider_options.local.revision",
    "do_*": "a run trains, and evaluates where there are rows to evaluate on",
    "optim_args": "set adam_beta1, adam_beta2, adam_epsilon",
    "optim_target_modules": "every trained weight takes the one optimizer",
    "label_smoothing_factor": "in dpo set label_smoothing",
    "auto_find_batch_size": "micro-batches are chosen by memory",
    "torch_empty_cache_steps": "micro-batches are chosen by memory",
    "average_tokens_across_devices": "the loss is a mean over the whole step's tokens anyway",
    "include_num_input_tokens_seen": "trained tokens are in every report",
    "include_tokens_per_second": "tokens per second are in every report",
    "skip_memory_metrics": "peak memory is in every report",
    "log_*": _SHOWN,
    "disable_tqdm": _SHOWN,
    "project": _SHOWN,
    "trackio_*": _SHOWN,
    "eval_delay": "validation rows are evaluated every `eval_every` steps",
    "eval_accumulation_steps": _OWN_METRICS,
    "eval_do_concat_batches": _OWN_METRICS,
    "eval_use_gather_object": _OWN_METRICS,
    "include_for_metrics": _OWN_METRICS,
    "batch_eval_metrics": _OWN_METRICS,
    "prediction_loss_only": _OWN_METRICS,
    "save_on_each_node": _ONE_DEVICE,
    "accelerator_config": _ONE_DEVICE,
    "parallelism_config": _ONE_DEVICE,
    "enable_jit_checkpoint": "a run that was killed resumes by itself",
    "ignore_data_skip": "a run that was killed resumes by itself",
    "restore_callback_states_from_checkpoint": "a run that was killed resumes by itself",
    "bf16_full_eval": "validation is computed as training is",
    "fp16_full_eval": "validation is computed as training is",
    "use_cache": "training keeps no cache",
    "liger_kernel_config": "the loss is computed in chunks anyway",
    "ignore_bias_buffers": _ONE_DEVICE,
    "disable_dropout": "there is dropout only where lora_dropout or dropout says so",
    "precompute_ref_*": "the reference is the base model, read by switching the adapter off",
    "ref_model_*": "the reference is the base model, read by switching the adapter off",
    "f_alpha_divergence_coef": "the loss is the sigmoid DPO loss alone",
    "discopop_tau": "the loss is the sigmoid DPO loss alone",
    "max_prompt_length": "max_sequence_length holds prompt and answer",
    "max_completion_length": "max_sequence_length holds prompt and answer",
    "truncation_mode": "rows are cut at their end",
}


def read(keys: Keys) -> Imported:
    """Read a TRL configuration into a job. Raises `InvalidJob` for what no job can express, naming the key."""
    _map_method(keys)
    model = keys.take("model_name_or_path")
    if model is not None:
        keys.add_line("model_name_or_path", model, "mapped", "model.local")
    _map_dataset(keys)
    dpo = keys.job["method"] == "dpo"
    keys.map_field("learning_rate", "learning_rate", rule=mapping.convert_number, default=1e-6 if dpo else 2e-5)
    keys.map_field("num_train_epochs", "epochs", rule=mapping.convert_epochs, default=3)
    mapping.map_max_steps(keys)
    packs = int(keys.to_number("max_length", keys.get("max_length", 1024))) if keys.get("packing") else None
    mapping.map_batch_size(keys, "per_device_train_batch_size", "gradient_accumulation_steps", default=8, packs=packs)
    mapping.map_schedule(keys, "lr_scheduler_type", default="linear")
    mapping.map_warmup(keys)
    keys.map_field("optim", "optimizer", rule=mapping.convert_optimizer)
    for name in ("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"):
        keys.map_field(name, name)
    keys.map_field("max_grad_norm", "max_grad_norm", default=1.0)
    keys.map_field("label_smoothing" if dpo else "label_smoothing_factor", "label_smoothing")
    mapping.map_seed(keys)
    if not dpo:
        _map_loss(keys)
    _map_length(keys)
    keys.map_field("packing", "packing", rule=lambda on: (bool(on), "here it never changes which rows make a step"))
    mapping.map_intervals(keys, strategies=True)
    _map_adapter(keys)
    mapping.map_precision(keys)
    mapping.map_gradient_checkpointing(keys)
    if keys.get("use_cpu"):
        keys.options["device"] = "cpu"
    if "use_cpu" in keys:
        keys.add_line("use_cpu", keys.take("use_cpu"), "mapped", "provider_options.local.device")
    keys.leave_out_others(_REASONS)
    return keys.finish(name=keys.path.stem, model=str(model or "MODEL"))


def _map_method(keys: Keys) -> None:
    foreign = next((key for key in _OTHER_TRAINERS if key in keys), None)
    if foreign is not None:
        raise keys.refuse(
            foreign, f"is of a {_OTHER_TRAINERS[foreign]}: llmtune trains by sft (SFTConfig) and dpo (DPOConfig)"
        )
    keys.job["method"] = "dpo" if "beta" in keys and "completion_only_loss" not in keys else "sft"
    loss = keys.take("loss_type")
    if loss is not None:
        if loss not in ("nll", "chunked_nll", "sigmoid", ["sigmoid"]):
            raise keys.refuse("loss_type", f"{loss!r} is not there: llmtune has nll (sft) and sigmoid (dpo)")
        keys.job["method"] = "sft" if str(loss).endswith("nll") else "dpo"
        keys.add_line("loss_type", loss, "mapped", "method", str(keys.job["method"]))
    for key, plain in _PLAIN_DPO.items():
        if key in keys:
            value = keys.take(key)
            if value not in plain:
                raise keys.refuse(key, f"{value!r} is not there: llmtune has the sigmoid DPO loss alone")
            keys.add_line(key, value, "mapped", "method", "the sigmoid DPO loss")
    keys.map_field("beta", "dpo_beta")


def _map_dataset(keys: Keys) -> None:
    first: dict[str, Any]
    name, mixture = keys.take("dataset_name"), keys.take("datasets")
    if isinstance(mixture, list) and mixture and isinstance(mixture[0], dict):
        first, *more_sets = mixture
        where, key, config, split = "datasets[0].", "path", "name", "split"
        name = first.get("path")
        for number, entry in enumerate(more_sets, start=1):
            keys.add_line(
                f"datasets[{number}]", entry, "left out", None, "a job has one dataset: llmtune data mix joins files"
            )
    else:
        where, key, config, split = "", "dataset_name", "dataset_config", "dataset_train_split"
        first = {key: name, config: keys.take(config), split: keys.take(split)}
    if name is None:
        keys.dataset["path"] = "data.jsonl"
        keys.add_line(key, None, "left out", "dataset.path", "an SFTConfig names no file: put yours here")
        return
    path = mapping.resolve_address(str(name))
    keys.add_line(where + key, name, "mapped" if path == name else "converted", "dataset.path", path)
    if path.startswith("hf://"):
        path = mapping.add_hub_options(keys, path, first, where, config=config, split=split)
        first = {name: value for name, value in first.items() if name not in (config, split)}
    for option, value in first.items():
        if option != key and value is not None and (option, value) != (split, "train"):
            keys.add_line(where + option, value, "left out", None, "name the file that holds these rows")
        elif option == split:
            keys.add_line(where + option, value, "mapped", "dataset.path", "the rows of the file")
    keys.dataset |= {"path": path, "split": (1.0, 0.0, 0.0)}
    reason = "every row trains, as there: set dataset.split to hold rows out for the report"
    keys.add_line("dataset_test_split", keys.take("dataset_test_split"), "default", "dataset.split", reason)


def _map_loss(keys: Keys) -> None:
    """Map which tokens are trained; where no key is set, TRL decides by the rows."""
    completion, assistant = keys.take("completion_only_loss"), keys.take("assistant_only_loss")
    weight, says = None, ""
    if completion or assistant:
        weight, says = 0.0, "0: answers alone"
    elif completion is False:
        weight, says = 1.0, "1: all tokens alike"
    else:
        form = _detect_format(str(keys.dataset["path"]))
        if form == "chat":
            weight, says = 1.0, "1: TRL trains all tokens of chats unless assistant_only_loss is set"
        elif form is not None:
            weight, says = 0.0, "0: TRL trains prompt and completion rows on answers alone"
    if weight is None:
        says = (
            "not set: TRL then trains prompt and completion rows on answers alone and chats on all tokens; llmtune"
            " trains on answers alone unless prompt_loss_weight is set"
        )
        keys.add_line("completion_only_loss", completion, "left out", "prompt_loss_weight", says)
    else:
        keys.hyperparameters["prompt_loss_weight"] = weight
        outcome: Any = "default" if completion is None and not assistant else "converted"
        keys.add_line("completion_only_loss", completion, outcome, "prompt_loss_weight", says)
    if assistant is not None:
        keys.add_line("assistant_only_loss", assistant, "converted", "prompt_loss_weight", says)


def _detect_format(path: str) -> str | None:
    """Return the row format of a local dataset; None where it is remote or of no known format."""
    from llmtune.data.io.reading import Reading

    if path.startswith("hf://") or not Path(path).exists():
        return None
    form = Reading(path).recognise()
    return None if form is None else form.name


def _map_length(keys: Keys) -> None:
    mode = keys.take("truncation_mode")
    if mode is not None and mode != "keep_start":
        keys.add_line("truncation_mode", mode, "left out", None, "rows are cut at their end")
    elif mode is not None:
        keys.add_line("truncation_mode", mode, "mapped", "dataset.on_too_long", "truncate")
    keys.dataset["on_too_long"] = "truncate"
    if keys.is_null("max_length"):
        keys.add_line("max_length", None, "mapped", "max_sequence_length", "null: no limit but the model's own")
        return
    is_set = "max_length" in keys
    length = int(keys.to_number("max_length", keys.take("max_length", 1024)))
    keys.hyperparameters["max_sequence_length"] = length
    reason = "longer rows are cut, as TRL does" if is_set else "not set; TRL cuts rows at its default"
    keys.add_line("max_length", length, "converted" if is_set else "default", "max_sequence_length", reason)


def _map_adapter(keys: Keys) -> None:
    has = keys.take("use_peft")
    quantised = keys.take("load_in_4bit")
    dora = keys.take("use_dora")
    if not has:
        keys.job["adapter"] = "full"
        reason = "all weights: TRL trains LoRA only with use_peft (or a peft_config in Python, which no file holds)"
        keys.add_line("use_peft", has, "default" if has is None else "mapped", "adapter", reason)
        for key in ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora"):
            if key in keys:
                keys.add_line(key, keys.take(key), "left out", None, "it counts only with use_peft; set adapter: lora")
        for key, value in (("load_in_4bit", quantised), ("use_dora", dora)):
            if value is not None:
                keys.add_line(key, value, "left out", None, "it counts only with use_peft; set adapter")
        return
    keys.job["adapter"] = "qlora" if quantised else "dora" if dora else "lora"
    keys.add_line("use_peft", has, "converted", "adapter", str(keys.job["adapter"]))
    for key, value in (("load_in_4bit", quantised), ("use_dora", dora)):
        if value is not None:
            keys.add_line(key, value, "mapped", "adapter", str(keys.job["adapter"]))
    mapping.map_rslora(keys, "use_rslora")
    keys.map_field("lora_r", "lora_rank", default=16)
    keys.map_field("lora_alpha", "lora_alpha", default=32)
    keys.map_field("lora_dropout", "lora_dropout", default=0.05)
    if "lora_target_modules" not in keys:
        reason = (
            "not set: PEFT then takes its own list for the architecture (for most the query and value projections);"
            " llmtune takes all-linear"
        )
        keys.add_line("lora_target_modules", None, "left out", "lora_target_modules", reason)
    keys.map_field("lora_target_modules", "lora_target_modules", rule=lambda names: (_convert_modules(names), ""))


def _convert_modules(names: object) -> object:
    if names in (["all-linear"], "all-linear"):
        return "all-linear"
    return tuple(names) if isinstance(names, list) else names
