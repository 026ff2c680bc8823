"""LitGPT: the YAML of its finetune commands and of continued pre-training, and their command lines.

Names and defaults: LitGPT 0.5.13, `litgpt/finetune/lora.py`, `full.py`, `pretrain.py`, `args.py` and `data/` (read
2026-12-01). It counts in two units: an iteration is one micro-batch, a step one update of the weights.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmtune.errors import InvalidJob
from llmtune.importers import mapping
from llmtune.importers.keys import Imported, ImportOutcome, Keys
from llmtune.importers.reasons import REASONS

#: Keys that only LitGPT has.
MARKS = {
    "checkpoint_dir",
    "lora_query",
    "lora_key",
    "lora_value",
    "lora_projection",
    "lora_mlp",
    "lora_head",
    "logger_name",
    "initial_checkpoint_dir",
    "tokenizer_dir",
    "num_nodes",
}

#: Its commands that train, by the default that differs between them: steps between validations, rows per step.
_COMMANDS = {"finetune_lora": (100, 16), "finetune_full": (600, 16), "pretrain": (1000, 512)}
_SHORT = {"finetune": "finetune_lora"}
_REFUSED_COMMANDS = {
    "finetune_adapter": "LLaMA-Adapter is not there: llmtune has lora, qlora, dora and full",
    "finetune_adapter_v2": "LLaMA-Adapter is not there: llmtune has lora, qlora, dora and full",
}

#: Sections of a configuration, whose keys are read as SECTION.KEY.
_SECTIONS = ("data", "train", "eval", "log", "optimizer")

#: The layers of each flag, by the names that models of Llama's kind have.
_LAYERS = {
    "lora_query": (True, ("q_proj",)),
    "lora_key": (False, ("k_proj",)),
    "lora_value": (True, ("v_proj",)),
    "lora_projection": (False, ("o_proj",)),
    "lora_mlp": (False, ("gate_proj", "up_proj", "down_proj")),
    "lora_head": (False, ("lm_head",)),
}

_QUANTIZED = {
    "bnb.nf4": "nf4",
    "bnb.nf4-dq": "nf4-dq",
    "bnb.fp4": "fp4",
    "bnb.fp4-dq": "fp4-dq",
    "bnb.int8-training": "int8",
}

_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\\n\\n"
)
#: Chat templates with the text of a prompt style, of rows without a third field.
_STYLES = {
    "alpaca": "{{- bos_token if bos_token else '' -}}{%- for message in messages -%}{%- if message.role == 'user' -%}"
    "{{- '" + _ALPACA + "### Instruction:\\n' + message.content + '\\n\\n### Response:\\n' -}}"
    "{%- elif message.role == 'assistant' -%}{{- message.content + eos_token -}}{%- endif -%}{%- endfor -%}",
    "default": "{{- bos_token if bos_token else '' -}}{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}{{- message.content + eos_token -}}{%- else -%}{{- message.content -}}"
    "{%- endif -%}{%- endfor -%}",
}

_DOWNLOADED = {
    "Alpaca": ("data/alpaca", "alpaca_data_cleaned_archive.json", 0.03865),
    "AlpacaGPT4": ("data/alpacagpt4", "alpacagpt4_data_cleaned_archive.json", 0.03847),
}
_OF_THE_HUB = {
    "Alpaca2k": ("hf://mhenrichsen/alpaca_2k_test", 0.05),
    "Deita": ("hf://HuggingFaceH4/deita-10k-v0-sft?split=train_sft", 0.05),
}

_OWN_ORDER = "rows are split by a hash of their content and shuffled by the job's seed: the rows of a part are others"
_REASONS = REASONS | {
    "out_dir": "each run has a folder of its own",
    "resume": "a run that was killed resumes by itself",
    "logger_name": "the report and `llmtune runs show` hold every point; --track adds TensorBoard, MLflow or W&B",
    "log.*": "the report and `llmtune runs show` hold every point; --track adds TensorBoard, MLflow or W&B",
    "access_token": "the hub's own login is used",
    "num_nodes": "processes are those of one machine; provider_options.local.launcher: ray takes a cluster",
    "tokenizer_dir": "the model's own tokenizer is used",
    "model_config": "the model's own configuration is used",
    "data.seed": _OWN_ORDER,
    "data.num_workers": "rows are tokenised once and read from disk",
    "data.ignore_index": "tokens that are not learned have weight 0",
    "data.download_dir": "the file is read where it is",
    "data.file_url": "the file is read where it is",
    "data.file_name": "the file is read where it is",
    "data.repo_id": "the dataset's address is written out",
    "data.include_multiturn_conversations": "all turns of a conversation are learned",
    "train.log_interval": "iterations, of one micro-batch each: here every step is recorded",
    "train.tie_embeddings": "the model's own configuration says whether they are tied",
    "eval.max_new_tokens": "answers while training have 64 tokens at most, those of the report evaluation.max_tokens",
    "eval.evaluate_example": "3 validation rows, chosen by a hash, are answered at each evaluation: evaluation.samples",
}


def parse_command(command: str) -> tuple[dict[str, Any], Path]:
    """Return the configuration that a command line of LitGPT stands for, and a path that names it.

    A file given by `--config` is read first; flags replace what it says. Raises `InvalidJob` for a command that does
    not train, or that no job can express.
    """
    from llmtune.job.files import parse_yaml, read_mapping

    try:
        words = shlex.split(command)
    except ValueError as fault:
        raise InvalidJob(f"{command!r} is no command line: {fault}", where="source") from None
    name = _SHORT.get(words[1], words[1]) if len(words) > 1 else ""
    if name in _REFUSED_COMMANDS:
        raise InvalidJob(f"litgpt {words[1]}: {_REFUSED_COMMANDS[name]}", where="source")
    if name not in _COMMANDS:
        known = ", ".join(("finetune", *_COMMANDS))
        raise InvalidJob(f"litgpt {name or '(nothing)'} trains no model; those that do: {known}", where="source")
    path = Path(name)
    config: dict[str, Any] = {}
    flags: list[tuple[str, str]] = []
    for flag, value in _iterate_flags(words[2:]):
        if flag == "config":
            path = Path(value)
            config = read_mapping(path)
        else:
            flags.append((flag or ("model_name" if name == "pretrain" else "checkpoint_dir"), value))
    for flag, value in flags:
        _lay_over(config, flag.split("."), parse_yaml(path, value))
    return config | {"command": name}, path


def _iterate_flags(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (flag, value) of a command line, "" for the positional argument; a flag without a value is true."""
    position = 0
    while position < len(words):
        argument = words[position]
        position += 1
        if not argument.startswith("--"):
            yield "", argument
            continue
        flag, equals, value = argument[2:].partition("=")
        if not equals:
            has_value = position < len(words) and not words[position].startswith("--")
            value = words[position] if has_value else "true"
            position += has_value
        yield flag, value


