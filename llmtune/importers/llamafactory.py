"""LLaMA-Factory: its YAML. Names by the project's examples; defaults by transformers (read 2026-11-26)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmtune.importers import mapping
from llmtune.importers.keys import Imported, ImportOutcome, Keys
from llmtune.importers.reasons import REASONS

#: Keys that only LLaMA-Factory has.
MARKS = {"stage", "finetuning_type", "cutoff_len", "lora_target", "dataset_dir", "template", "pref_beta", "val_size"}

_REASONS = REASONS | {
    "template": "the tokenizer's own chat template is used; another goes into provider_options.local.chat_template",
    "do_*": "a run trains, and evaluates where there are rows to evaluate on",
    "max_samples": "cut the file, or give dataset.split in rows",
    "quantization_method": "qlora is bitsandbytes NF4",
    "double_quantization": "qlora is NF4 with double quantisation",
    "include_num_input_tokens_seen": "trained tokens are in every report",
    "adapter_name_or_path": "to train on from an adapter, give its folder as the model",
    "create_new_adapter": "each run has an adapter of its own",
    "label_smoothing_factor": "set label_smoothing",
    "train_on_prompt": "in dpo answers are compared; prompts have no weight",
    "pref_ftx": "the loss is the sigmoid DPO loss alone",
    "pref_loss": "it counts only with stage: dpo",
    "ref_model*": "the reference is the base model, read by switching the adapter off",
    "flash_attn": "the attention is chosen by device and model",
    "rope_scaling": "the model's own context is used",
    "shift_attn": "the attention is exact",
    "mixture_of_depths": "not there",
    "use_unsloth*": "adapters are fused where that is exact",
    "use_galore": "not there",
    "galore_*": "not there",
    "use_apollo": "not there",
    "apollo_*": "not there",
    "use_badam": "not there",
    "badam_*": "not there",
    "use_adam_mini": "not there",
    "use_muon": "not there",
    "use_dft_loss": "the loss is cross-entropy",
    "use_llama_pro": "layer_lr_multipliers with 0 freezes layers",
    "upcast_*": "norms and the loss are computed in float32",
    "disable_gradient_checkpointing": "set provider_options.local.gradient_checkpointing",
    "use_reentrant_gc": "only the non-reentrant variant is supported",
    "resize_vocab": "the embeddings keep their size",
    "add_tokens": "the embeddings keep their size",
    "add_special_tokens": "the embeddings keep their size",
    "new_special_tokens": "the embeddings keep their size",
    "split_special_tokens": "special tokens are only those of the template",
    "use_fast_tokenizer": "the model's own tokenizer is used",
    "default_system": "put it into the rows",
    "tool_format": "tools are rendered by the template",
    "media_dir": "images are not trained on",
    "eval_on_each_dataset": "a job has one file for validation",
    "eval_num_beams": "answers are sampled or greedy",
    "predict_with_generate": "the report asks the tuned model for answers",
    "ignore_pad_token_for_loss": "nothing is padded",
    "tokenized_path": "rows are cached by their content",
    "buffer_size": "rows are tokenised once and read from disk",
    "preprocessing_batch_size": "rows are tokenised once and read from disk",
    "compute_accuracy": "the report has llmtune's own metrics",
    "early_stopping_steps": "set early_stopping_patience",
    "model_revision": "set provider_options.local.revision",
    "cache_dir": "the hub's own cache is used",
    "hf_hub_token": "the hub's own login is used",
    "ms_hub_token": "the hub's own login is used",
    "om_hub_token": "the hub's own login is used",
    "export_*": "llmtune export writes the adapter or one merged model",
    "infer_*": "answers come from the trained model itself",
    "vllm_*": "answers come from the trained model itself",
    "sglang_*": "answers come from the trained model itself",
    "low_cpu_mem_usage": "weights are read straight from disk",
    "device_map": "the model lies on one device",
    "loraplus_*": "two rates are not there; layer_lr_multipliers sets one a layer",
    "pissa_*": "the adapter begins at zero",
    "lora_bias": "only the adapter is trained",
    "additional_target": "only the adapter is trained",
    "freeze_*": "layer_lr_multipliers with 0 freezes layers",
    "enable_thinking": "set provider_options.local.template_options: {enable_thinking: ...}",
    "image_*": "images are not trained on",
    "video_*": "video is not trained on",
    "streaming": "rows are tokenised once and read from disk",
    "mix_strategy": "a job has one dataset: llmtune data mix joins files",
    "interleave_probs": "a job has one dataset: llmtune data mix joins files",
    "mask_history": "set weight 0 on the turns that are not to be learned",
    "enable_liger_kernel": "the loss is computed in chunks anyway",
    "ray_*": "the local trainer runs on one device",
    "resources_per_worker": "the local trainer runs on one device",
    "placement_strategy": "the local trainer runs on one device",
}


def read(keys: Keys) -> Imported:
    """Read a LLaMA-Factory configuration into a job. Raises `InvalidJob` for what no job can express, with the key."""
    stage = keys.take("stage", "sft")
    if stage not in ("sft", "dpo"):
        raise keys.refuse("stage", f"{stage!r} is not there: llmtune trains by sft and dpo")
    keys.job["method"] = stage
    keys.add_line("stage", stage, "mapped", "method")
    keys.map_field("pref_beta", "dpo_beta")
    loss = keys.take("pref_loss")
    if loss is not None and stage == "dpo":
        if loss != "sigmoid":
            raise keys.refuse("pref_loss", f"{loss!r} is not there: llmtune has the sigmoid DPO loss")
        keys.add_line("pref_loss", loss, "mapped", "method", "dpo")
    model = keys.take("model_name_or_path")
    keys.add_line("model_name_or_path", model, "mapped", "model.local")
    _map_dataset(keys)
    if "validation" not in keys.dataset:
        mapping.map_held_out(keys, "val_size")
    elif "val_size" in keys:
        keys.add_line("val_size", keys.take("val_size"), "left out", None, "eval_dataset validates")
    keys.map_field("learning_rate", "learning_rate", rule=mapping.convert_number, default=5e-5)
    keys.map_field("num_train_epochs", "epochs", rule=mapping.convert_epochs, default=3)
    mapping.map_max_steps(keys)
    packing = keys.get("packing") or keys.get("neat_packing")
    packs = int(keys.to_number("cutoff_len", keys.get("cutoff_len", 2048))) if packing else None
    mapping.map_batch_size(keys, "per_device_train_batch_size", "gradient_accumulation_steps", default=8, packs=packs)
    mapping.map_schedule(keys, "lr_scheduler_type", default="linear")
    mapping.map_warmup(keys)
    keys.map_field("optim", "optimizer", rule=mapping.convert_optimizer)
    for name in ("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"):
        keys.map_field(name, name)
    keys.map_field("max_grad_norm", "max_grad_norm", default=1.0)
    _map_loss(keys)
    keys.map_field("cutoff_len", "max_sequence_length", default=2048)
    keys.dataset["on_too_long"] = "truncate"
    for key in ("packing", "neat_packing"):
        if key in keys and key == "packing" and keys.get("neat_packing"):
            keys.add_line(key, keys.take(key), "mapped", "packing")  # neat_packing implies it
        keys.map_field(key, "packing", rule=_convert_packing)
    mapping.map_intervals(keys, strategies=True)
    mapping.map_seed(keys)
    _map_adapter(keys)
    if keys.take("pure_bf16"):
        keys.options["dtype"] = "bfloat16"
        keys.add_line("pure_bf16", True, "converted", "provider_options.local.dtype", "bfloat16")
    mapping.map_precision(keys)
    mapping.map_gradient_checkpointing(keys)
    keys.leave_out_others(_REASONS)
    return keys.finish(name=keys.path.stem, model=str(model))


def _convert_packing(on: Any) -> tuple[Any, str]:
    return bool(on), "here it never changes which rows make a step, and rows never see each other"


def _map_loss(keys: Keys) -> None:
    if keys.job["method"] == "dpo":
        keys.map_field("dpo_label_smoothing", "label_smoothing")
        return  # dpo compares answers: prompts have no weight
    keys.map_field("label_smoothing_factor", "label_smoothing")
    prompts = keys.take("train_on_prompt")
    keys.hyperparameters["prompt_loss_weight"] = 1.0 if prompts else 0.0
    outcome: ImportOutcome = "default" if prompts is None else "converted"
    keys.add_line("train_on_prompt", bool(prompts), outcome, "prompt_loss_weight", "1" if prompts else "0")


def _map_dataset(keys: Keys) -> None:
    named = keys.take("dataset")
    names = [name.strip() for name in named.split(",")] if isinstance(named, str) else list(named or ())
    if not names:
        raise keys.refuse("dataset", "names no dataset")
    where = keys.take("dataset_dir")
    folder = str(where or "data")
    entry = _find_entry(keys, folder, names[0])
    keys.dataset |= entry or {"path": f"{folder}/{names[0]}.json"}
    if where is not None:
        keys.add_line("dataset_dir", where, "mapped", "dataset.path")
    reason = "" if entry else f"{folder}/dataset_info.json does not exist, so the file is not known: put its path here"
    keys.add_line("dataset", names[0], "converted", "dataset.path", reason or str(keys.dataset["path"]))
    for name in names[1:]:
        keys.add_line("dataset", name, "left out", None, "a job has one dataset: llmtune data mix joins files")
    held_out = keys.take("eval_dataset")
    if held_out is not None:
        first, *more_names = [name.strip() for name in str(held_out).split(",")]
        validation = _find_entry(keys, folder, first) or {"path": f"{folder}/{first}.json"}
        keys.dataset |= {"train": keys.dataset.pop("path"), "validation": validation["path"], "split": (1.0, 0.0, 0.0)}
        keys.add_line("eval_dataset", first, "converted", "dataset.validation", str(validation["path"]))
        for name in more_names:
            keys.add_line("eval_dataset", name, "left out", None, "a job has one file for validation")


def _find_entry(keys: Keys, folder: str, name: str) -> dict[str, Any] | None:
    """Read the entry of a dataset in dataset_info.json, beside the configuration or its parent; None without one."""
    for base in (keys.path.parent / folder, keys.path.parent.parent / folder):
        listing = base / "dataset_info.json"
        if not listing.is_file():
            continue
        try:
            entry = json.loads(listing.read_text(encoding="utf-8")).get(name)
        except (ValueError, AttributeError, RecursionError):
            continue
        if not isinstance(entry, dict):
            continue
        return _convert_entry(keys, base, name, entry)
    return None


#: llmtune's names for the columns of an entry, by its formatting.
_COLUMNS = {
    "alpaca": {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "system": "system",
        "history": "history",
        "chosen": "chosen",
        "rejected": "rejected",
    },
    "sharegpt": {
        "messages": "conversations",
        "system": "system",
        "tools": "tools",
        "chosen": "chosen",
        "rejected": "rejected",
    },
}


def _convert_entry(keys: Keys, base: Path, name: str, entry: dict[str, Any]) -> dict[str, Any] | None:
    """Convert an entry of dataset_info.json: the path of the rows, their format, and the names of their columns."""
    where = f"dataset_info.json: {name}."
    spec: dict[str, Any]
    if "hf_hub_url" in entry:
        address = f"hf://{entry['hf_hub_url']}"
        address = mapping.add_hub_options(
            keys, address, entry, where, config="subset", split="split", revision="revision"
        )
        spec = {"path": address}
        answered = {"hf_hub_url", "subset", "split", "revision"}
    elif "file_name" in entry:
        spec = {"path": str(base / str(entry["file_name"]))}
        answered = {"file_name"}
    else:
        return None
    form = str(entry.get("formatting", "alpaca"))
    columns = dict(entry.get("columns") or {})
    tags = dict(entry.get("tags") or {})
    chats = tags.get("role_tag") == "role" or columns.get("messages") == "messages"
    if not entry.get("ranking") and not chats:
        spec["format"] = form if form in _COLUMNS else "auto"
    renamed: dict[str, str] = {}
    for role, column in columns.items():
        target = _COLUMNS.get(form, {}).get(role)
        target = "messages" if chats and role == "messages" else target
        if target is None:
            keys.add_line(f"{where}columns.{role}", column, "left out", None, "rows have no such part here")
            continue
        if column != target:
            renamed[target] = column
        keys.add_line(f"{where}columns.{role}", column, "mapped", f"dataset.columns.{target}")
    if renamed:
        spec["columns"] = renamed
    for key, value in entry.items():
        if key in answered or key == "columns" or value is None:
            continue
        field = {"formatting": "dataset.format", "ranking": "method", "tags": "dataset.format"}.get(key)
        if field:
            keys.add_line(where + key, value, "mapped", field, str(spec.get("format", "found from the rows")))
        else:
            keys.add_line(
                where + key, value, "left out", None, f"not known to llmtune: look up what it does in {keys.tool}"
            )
    return spec


def _map_adapter(keys: Keys) -> None:
    kind = keys.take("finetuning_type", "lora")
    bits, dora = keys.take("quantization_bit"), keys.take("use_dora")
    if kind not in ("lora", "full"):
        raise keys.refuse("finetuning_type", f"{kind!r} is not there: llmtune has lora, qlora, dora and full")
    if bits is not None and keys.to_number("quantization_bit", bits) != 4:
        raise keys.refuse("quantization_bit", f"{bits} is not there: adapter qlora is 4-bit")
    keys.job["adapter"] = "full" if kind == "full" else "qlora" if bits else "dora" if dora else "lora"
    keys.add_line("finetuning_type", kind, "mapped", "adapter", str(keys.job["adapter"]))
    for key, value in (("quantization_bit", bits), ("use_dora", dora)):
        if value is not None:
            keys.add_line(key, value, "mapped", "adapter", str(keys.job["adapter"]))
    if kind == "full":
        return
    mapping.map_rslora(keys, "use_rslora")
    keys.map_field("lora_rank", "lora_rank", default=8)
    keys.map_field(
        "lora_alpha", "lora_alpha", default=2 * int(keys.to_number("lora_rank", keys.hyperparameters["lora_rank"]))
    )
    keys.map_field("lora_dropout", "lora_dropout")
    keys.map_field("lora_target", "lora_target_modules", rule=_convert_targets, default="all-linear")


def _convert_targets(value: Any) -> tuple[Any, str]:
    if value == "all":
        return "all-linear", "all linear layers of the blocks"
    names = value if isinstance(value, list) else [name.strip() for name in str(value).split(",")]
    return tuple(names), ""
