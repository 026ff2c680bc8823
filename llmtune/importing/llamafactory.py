"""LLaMA-Factory: its YAML. Names by the project's examples; defaults by transformers (read 2026-11-26)."""

from __future__ import annotations

import json
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
MARKS = {"stage", "finetuning_type", "cutoff_len", "lora_target", "dataset_dir", "template", "pref_beta", "val_size"}

_REASONS = REASONS | {
    "template": "the tokenizer's own chat template is used; another goes into provider_options.local.chat_template",
    "do_*": "a run trains, and evaluates where there are rows to evaluate on",
    "max_samples": "cut the file, or give dataset.split in rows",
    "quantization_method": "qlora is bitsandbytes NF4",
    "double_quantization": "qlora is NF4 with double quantisation",
    "include_num_input_tokens_seen": "trained tokens are in every report",
    "adapter_name_or_path": "to train on from an adapter, give its folder as the model",
    "use_rslora": "set lora_alpha to alpha x sqrt(rank): the scale is then the same",
    "loraplus_*": "two rates are not there; layer_lr_multipliers sets one a layer",
    "pissa_*": "the adapter begins at zero",
    "lora_bias": "only the adapter is trained",
    "additional_target": "only the adapter is trained",
    "freeze_*": "layer_lr_multipliers with 0 freezes layers",
    "enable_thinking": "set provider_options.local.template_options: {enable_thinking: ...}",
    "image_*": "images are not trained on",
    "video_*": "video is not trained on",
    "streaming": "rows are tokenised once and read from disk",
    "mix_strategy": "a job has one dataset: join the files",
    "interleave_probs": "a job has one dataset: join the files",
    "mask_history": "set weight 0 on the turns that are not to be learned",
    "enable_liger_kernel": "the loss is computed in chunks anyway",
    "ray_*": "the local trainer runs on one device",
    "resources_per_worker": "the local trainer runs on one device",
    "placement_strategy": "the local trainer runs on one device",
}


def read(keys: Keys) -> Imported:
    """The job of a LLaMA-Factory configuration."""
    stage = keys.take("stage", "sft")
    if stage not in ("sft", "dpo"):
        raise keys.refuse("stage", f"{stage!r} is not there: llmtune trains by sft and dpo")
    keys.job["method"] = stage
    keys.say("stage", stage, "mapped", "method")
    keys.set("pref_beta", "dpo_beta")
    loss = keys.take("pref_loss")
    if loss is not None:
        if loss != "sigmoid":
            raise keys.refuse("pref_loss", f"{loss!r} is not there: llmtune has the sigmoid DPO loss")
        keys.say("pref_loss", loss, "mapped", "method", "dpo")
    model = keys.take("model_name_or_path")
    keys.say("model_name_or_path", model, "mapped", "model.local")
    _dataset(keys)
    _held_out(keys)
    keys.set("learning_rate", "learning_rate", rule=lambda rate: (float(rate), ""), default=5e-5)
    keys.set("num_train_epochs", "epochs", rule=whole_epochs, default=3)
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
    prompts = keys.take("train_on_prompt")
    keys.hyperparameters["prompt_loss_weight"] = 1.0 if prompts else 0.0
    word: Word = "default" if prompts is None else "converted"
    keys.say("train_on_prompt", bool(prompts), word, "prompt_loss_weight", "1" if prompts else "0")
    keys.set("cutoff_len", "max_sequence_length", default=2048)
    keys.dataset["on_too_long"] = "truncate"
    for key in ("packing", "neat_packing"):
        keys.set(key, "packing", rule=lambda on: (bool(on), "it changes speed only, never the loss"))
    for key, field in (("eval_steps", "eval_every"), ("save_steps", "checkpoint_every")):
        keys.set(key, field, rule=lambda steps: (int(steps), ""))
    keys.set("save_total_limit", "keep_checkpoints")
    seed = keys.take("seed")
    keys.job["seed"] = 42 if seed is None else int(seed)
    keys.say("seed", keys.job["seed"], "default" if seed is None else "mapped", "seed")
    _adapter(keys)
    precision(keys)
    checkpointing(keys)
    keys.leave_rest(_REASONS)
    return keys.finish(name=keys.path.stem, model=str(model))