def _lay_over(config: dict[str, Any], names: list[str], value: Any) -> None:
    """Put the value of a flag into the configuration; the name of a class stays beside its arguments."""
    if len(names) == 1 and names[0] in ("data", "optimizer"):
        if isinstance(value, Mapping):
            config[names[0]] = dict(value)
            return
        names = [*names, "class_path"]
    section = config
    for name in names[:-1]:
        inner = section.get(name)
        if isinstance(inner, str):
            inner = {"class_path": inner}
        section[name] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        section = inner
    section[names[-1]] = value


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of all sections as SECTION.KEY; a class is under the section's own name, without its module."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key not in _SECTIONS or not isinstance(value, Mapping):
            flat[key] = value
            continue
        for name, inner in value.items():
            if name == "init_args" and isinstance(inner, Mapping):
                flat |= {f"{key}.{argument}": content for argument, content in inner.items()}
            elif name == "class_path":
                flat[key] = inner
            else:
                flat[f"{key}.{name}"] = inner
    return flat


def read(keys: Keys) -> Imported:
    """Read a configuration into a job. Raises `InvalidJob` for what no job can express, with the key."""
    keys = keys.with_config(_flatten(keys.remaining()))
    command = keys.take("command") or _recognise_command(keys)
    interval, rows = _COMMANDS[command]
    pretraining = command == "pretrain"
    model = _map_model(keys, pretraining)
    _map_adapter(keys, command)
    _map_dataset(keys, pretraining)
    _map_optimizer(keys, command)
    _map_length(keys, pretraining, rows)
    _map_schedule(keys, pretraining)
    keys.map_field("train.save_interval", "checkpoint_every", rule=_convert_steps, default=1000)
    keys.map_field("eval.interval", "eval_every", rule=_convert_steps, default=interval)
    _map_validation(keys)
    _map_machine(keys)
    seed = keys.take("seed")
    keys.job["seed"] = (42 if pretraining else 1337) if seed is None else _to_count(keys, "seed", seed)
    keys.add_line("seed", keys.job["seed"], "default" if seed is None else "mapped", "seed")
    keys.leave_out_others(_REASONS)
    return keys.finish(name=keys.path.stem, model=model)


