"""Rules that several trainers share: how a key's value becomes a field's, and in which words that is told."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from llmtune.importers.keys import Keys, Word

#: Optimizers that keep their state in another form and update as AdamW does.
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
#: Endings of file names; anything else with a slash in it is a dataset of the hub ("teknium/OpenHermes-2.5").
_FILES = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".tsv", ".gz", ".zst", ".bz2", ".xz")


def located(where: str) -> str:
    """A path as it is, or the `hf://` address of a dataset of the hub."""
    local = where.startswith((".", "/", "~", "hf://")) or where.endswith(_FILES)
    return where if local else f"hf://{where}"


def chosen(keys: Keys, address: str, given: Mapping[str, Any], where: str, **names: str) -> str:
    """The hub's address with subset, split and revision in its query; each key of `given` that says one is answered.

    `names` are the trainer's keys for config, split and revision.
    """
    query: dict[str, str] = {}
    for ours, theirs in names.items():
        value = given.get(theirs)
        if value is None:
            continue
        if "[" in str(value):
            keys.say(where + theirs, value, "left out", None, "a slice of a split: save those rows to a file")
        elif (ours, value) != ("split", "train"):
            query[ours] = str(value)
            keys.say(where + theirs, value, "mapped", "dataset.path")
        else:
            keys.say(where + theirs, value, "mapped", "dataset.path", "the split that is read anyway")
    return f"{address}?{urlencode(query)}" if query else address


def optimizer(value: Any) -> tuple[Any, str]:
    """An optimizer's name, by the update rule."""
    name = str(value)
    if name in _SAME:
        return name, ""
    if name in _ADAMW:
        return "adamw_torch", f"{name} is AdamW with its state kept in another form"
    return None, f"the optimizer {name} is not there: adamw_torch is used, which may want another learning rate"


def whole_epochs(value: Any) -> tuple[Any, str]:
    """Epochs are whole here."""
    if float(value).is_integer():
        return int(float(value)), ""
    return math.ceil(float(value)), f"epochs are whole numbers: {value} was rounded up; max_steps ends it earlier"


def number(value: Any) -> tuple[Any, str]:
    """A number, which YAML 1.1 readers also take from text such as 1e-4."""
    return float(value), ""


def steps_limit(keys: Keys) -> None:
    """`max_steps`, where -1 and 0 mean that epochs decide."""
    value = keys.get("max_steps")
    if value is not None and keys.number("max_steps", value) <= 0:
        keys.say("max_steps", keys.take("max_steps"), "mapped", None, "no limit: epochs decide")
        return
    keys.set("max_steps", "max_steps", rule=lambda steps: (int(steps), ""))


def schedule(keys: Keys, key: str, *, default: str) -> None:
    """The shape of the rate, with what is set beside it in `lr_scheduler_kwargs`."""
    keys.set(key, "lr_schedule", rule=_schedule, default=default)
    beside = keys.take("lr_scheduler_kwargs")
    if isinstance(beside, str):
        try:
            beside = json.loads(beside)
        except ValueError:
            raise keys.refuse("lr_scheduler_kwargs", "is not JSON") from None
    for name, value in beside.items() if isinstance(beside, Mapping) else ():
        where = f"lr_scheduler_kwargs.{name}"
        if name == "min_lr_rate":
            keys.hyperparameters["min_lr_ratio"] = keys.number(where, value)
            keys.say(where, value, "mapped", "min_lr_ratio")
        elif name == "min_lr" and "learning_rate" in keys.hyperparameters:
            ratio = keys.number(where, value) / keys.hyperparameters["learning_rate"]
            keys.hyperparameters["min_lr_ratio"] = ratio
            keys.say(where, value, "converted", "min_lr_ratio", f"{ratio:g} of the peak rate")
        elif name == "num_cycles":
            keys.hyperparameters["lr_num_cycles"] = keys.number(where, value)
            keys.say(where, value, "mapped", "lr_num_cycles")
        elif value is not None:
            keys.say(where, value, "left out", None, "the schedule has no such setting here")


def _schedule(value: Any) -> tuple[Any, str]:
    name = str(value)
    if name in _SCHEDULES:
        return name, ""
    if name == "warmup_stable_decay":
        return name, "it falls over the last tenth of the steps"
    return None, f"the schedule {name} is not there: the backend's own is used; set lr_schedule"


def warmup(keys: Keys) -> None:
    """`warmup_steps` (below 1 a share of all steps, as transformers 5 reads it) before `warmup_ratio`."""
    steps, ratio = keys.get("warmup_steps"), keys.get("warmup_ratio")
    count = None if steps is None else keys.number("warmup_steps", steps)
    if ratio is not None and count == 0:
        keys.say("warmup_steps", keys.take("warmup_steps"), "mapped", None, "0: warmup_ratio counts")
    elif ratio is not None and count is not None:
        keys.say("warmup_ratio", keys.take("warmup_ratio"), "left out", None, "warmup_steps is set, and goes first")
    if count is not None and 0 < count < 1:
        keys.set("warmup_steps", "warmup_ratio", rule=lambda share: (float(share), "below 1 it is a share"))
    keys.set("warmup_steps", "warmup_steps", rule=lambda steps: (int(steps), ""))
    keys.set("warmup_ratio", "warmup_ratio", rule=number)


