"""A configuration of another trainer, read key by key: each key is answered, so that none can vanish."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from llmtune.errors import InvalidJob
from llmtune.job import TuningJob

#: mapped: same meaning and value. converted: after a stated rule. left out: not in the job, and why.
Word = Literal["mapped", "converted", "left out", "default"]


class Line(BaseModel):
    """What became of one key. `word` "default" is a value that was not written there but holds there all the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    value: Any = None
    word: Word
    field: str | None = None
    """The job's field, where there is one."""

    says: str = ""


class Imported(BaseModel):
    """A job made from another tool's configuration, with the receipt of every key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: TuningJob
    source: str
    """What it was read from."""

    lines: tuple[Line, ...] = ()

    @property
    def left_out(self) -> tuple[Line, ...]:
        """The keys that are not in the job, each with its reason."""
        return tuple(line for line in self.lines if line.word == "left out")


class Keys:
    """The keys of one configuration, taken one after the other, and the job that grows from them."""

    def __init__(self, config: Mapping[str, Any], path: Path, tool: str) -> None:
        self.path, self.tool = path, tool
        self._rest = {key: value for key, value in config.items() if value is not None and value != ""}
        self.hyperparameters: dict[str, Any] = {}
        self.dataset: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.job: dict[str, Any] = {"adapter": "full"}
        self.lines: list[Line] = []

    def __contains__(self, key: str) -> bool:
        return key in self._rest

    def get(self, key: str, default: Any = None) -> Any:
        """A value, without answering its key."""
        return self._rest.get(key, default)

    def take(self, key: str, default: Any = None) -> Any:
        """A value whose key is answered by the caller."""
        return self._rest.pop(key, default)

    def say(self, key: str, value: Any, word: Word, field: str | None = None, says: str = "") -> None:
        """Answer a key."""
        self.lines.append(Line(key=key, value=value, word=word, field=field, says=says))

    def set(
        self, key: str, field: str, *, rule: Callable[[Any], tuple[Any, str]] | None = None, default: Any = None
    ) -> None:
        """Bring a key into a hyperparameter, as it is or by a rule; `default` is what the tool takes when unset."""
        if key not in self._rest:
            if default is not None and field not in self.hyperparameters:
                self.hyperparameters[field] = default
                self.say(key, default, "default", field, f"not set; {self.tool}'s default")
            return
        value = self.take(key)
        made, said = (value, "") if rule is None else rule(value)
        if made is None:
            self.say(key, value, "left out", None, said)
            return
        self.hyperparameters[field] = made
        self.say(key, value, "converted" if said else "mapped", field, said)

    def refuse(self, key: str, message: str, hint: str | None = None) -> InvalidJob:
        """The error for a configuration that no job of ours can express."""
        return InvalidJob(f"{self.path}: {key}: {message}", where=key, hint=hint)

    def leave_rest(self, reasons: Mapping[str, str]) -> None:
        """Answer every key that is still there: by its reason, or as one that is not known."""
        for key in list(self._rest):
            value = self.take(key)
            prefixes = [name for name in reasons if name.endswith("*") and key.startswith(name[:-1])]
            reason = reasons.get(key) or next((reasons[name] for name in prefixes), None)
            self.say(
                key, value, "left out", None, reason or f"not known to llmtune: look up what it does in {self.tool}"
            )

    def finish(self, *, name: str, model: str) -> Imported:
        """The job. Raises `InvalidJob` naming the key's file when a value is out of range."""
        data: dict[str, Any] = {"name": name[:128] or "imported", "model": {"local": model}, "dataset": self.dataset}
        data |= self.job
        data["hyperparameters"] = self.hyperparameters
        if self.options:
            data["provider_options"] = {"local": self.options}
        try:
            job = TuningJob.model_validate(data)
        except InvalidJob as error:
            raise InvalidJob(f"{self.path}: {error.message}", where=error.where, hint=error.hint) from None
        return Imported(job=job, source=f"{self.tool} ({self.path})", lines=tuple(self.lines))


# --- rules that several tools share ----------------------------------------------------------------------------------
#: Optimizers that keep their state in another form and update as AdamW does.
_ADAMW = ("adamw", "adamw_hf", "adamw_anyprecision", "adamw_torch_xla", "adamw_apex_fused")


def optimizer(value: Any) -> tuple[Any, str]:
    """An optimizer's name, by the update rule."""
    name = str(value)
    if name in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop", "adagrad"):
        return name, ""
    if name in _ADAMW or ("adamw" in name and ("8bit" in name or "32bit" in name or "4bit" in name)):
        return "adamw_torch", f"{name} is AdamW with its state kept in another form"
    return None, f"the optimizer {name} is not there; the default is adamw_torch"