def _recognise_command(keys: Keys) -> str:
    """Return the command that a file is for, which it does not name: by the keys that only that one has."""
    if "initial_checkpoint_dir" in keys or "model_name" in keys:
        return "pretrain"
    if "quantize" in keys or any(name in keys for name in (*_LAYERS, "lora_r", "lora_alpha", "lora_dropout")):
        return "finetune_lora"
    keys.add_line("command", "finetune_full", "default", "adapter", "no key of LoRA: read as litgpt finetune_full")
    return "finetune_full"


def _convert_steps(value: Any) -> tuple[Any, str]:
    return int(float(value)), ""


def _to_count(keys: Keys, key: str, value: Any) -> int:
    number = keys.to_number(key, value)
    if not math.isfinite(number):
        raise keys.refuse(key, f"{value!r} is not a number")
    return int(number)


def _map_model(keys: Keys, pretraining: bool) -> str:
    key = "initial_checkpoint_dir" if pretraining else "checkpoint_dir"
    value = keys.take(key)
    if value is None:
        hint = "add initial_checkpoint_dir, the model to train on" if pretraining else None
        raise keys.refuse(key, "is not set: llmtune tunes a model that there is, and trains none from nothing", hint)
    parts = Path(str(value)).parts
    name = "/".join(parts[parts.index("checkpoints") + 1 :]) if "checkpoints" in parts else str(value)
    says = "" if name == value else "the model's own files at Hugging Face: LitGPT's converted ones are not read"
    keys.add_line(key, value, "converted" if says else "mapped", "model.local", says)
    if "model_name" in keys:
        keys.add_line("model_name", keys.take("model_name"), "left out", None, f"{key} names the model")
    return name


def _map_adapter(keys: Keys, command: str) -> None:
    quantize = keys.take("quantize")
    if command != "finetune_lora":
        keys.job["adapter"] = "full"
        if quantize is not None:
            keys.add_line("quantize", quantize, "left out", None, f"litgpt {command} has no such setting")
        return
    keys.job["adapter"] = "lora"
    if quantize is not None:
        quantize = str(quantize)
        if quantize not in _QUANTIZED:
            raise keys.refuse("quantize", f"{quantize!r} is not there: {', '.join(_QUANTIZED)} are")
        keys.job["adapter"] = "qlora"
        keys.options["quantization"] = _QUANTIZED[quantize]
        says = f"adapter qlora, {_QUANTIZED[quantize]}"
        keys.add_line("quantize", quantize, "converted", "provider_options.local.quantization", says)
    keys.map_field("lora_r", "lora_rank", rule=_convert_steps, default=8)
    keys.map_field("lora_alpha", "lora_alpha", rule=mapping.convert_number, default=16)
    keys.map_field("lora_dropout", "lora_dropout", rule=mapping.convert_number, default=0.05)
    layers: list[str] = []
    flags = {flag: keys.take(flag) for flag in _LAYERS}
    for flag, (default, names) in _LAYERS.items():
        layers += names if (default if flags[flag] is None else flags[flag]) else ()
    if not layers:
        raise keys.refuse("lora_query", "and the other flags are all off: no layer would be trained")
    in_blocks = {name for flag, (_, names) in _LAYERS.items() for name in names if flag != "lora_head"}
    keys.hyperparameters["lora_target_modules"] = "all-linear" if set(layers) == in_blocks else tuple(layers)
    chosen = "all-linear" if set(layers) == in_blocks else ", ".join(layers)
    for flag, (default, _) in _LAYERS.items():
        if flags[flag] is not None or default:
            says = f"together: {chosen} (the names of models of Llama's kind)"
            value = default if flags[flag] is None else flags[flag]
            outcome: ImportOutcome = "default" if flags[flag] is None else "converted"
            keys.add_line(flag, value, outcome, "lora_target_modules", says)


