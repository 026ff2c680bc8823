"""Mappings that several trainers share: from a key's value to a field's, with the reason in words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from llmtune.importers.keys import ImportOutcome, Keys

#: Optimizers that update as AdamW does and only store their state in another form.
_ADAMW = frozenset(
    (
        "adamw",
        "adamw_hf",
        "adamw_8bit",
        "adamw_anyprecision",
        "adamw_apex_fused",
        "adamw_bnb_8bit",
        "adamw_torch_4bit",
        "adamw_torch_8bit",
        "adamw_torch_npu_fused",
        "adamw_torch_xla",
        "ao_adamw_4bit",
        "ao_adamw_8bit",
        "ao_adamw_fp8",
        "optimi_adamw",
        "paged_adamw",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
    )
)
_SAME = frozenset(("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop", "adagrad"))

_SCHEDULES = frozenset(
    (
        "linear",
        "cosine",
        "constant",
        "constant_with_warmup",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "polynomial",
        "inverse_sqrt",
    )
)
#: Suffixes of file names; any other name is a dataset of the hub ("teknium/OpenHermes-2.5").
_FILES = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".tsv", ".gz", ".zst", ".bz2", ".xz")


def resolve_address(where: str) -> str:
    """Return a path unchanged, and the name of a hub dataset as its `hf://` address."""
    local = where.startswith((".", "/", "~", "hf://")) or where.endswith(_FILES)
    return where if local else f"hf://{where}"


def add_hub_options(keys: Keys, address: str, entry: Mapping[str, Any], where: str, **names: str) -> str:
    """Return the hub address with subset, split and revision in its query, and add a line about each of their keys.

    `names` are the trainer's keys for config, split and revision.
    """
    query: dict[str, str] = {}
    for option, key in names.items():
        value = entry.get(key)
        if value is None:
            continue
        if "[" in str(value):
            keys.add_line(where + key, value, "left out", None, "a slice of a split: save those rows to a file")
        elif (option, value) != ("split", "train"):
            query[option] = str(value)
            keys.add_line(where + key, value, "mapped", "dataset.path")
        else:
            keys.add_line(where + key, value, "mapped", "dataset.path", "the split that is read anyway")
    return f"{address}?{urlencode(query)}" if query else address


def convert_optimizer(value: Any) -> tuple[Any, str]:
    """Map an optimizer to the one with the same update rule."""
    name = str(value)
    if name in _SAME:
        return name, ""
    if name in _ADAMW:
        return "adamw_torch", f"{name} is AdamW with its state kept in another form"
    return None, f"the optimizer {name} is not there: adamw_torch is used, which may want another learning rate"


def convert_epochs(value: Any) -> tuple[Any, str]:
    """Round epochs up to a whole number."""
    if float(value).is_integer():
        return int(float(value)), ""
    return math.ceil(float(value)), f"epochs are whole numbers: {value} was rounded up; max_steps ends it earlier"


def convert_number(value: Any) -> tuple[Any, str]:
    """Convert to a number; YAML 1.1 reads values such as 1e-4 as text."""
    return float(value), ""


def map_max_steps(keys: Keys) -> None:
    """Map `max_steps`, where -1 and 0 mean that epochs decide."""
    value = keys.get("max_steps")
    if value is not None and keys.to_number("max_steps", value) <= 0:
        keys.add_line("max_steps", keys.take("max_steps"), "mapped", None, "no limit: epochs decide")
        return
    keys.map_field("max_steps", "max_steps", rule=lambda steps: (int(steps), ""))


def map_schedule(keys: Keys, key: str, *, default: str) -> None:
    """Map the learning rate schedule, with its options in `lr_scheduler_kwargs`."""
    keys.map_field(key, "lr_schedule", rule=_convert_schedule, default=default)
    options = keys.take("lr_scheduler_kwargs")
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError:
            raise keys.refuse("lr_scheduler_kwargs", "is not JSON") from None
    for name, value in options.items() if isinstance(options, Mapping) else ():
        where = f"lr_scheduler_kwargs.{name}"
        if name == "min_lr_rate":
            keys.hyperparameters["min_lr_ratio"] = keys.to_number(where, value)
            keys.add_line(where, value, "mapped", "min_lr_ratio")
        elif name == "min_lr" and "learning_rate" in keys.hyperparameters:
            ratio = keys.to_number(where, value) / keys.hyperparameters["learning_rate"]
            keys.hyperparameters["min_lr_ratio"] = ratio
            keys.add_line(where, value, "converted", "min_lr_ratio", f"{ratio:g} of the peak rate")
        elif name == "num_cycles":
            keys.hyperparameters["lr_num_cycles"] = keys.to_number(where, value)
            keys.add_line(where, value, "mapped", "lr_num_cycles")
        elif value is not None:
            keys.add_line(where, value, "left out", None, "the schedule has no such setting here")


def _convert_schedule(value: Any) -> tuple[Any, str]:
    name = str(value)
    if name in _SCHEDULES:
        return name, ""
    if name == "warmup_stable_decay":
        return name, "it falls over the last tenth of the steps"
    return None, f"the schedule {name} is not there: the backend's own is used; set lr_schedule"


def map_warmup(keys: Keys) -> None:
    """Map `warmup_steps` (below 1 a share of all steps, as in transformers 5), which overrides `warmup_ratio`."""
    steps, ratio = keys.get("warmup_steps"), keys.get("warmup_ratio")
    count = None if steps is None else keys.to_number("warmup_steps", steps)
    if ratio is not None and count == 0:
        keys.add_line("warmup_steps", keys.take("warmup_steps"), "mapped", None, "0: warmup_ratio counts")
    elif ratio is not None and count is not None:
        keys.add_line(
            "warmup_ratio", keys.take("warmup_ratio"), "left out", None, "warmup_steps is set, and overrides it"
        )
    if count is not None and 0 < count < 1:
        keys.map_field("warmup_steps", "warmup_ratio", rule=lambda share: (float(share), "below 1 it is a share"))
    keys.map_field("warmup_steps", "warmup_steps", rule=lambda steps: (int(steps), ""))
    keys.map_field("warmup_ratio", "warmup_ratio", rule=convert_number)


def map_batch_size(keys: Keys, rows: str, steps: str, *, default: int, packs: int | None = None) -> None:
    """Map the rows per optimizer step: the rows of one forward pass times the gradient accumulation steps.

    `packs` is the length of a packed sequence in tokens, for a configuration that packs: the trainer then counts packs
    and not rows, and how many rows fill a pack depends on the dataset.
    """
    micro_batch, passes = keys.take(rows), keys.take(steps)
    one = int(keys.to_number(rows, default if micro_batch is None else micro_batch))
    gathered = 1 if passes is None else int(keys.to_number(steps, passes))
    total = one * gathered
    keys.hyperparameters["batch_size"] = total
    rule = f"{one} rows x {gathered} passes = {total} rows per step, on one device"
    if packs is not None:
        rule += (
            f"; {keys.tool} packs, and counts packs of up to {packs} tokens where llmtune counts rows:"
            f" multiply batch_size by the rows that fill {packs} tokens (llmtune data stats)"
        )
    if micro_batch is None:
        keys.add_line(rows, default, "default", "batch_size", f"not set; {keys.tool}'s default; {rule}")
    else:
        keys.add_line(rows, micro_batch, "converted", "batch_size", rule)
    if passes is not None:
        reason = "micro-batches are chosen by memory; the step stays the same"
        keys.add_line(steps, passes, "converted", "batch_size", reason)


def map_intervals(keys: Keys, *, strategies: bool) -> None:
    """Map the steps between evaluations and checkpoints; with `strategies`, they apply only where these are "steps"."""
    evaluating = keys.get("eval_strategy", keys.get("evaluation_strategy", "no"))
    saving = keys.get("save_strategy", "steps")
    for key, field, strategy in (
        ("eval_steps", "eval_every", evaluating),
        ("save_steps", "checkpoint_every", saving),
    ):
        value = keys.get(key)
        if value is None:
            continue
        count = keys.to_number(key, value)
        if strategies and str(strategy) != "steps":
            prefix = key.removesuffix("_steps")
            keys.add_line(key, keys.take(key), "left out", field, f"it counts only with {prefix}_strategy: steps")
        elif count < 1:
            keys.add_line(key, keys.take(key), "left out", field, f"a share of all steps: set {field} in steps")
        else:
            keys.map_field(key, field, rule=lambda steps: (int(steps), ""))
    keys.map_field("save_total_limit", "keep_checkpoints")


def map_seed(keys: Keys) -> None:
    """Map the seed; 42 is the default of all three trainers."""
    value = keys.take("seed")
    keys.job["seed"] = 42 if value is None else int(keys.to_number("seed", value))
    if value is None:
        keys.add_line("seed", 42, "default", "seed", f"not set; {keys.tool}'s default")
    else:
        keys.add_line("seed", value, "mapped", "seed")


def map_held_out(keys: Keys, key: str) -> None:
    """Map the share of the rows that is held out for validation."""
    value = keys.take(key)
    share = keys.to_number(key, value or 0)
    if share >= 1:
        reason = "a number of rows: until dataset.split is set, 80 % train, 10 % validate and 10 % test"
        keys.add_line(key, value, "left out", "dataset.split", reason)
        return
    keys.dataset["split"] = (1 - share, share, 0.0)
    outcome: ImportOutcome = "default" if value is None else "converted"
    reason = f"{1 - share:g} train, {share:g} validation, 0 test: set dataset.split to hold rows out for the report"
    keys.add_line(key, share, outcome, "dataset.split", reason)


def map_rslora(keys: Keys, key: str) -> None:
    """Map rank-stabilised LoRA, whose scale is alpha / sqrt(rank)."""
    if key in keys:
        value = keys.take(key)
        if value:
            keys.options["rslora"] = True
        keys.add_line(key, value, "mapped", "provider_options.local.rslora")


def map_precision(keys: Keys) -> None:
    """Map bf16, fp16 and tf32."""
    bf16 = keys.take("bf16")
    if bf16 is not None:
        if bf16 in (True, "true", "full"):
            keys.options["dtype"] = "bfloat16"
            keys.add_line("bf16", bf16, "converted", "provider_options.local.dtype", "bfloat16")
        else:
            keys.add_line("bf16", bf16, "mapped", "provider_options.local.dtype", "the default chooses by the hardware")
    for key in ("fp16", "tf32"):
        if key in keys:
            value = keys.take(key)
            keys.add_line(key, value, "left out", None, "bfloat16 where the hardware has it, else float32")


def map_gradient_checkpointing(keys: Keys) -> None:
    """Map gradient checkpointing."""
    for key in ("gradient_checkpointing", "activation_checkpointing"):
        if key in keys:
            value = keys.take(key)
            keys.options["gradient_checkpointing"] = bool(value)
            keys.add_line(key, value, "mapped", "provider_options.local.gradient_checkpointing")