def batch(keys: Keys, rows: str, steps: str, *, default: int, packs: int | None = None) -> None:
    """Rows an optimizer step: those of one forward pass times the passes that are gathered.

    `packs` is the length in tokens of a packed sequence, for a configuration that packs: what the trainer then counts
    are packs and not rows, and how many rows fill a pack is the dataset's affair.
    """
    each, passes = keys.take(rows), keys.take(steps)
    one = int(keys.number(rows, default if each is None else each))
    gathered = 1 if passes is None else int(keys.number(steps, passes))
    total = one * gathered
    keys.hyperparameters["batch_size"] = total
    rule = f"{one} rows x {gathered} passes = {total} rows a step, on one device"
    if packs is not None:
        rule += (
            f"; {keys.tool} packs, and counts packs of up to {packs} tokens where llmtune counts rows:"
            f" multiply batch_size by the rows that fill {packs} tokens (llmtune data stats)"
        )
    if each is None:
        keys.say(rows, default, "default", "batch_size", f"not set; {keys.tool}'s default; {rule}")
    else:
        keys.say(rows, each, "converted", "batch_size", rule)
    if passes is not None:
        said = "micro-batches are chosen by memory; the step stays the same"
        keys.say(steps, passes, "converted", "batch_size", said)


def rhythm(keys: Keys, *, strategies: bool) -> None:
    """How often there is an evaluation and a checkpoint. `strategies`: the steps count only where those say "steps"."""
    evaluating = keys.get("eval_strategy", keys.get("evaluation_strategy", "no"))
    saving = keys.get("save_strategy", "steps")
    for key, field, strategy in (
        ("eval_steps", "eval_every", evaluating),
        ("save_steps", "checkpoint_every", saving),
    ):
        value = keys.get(key)
        if value is None:
            continue
        count = keys.number(key, value)
        if strategies and str(strategy) != "steps":
            word = key.removesuffix("_steps")
            keys.say(key, keys.take(key), "left out", field, f"it counts only with {word}_strategy: steps")
        elif count < 1:
            keys.say(key, keys.take(key), "left out", field, f"a share of all steps: set {field} in steps")
        else:
            keys.set(key, field, rule=lambda steps: (int(steps), ""))
    keys.set("save_total_limit", "keep_checkpoints")


def seed(keys: Keys) -> None:
    """The seed, 42 where none is set: all three trainers start from it."""
    value = keys.take("seed")
    keys.job["seed"] = 42 if value is None else int(keys.number("seed", value))
    if value is None:
        keys.say("seed", 42, "default", "seed", f"not set; {keys.tool}'s default")
    else:
        keys.say("seed", value, "mapped", "seed")


def held_out(keys: Keys, key: str) -> None:
    """The share of the rows that is kept for validation."""
    value = keys.take(key)
    share = keys.number(key, value or 0)
    if share >= 1:
        said = "a number of rows: until dataset.split is set, 80 % train, 10 % validate and 10 % test"
        keys.say(key, value, "left out", "dataset.split", said)
        return
    keys.dataset["split"] = (1 - share, share, 0.0)
    word: Word = "default" if value is None else "converted"
    said = f"{1 - share:g} train, {share:g} validation, 0 test: set dataset.split to hold rows out for the report"
    keys.say(key, share, word, "dataset.split", said)


def rank_stabilised(keys: Keys, key: str) -> None:
    """The scale alpha / sqrt(rank)."""
    if key in keys:
        value = keys.take(key)
        if value:
            keys.options["rslora"] = True
        keys.say(key, value, "mapped", "provider_options.local.rslora")


def precision(keys: Keys) -> None:
    """bf16, fp16 and tf32."""
    wanted = keys.take("bf16")
    if wanted is not None:
        if wanted in (True, "true", "full"):
            keys.options["dtype"] = "bfloat16"
            keys.say("bf16", wanted, "converted", "provider_options.local.dtype", "bfloat16")
        else:
            keys.say("bf16", wanted, "mapped", "provider_options.local.dtype", "the default chooses by the hardware")
    for key in ("fp16", "tf32"):
        if key in keys:
            value = keys.take(key)
            keys.say(key, value, "left out", None, "bfloat16 where the hardware has it, else float32")


def checkpointing(keys: Keys) -> None:
    """Gradient checkpointing."""
    for key in ("gradient_checkpointing", "activation_checkpointing"):
        if key in keys:
            value = keys.take(key)
            keys.options["gradient_checkpointing"] = bool(value)
            keys.say(key, value, "mapped", "provider_options.local.gradient_checkpointing")