def _map_dataset(keys: Keys, pretraining: bool) -> None:
    named = keys.take("data", "TinyLlama" if pretraining else "Alpaca")
    kind = str(named).rsplit(".", 1)[-1]
    if kind == "JSON" and not pretraining:
        _map_json(keys)
    elif kind == "TextFiles" and pretraining:
        _map_text_files(keys)
        return
    elif kind in _DOWNLOADED and not pretraining:
        folder, file, share = _DOWNLOADED[kind]
        folder, file = keys.get("data.download_dir", folder), keys.get("data.file_name", file)
        keys.dataset["path"] = f"{folder}/{file}"
        keys.add_line("data", kind, "converted", "dataset.path", f"{folder}/{file}, where LitGPT keeps what it fetched")
        _map_share(keys, share)
    elif kind in _OF_THE_HUB and not pretraining:
        address, share = _OF_THE_HUB[kind]
        keys.dataset["path"] = address
        keys.add_line("data", kind, "converted", "dataset.path", address)
        _map_share(keys, share)
    else:
        hint = "--data TextFiles names a folder of .txt files" if pretraining else "--data JSON names a file of rows"
        raise keys.refuse("data", f"the rows of {kind} are not known here", hint)
    _map_prompts(keys)


def _map_json(keys: Keys) -> None:
    path = keys.take("data.json_path")
    if path is None:
        raise keys.refuse("data.json_path", "is not set: it names the rows")
    folder = next((base for base in (Path(str(path)), keys.path.parent / str(path)) if base.is_dir()), None)
    if folder is None:
        keys.dataset["path"] = str(path)
        keys.add_line("data.json_path", path, "mapped", "dataset.path")
        _map_share(keys, 0.05)
        return
    for part, field in (("train", "train"), ("val", "validation")):
        file = next((file for ending in ("json", "jsonl") if (file := folder / f"{part}.{ending}").is_file()), None)
        if file is None:
            raise keys.refuse("data.json_path", f"{folder} has no {part}.json and no {part}.jsonl")
        keys.dataset[field] = str(file)
        keys.add_line("data.json_path", path, "converted", f"dataset.{field}", str(file))
    keys.dataset["split"] = (1.0, 0.0, 0.0)


def _map_share(keys: Keys, default: float) -> None:
    value = keys.take("data.val_split_fraction")
    share = default if value is None else keys.to_number("data.val_split_fraction", value)
    keys.dataset["split"] = (1 - share, share, 0.0)
    says = f"{1 - share:g} train, {share:g} validation, 0 test: set dataset.split to hold rows out for the report"
    outcome: ImportOutcome = "default" if value is None else "converted"
    keys.add_line("data.val_split_fraction", share, outcome, "dataset.split", f"{says}; {_OWN_ORDER}")


def _map_text_files(keys: Keys) -> None:
    train, validation = keys.take("data.train_data_path"), keys.take("data.val_data_path")
    if train is None:
        raise keys.refuse("data.train_data_path", "is not set: it names a folder of .txt files")
    keys.dataset["path" if validation is None else "train"] = str(train)
    says = "every token of a text is learned; a text is cut into rows of at most max_sequence_length tokens"
    keys.add_line(
        "data.train_data_path", train, "mapped", "dataset.path" if validation is None else "dataset.train", says
    )
    if validation is None:
        keys.dataset["split"] = (0.9, 0.1, 0.0)
        says = "0.9 train, 0.1 validation, by a hash of the texts (LitGPT takes the first file)"
        keys.add_line("data.val_data_path", None, "default", "dataset.split", says)
    else:
        keys.dataset |= {"validation": str(validation), "split": (1.0, 0.0, 0.0)}
        keys.add_line("data.val_data_path", validation, "mapped", "dataset.validation")


def _map_prompts(keys: Keys) -> None:
    masked = keys.take("data.mask_prompt")
    keys.hyperparameters["prompt_loss_weight"] = 0.0 if masked else 1.0
    says = "0" if masked else "1: prompts are learned like answers"
    outcome: ImportOutcome = "default" if masked is None else "converted"
    keys.add_line("data.mask_prompt", bool(masked), outcome, "prompt_loss_weight", says)
    style = keys.take("data.prompt_style")
    name = str("alpaca" if style is None else style).rsplit(".", 1)[-1].lower()
    where = "provider_options.local.chat_template"
    if name in _STYLES:
        keys.options["chat_template"] = _STYLES[name]
        says = "its text as a chat template"
        if name == "alpaca":
            says += "; a row's input stands after the instruction, without a heading of its own"
        keys.add_line("data.prompt_style", name, "default" if style is None else "converted", where, says)
    else:
        keys.add_line("data.prompt_style", name, "left out", where, "the model's own chat template is used")