def _dataset(keys: Keys) -> None:
    named = keys.take("dataset")
    names = [each.strip() for each in named.split(",")] if isinstance(named, str) else list(named or ())
    if not names:
        raise keys.refuse("dataset", "names no dataset")
    where = keys.take("dataset_dir")
    place = str(where or "data")
    found = _known(keys, place, names[0])
    keys.dataset |= found or {"path": f"{place}/{names[0]}.json"}
    if where is not None:
        keys.say("dataset_dir", where, "mapped", "dataset.path")
    said = "" if found else f"{place}/dataset_info.json is not there to say which file it is: put its path here"
    keys.say("dataset", names[0], "converted", "dataset.path", said or str(keys.dataset["path"]))
    for other in names[1:]:
        keys.say("dataset", other, "left out", None, "a job has one dataset: join the files")
    held_out = keys.take("eval_dataset")
    if held_out is not None:
        known = _known(keys, place, str(held_out)) or {"path": f"{place}/{held_out}.json"}
        keys.dataset |= {"train": keys.dataset.pop("path"), "validation": known["path"]}
        keys.say("eval_dataset", held_out, "converted", "dataset.validation", str(known["path"]))


def _known(keys: Keys, place: str, name: str) -> dict[str, Any] | None:
    """What dataset_info.json, beside the configuration or where it is run, says of a dataset."""
    for base in (keys.path.parent / place, keys.path.parent.parent / place):
        listing = base / "dataset_info.json"
        if not listing.is_file():
            continue
        try:
            entry = json.loads(listing.read_text(encoding="utf-8")).get(name)
        except (ValueError, AttributeError):
            continue
        if not isinstance(entry, dict):
            continue
        if "hf_hub_url" in entry:
            return {"path": f"hf://{entry['hf_hub_url']}"}
        if "file_name" in entry:
            form = {"alpaca": "alpaca", "sharegpt": "sharegpt"}.get(str(entry.get("formatting", "alpaca")), "auto")
            path = {"path": str(base / str(entry["file_name"]))}
            return path if entry.get("ranking") else path | {"format": form}
    return None


def _held_out(keys: Keys) -> None:
    value = keys.take("val_size")
    share = float(value or 0)
    if "validation" in keys.dataset or share >= 1:
        if value is not None:
            keys.say("val_size", value, "left out", "dataset.split", "a number of rows: set dataset.split in rows")
        return
    keys.dataset["split"] = (1 - share, share, 0.0)
    word: Word = "default" if value is None else "converted"
    keys.say("val_size", share, word, "dataset.split", f"{1 - share:g} train, {share:g} validation, 0 test")


def _adapter(keys: Keys) -> None:
    kind = keys.take("finetuning_type", "lora")
    bits, dora = keys.take("quantization_bit"), keys.take("use_dora")
    if kind not in ("lora", "full"):
        raise keys.refuse("finetuning_type", f"{kind!r} is not there: llmtune has lora, qlora, dora and full")
    if bits is not None and int(bits) != 4:
        raise keys.refuse("quantization_bit", f"{bits} is not there: adapter qlora is 4-bit")
    keys.job["adapter"] = "full" if kind == "full" else "qlora" if bits else "dora" if dora else "lora"
    keys.say("finetuning_type", kind, "mapped", "adapter", str(keys.job["adapter"]))
    for key, value in (("quantization_bit", bits), ("use_dora", dora)):
        if value is not None:
            keys.say(key, value, "mapped", "adapter", str(keys.job["adapter"]))
    if kind == "full":
        return
    keys.set("lora_rank", "lora_rank", default=8)
    keys.set("lora_alpha", "lora_alpha", default=2 * int(keys.hyperparameters["lora_rank"]))
    keys.set("lora_dropout", "lora_dropout")
    keys.set("lora_target", "lora_target_modules", rule=_targets, default="all-linear")


def _targets(value: Any) -> tuple[Any, str]:
    if value == "all":
        return "all-linear", "all linear layers of the blocks"
    names = value if isinstance(value, list) else [each.strip() for each in str(value).split(",")]
    return tuple(names), ""