def whole_epochs(value: Any) -> tuple[Any, str]:
    """Epochs are whole here."""
    if float(value).is_integer():
        return int(value), ""
    return math.ceil(value), f"epochs are whole numbers: {value:g} was rounded up; max_steps ends it earlier"


def steps_or_ratio(keys: Keys, key: str = "warmup_steps") -> None:
    """transformers 5 takes a share of all steps under the same key when it is below 1."""
    value = keys.get(key)
    if value is not None and 0 < float(value) < 1:
        keys.set(key, "warmup_ratio", rule=lambda share: (share, "below 1 it is a share of all steps"))
    else:
        keys.set(key, "warmup_steps", rule=lambda count: (int(count), ""))


def batch(keys: Keys, rows: str, steps: str, *, default: int | None = None) -> None:
    """Rows an optimizer step: those of one forward pass times the passes that are gathered."""
    if rows not in keys and default is None:
        return
    each, passes = keys.take(rows), keys.take(steps)
    total = int(each if each is not None else default or 1) * int(passes or 1)
    keys.hyperparameters["batch_size"] = total
    rule = f"{each if each is not None else default} rows x {passes or 1} passes = {total} rows a step, on one device"
    if each is None:
        keys.say(rows, default, "default", "batch_size", f"not set; {keys.tool}'s default; {rule}")
    else:
        keys.say(rows, each, "converted", "batch_size", rule)
    if passes is not None:
        keys.say(
            steps, passes, "converted", "batch_size", "micro-batches are chosen by memory; the step stays the same"
        )


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


#: What has no place in a job, whatever tool it comes from.
REASONS = {
    "output_dir": "each run has a folder of its own",
    "overwrite_output_dir": "each run has a folder of its own",
    "logging_*": "every step is recorded",
    "plot_loss": "the report draws the curves",
    "report_to": "the report and `llmtune runs show` hold every point",
    "run_name": "the job's name and the run's id take its place",
    "wandb_*": "the report and `llmtune runs show` hold every point",
    "mlflow_*": "the report and `llmtune runs show` hold every point",
    "comet_*": "the report and `llmtune runs show` hold every point",
    "swanlab_*": "the report and `llmtune runs show` hold every point",
    "use_swanlab": "the report and `llmtune runs show` hold every point",
    "hub_*": "nothing is uploaded anywhere",
    "push_to_hub": "nothing is uploaded anywhere",
    "deepspeed": "the local trainer runs on one device",
    "fsdp": "the local trainer runs on one device",
    "fsdp_*": "the local trainer runs on one device",
    "ddp_*": "the local trainer runs on one device",
    "local_rank": "the local trainer runs on one device",
    "gradient_checkpointing_kwargs": "the non-reentrant way is the only one",
    "activation_checkpointing_kwargs": "the non-reentrant way is the only one",
    "flash_attention": "the attention is chosen by device and model",
    "flash_attn": "the attention is chosen by device and model",
    "attn_implementation": "the attention is chosen by device and model",
    "xformers_attention": "the attention is chosen by device and model",
    "sdp_attention": "the attention is chosen by device and model",
    "s2_attention": "the attention is exact",
    "group_by_length": "rows are packed without padding, so their order need not change",
    "pad_to_sequence_len": "nothing is padded",
    "pad_to_multiple_of": "nothing is padded",
    "padding_free": "nothing is padded",
    "trust_remote_code": "code from a model's repository is never run",
    "dataloader_*": "rows are tokenised once and read from disk",
    "preprocessing_num_workers": "rows are tokenised once and read from disk",
    "dataset_num_proc": "rows are tokenised once and read from disk",
    "dataset_processes": "rows are tokenised once and read from disk",
    "overwrite_cache": "rows are found again by their content",
    "dataset_prepared_path": "rows are found again by their content",
    "resume_from_checkpoint": "a run that was killed goes on by itself",
    "auto_resume_from_checkpoints": "a run that was killed goes on by itself",
    "neftune_noise_alpha": "noise on embeddings is not there",
    "use_liger_kernel": "the loss is computed in chunks anyway",
    "torch_compile*": "not there",
    "special_tokens": "the tokenizer's own are used",
    "tokens": "the tokenizer's own are used",
    "eval_strategy": "validation rows are looked at every `eval_every` steps",
    "evaluation_strategy": "validation rows are looked at every `eval_every` steps",
    "eval_on_start": "validation rows are always looked at before the first step",
    "per_device_eval_batch_size": "chosen by memory; it changes no figure",
    "eval_batch_size": "chosen by memory; it changes no figure",
    "save_strategy": "a checkpoint is written every `checkpoint_every` steps",
    "save_only_model": "checkpoints hold what is needed to go on",
    "load_best_model_at_end": "with early_stopping_patience the best weights are kept",
    "metric_for_best_model": "it is the validation loss",
    "greater_is_better": "it is the validation loss",
    "debug": "not there",
    "strict": "llmtune's own --strict is said when the job is run",
}