#: Its optimizers whose update is one of ours, by their class without torch.optim.
_OPTIMIZERS = {"AdamW": "adamw_torch"}
#: Arguments of AdamW that are fields of a job.
_ADAMW_FIELDS = {"weight_decay": "weight_decay", "eps": "adam_epsilon"}


def _map_optimizer(keys: Keys, command: str) -> None:
    named = str(keys.take("optimizer", "AdamW"))
    name = named.removeprefix("torch.optim.")
    keys.map_field("optimizer.lr", "learning_rate", rule=mapping.convert_number, default=1e-3)
    decay = "biases and norms are never decayed" if command != "finetune_lora" else ""
    if name == "AdamW" or (not named.startswith("torch.") and name.rsplit(".", 1)[-1].lower() in _ADAMW_KINDS):
        keys.hyperparameters["optimizer"] = "adamw_torch"
        says = "" if name == "AdamW" else f"{named} is AdamW with its state kept in another form"
        keys.add_line("optimizer", named, "converted" if says else "mapped", "optimizer", says)
        betas = keys.take("optimizer.betas")
        if betas is not None:
            if not isinstance(betas, list) or len(betas) != 2:
                raise keys.refuse("optimizer.betas", f"{betas!r} is not a pair of numbers")
            for field, value in zip(("adam_beta1", "adam_beta2"), betas, strict=True):
                keys.hyperparameters[field] = keys.to_number("optimizer.betas", value)
            keys.add_line("optimizer.betas", betas, "mapped", "adam_beta1, adam_beta2")
        keys.map_field("optimizer.weight_decay", "weight_decay", rule=lambda value: (float(value), decay), default=0.01)
        keys.map_field("optimizer.eps", "adam_epsilon", rule=mapping.convert_number)
        return
    if "." in name:
        raise keys.refuse("optimizer", f"{named!r} is not of torch.optim, and code of other packages is not run")
    keys.hyperparameters["optimizer"] = f"torch.optim.{name}"
    keys.add_line("optimizer", named, "mapped", "optimizer", f"torch.optim.{name}")
    keys.map_field("optimizer.weight_decay", "weight_decay", rule=lambda value: (float(value), decay))
    arguments = {
        argument.removeprefix("optimizer."): keys.take(argument)
        for argument in list(keys.remaining())
        if argument.startswith("optimizer.")
    }
    if arguments:
        keys.options["optimizer_arguments"] = arguments
        for argument, value in arguments.items():
            field = "provider_options.local.optimizer_arguments"
            keys.add_line(f"optimizer.{argument}", value, "mapped", f"{field}.{argument}")


_ADAMW_KINDS = frozenset(("adamw", "adamw8bit", "adamw32bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit"))


def _map_length(keys: Keys, pretraining: bool, rows: int) -> None:
    """Map how long to train, and the rows of a step."""
    value = keys.take("train.global_batch_size")
    batch = rows if value is None else _to_count(keys, "train.global_batch_size", value)
    keys.hyperparameters["batch_size"] = batch
    keys.add_line("train.global_batch_size", batch, "default" if value is None else "mapped", "batch_size")
    micro = keys.take("train.micro_batch_size")
    one = (4 if pretraining else 1) if micro is None else _to_count(keys, "train.micro_batch_size", micro)
    iterations = max(1, batch // max(1, one))
    says = (
        f"{iterations} iterations of {one} rows are one step; micro-batches are chosen by memory here. LitGPT's loss is"
        " the mean of its iterations' means, here it is the mean over all tokens of the step"
    )
    keys.add_line("train.micro_batch_size", one, "default" if micro is None else "converted", None, says)
    if pretraining:
        keys.map_field("train.epochs", "epochs", rule=mapping.convert_epochs, default=1)
    else:
        keys.map_field("train.epochs", "epochs", rule=mapping.convert_epochs, default=5)
    keys.map_field("train.max_steps", "max_steps", rule=_convert_steps)
    length = keys.get("train.max_seq_length")
    keys.map_field("train.max_seq_length", "max_sequence_length", rule=_convert_steps)
    keys.dataset["on_too_long"] = "truncate"
    if not pretraining:
        says = "a row that is too long loses the end of its answer there, and the beginning of its prompt here"
        keys.add_line("data (rows too long)", None, "default", "dataset.on_too_long", f"truncate; {says}")
    tokens = keys.take("train.max_tokens")
    if tokens is not None:
        total = _to_count(keys, "train.max_tokens", tokens)
        if pretraining and length is not None and "max_steps" not in keys.hyperparameters:
            block = max(1, batch * _to_count(keys, "train.max_seq_length", length))
            steps = max(1, math.ceil(total / block))
            keys.hyperparameters["max_steps"] = steps
            says = f"{steps:,} steps of {batch} rows of {length} tokens"
            keys.add_line("train.max_tokens", tokens, "converted", "max_steps", says)
        else:
            keys.add_line("train.max_tokens", tokens, "left out", None, "a run is as long as epochs and max_steps say")
    seconds = keys.take("train.max_time")
    if seconds is not None:
        keys.options["max_time"] = keys.to_number("train.max_time", seconds)
        keys.add_line("train.max_time", seconds, "mapped", "provider_options.local.max_time", "seconds")


def _map_schedule(keys: Keys, pretraining: bool) -> None:
    keys.hyperparameters["lr_schedule"] = "cosine"
    keys.add_line(
        "lr_schedule", "cosine", "default", "lr_schedule", "linear warm-up, then a half cosine: it has no other"
    )
    if keys.is_null("train.lr_warmup_steps"):
        keys.hyperparameters["warmup_steps"] = 0
    else:
        rule = "steps, also where its help speaks of iterations"
        default = 2000 if pretraining else 100
        keys.map_field(
            "train.lr_warmup_steps", "warmup_steps", rule=lambda steps: (int(float(steps)), rule), default=default
        )
    if "train.lr_warmup_fraction" in keys:
        share = keys.take("train.lr_warmup_fraction")
        says = "a share of one epoch's iterations: set warmup_ratio, a share of all steps"
        keys.add_line("train.lr_warmup_fraction", share, "left out", None, says)
    norm = keys.take("train.max_norm")
    outcome: ImportOutcome
    if pretraining:
        keys.hyperparameters["max_grad_norm"] = 1.0 if norm is None else keys.to_number("train.max_norm", norm)
        outcome = "default" if norm is None else "mapped"
        keys.add_line("train.max_norm", keys.hyperparameters["max_grad_norm"], outcome, "max_grad_norm")
    else:
        keys.hyperparameters["max_grad_norm"] = 0.0
        says = "0: its finetuning clips nothing" + (", and refuses this key" if norm is not None else "")
        keys.add_line("train.max_norm", norm, "default" if norm is None else "left out", "max_grad_norm", says)
    lowest = keys.take("train.min_lr")
    if pretraining:
        rate = 4e-5 if lowest is None else keys.to_number("train.min_lr", lowest)
        peak = keys.hyperparameters["learning_rate"]
        ratio = min(1.0, rate / peak) if peak > 0 else 1.0  # a rate of 0 is refused with the job
        keys.hyperparameters["min_lr_ratio"] = ratio
        outcome = "default" if lowest is None else "converted"
        keys.add_line("train.min_lr", rate, outcome, "min_lr_ratio", f"{ratio:g} of the peak rate")
    elif lowest is not None:
        keys.add_line("train.min_lr", lowest, "left out", None, "its finetuning falls to 0 and does not use it")


def _map_validation(keys: Keys) -> None:
    rows = keys.take("eval.max_iters")
    if rows is not None:
        says = "iterations, of one micro-batch each: here each validation is over all validation rows"
        keys.add_line("eval.max_iters", rows, "left out", None, says)
    for key, moment in (("eval.initial_validation", "before the first step"), ("eval.final_validation", "at the end")):
        value = keys.take(key)
        if value is not None:
            says = f"validation rows are always validated {moment}"
            keys.add_line(key, value, "mapped" if value else "left out", None, says)


def _map_machine(keys: Keys) -> None:
    precision = keys.take("precision")
    if precision is not None:
        where = "provider_options.local.dtype"
        if str(precision).startswith("bf16"):
            keys.options["dtype"] = "bfloat16"
            keys.add_line("precision", precision, "converted", where, "bfloat16; the trained weights are float32")
        elif str(precision) in ("32-true", "32"):
            keys.options["dtype"] = "float32"
            keys.add_line("precision", precision, "converted", where, "float32")
        else:
            keys.add_line("precision", precision, "left out", where, "bfloat16 where the hardware has it, else float32")
    devices = keys.take("devices")
    if devices is not None:
        if isinstance(devices, int) and devices > 1:
            keys.options["processes"] = devices
            keys.add_line("devices", devices, "mapped", "provider_options.local.processes")
        else:
            keys.add_line("devices", devices, "mapped", None, "one process, on the device that there is")
