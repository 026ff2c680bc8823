"""The job: what to train, on which data, and how it is evaluated. Vendor-neutral, without account settings.

A mistake in a field is reported in one sentence, with the nearest valid name. Which backend takes which field is
generated from the backends' declarations (`llmtune providers NAME`, docs/hyperparameters.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from llmtune.errors import InvalidJob
from llmtune.job.base import StrictModel
from llmtune.job.files import locate_faults, read_mapping, write_mapping
from llmtune.job.graders import Grader, find_reference_field, load_grader, make_grader, read_sources
from llmtune.job.judge import JudgeSpec
from llmtune.redaction.rendering import Rendered

if TYPE_CHECKING:
    from pydantic import ModelWrapValidatorHandler

#: What is trained for.
Method = Literal["sft", "dpo", "classification", "reinforcement"]

#: Which weights are trained.
Adapter = Literal["lora", "qlora", "dora", "full"]

#: What a tuned model is measured against.
Baseline = Literal["base", "majority", "linear", "few_shot", "nearest"]

#: The baselines for which no model is asked.
UNASKED_BASELINES: tuple[Baseline, ...] = ("majority", "linear", "nearest")

#: What vendors call tuning too, and why llmtune does not do it (yet): said by name instead of "unknown method".
NOT_YET: dict[str, str] = {
    "distillation": "it needs a teacher's answers first: generate them, then tune on them with method 'sft'",
    "continued_pretraining": "it is no method of its own: some backends take plain 'text' rows with method 'sft'",
}

EXCLUSIVE: tuple[tuple[str, str], ...] = (
    ("learning_rate", "learning_rate_multiplier"),
    ("warmup_ratio", "warmup_steps"),
)


OTHER_NAMES = {
    alias: name
    for name, aliases in {
        "epochs": "epoch n_epochs num_epochs num_train_epochs epoch_count train_epochs",
        "max_steps": "steps num_steps total_steps max_train_steps",
        "batch_size": "batch bs train_batch_size per_device_train_batch_size micro_batch_size n_batch",
        "gradient_accumulation_steps": "grad_accum gradient_accumulation accumulation_steps",
        "learning_rate": "lr peak_lr peak_learning_rate",
        "learning_rate_multiplier": "lr_multiplier",
        "lr_schedule": "lr_scheduler lr_scheduler_type scheduler schedule",
        "warmup_ratio": "warmup warmup_fraction",
        "warmup_steps": "num_warmup_steps",
        "optimizer": "optim",
        "weight_decay": "wd decay",
        "max_grad_norm": "grad_clip gradient_clipping max_norm clip_grad_norm",
        "prompt_loss_weight": "train_on_inputs",
        "lora_rank": "r rank lora_r adapter_size",
        "lora_alpha": "alpha",
        "lora_target_modules": "target_modules lora_modules lora_trainable_modules",
        "max_sequence_length": "max_seq_length max_seq_len max_length sequence_len cutoff_len",
        "early_stopping_patience": "patience",
        "eval_every": "eval_steps evaluation_steps",
        "checkpoint_every": "save_steps save_every",
        "keep_checkpoints": "save_total_limit n_checkpoints",
        "dpo_beta": "beta",
    }.items()
    for alias in aliases.split()
}
"""What other trainers and vendors call a hyperparameter, by that name in lower case."""


class Hyperparameters(StrictModel):
    """How to train. Flat and vendor-neutral; `None` means "the backend's own default".

    Ranges here are what has meaning at all; a backend's narrower range is in its declarations and the receipt.
    """

    __field_word__: ClassVar[str] = "hyperparameter"

    #: Names of the same thing in other trainers and vendors' services, for "did you mean".
    __other_names__: ClassVar[dict[str, str]] = OTHER_NAMES

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Passes over the training rows. Integer >= 1. With `max_steps` set too, whichever ends first."""

    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps after which training stops. Integer >= 1."""

    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Rows per optimizer step, over all devices and accumulation together (the effective batch). Integer >= 1."""

    gradient_accumulation_steps: Annotated[int, Field(ge=1)] | None = None
    """Micro-batches into which each optimizer step's rows are cut. Changes memory and speed; never the gradient."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate, absolute. > 0. Excludes `learning_rate_multiplier`.

    LoRA wants about ten times the rate of full tuning (Thinking Machines, "LoRA Without Regret", 2025-09)."""

    learning_rate_multiplier: Annotated[float, Field(gt=0)] | None = None
    """Factor on the rate that the backend would choose itself. > 0. Excludes `learning_rate`."""

    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Floor of the schedule, as a share of the peak rate. 0..1."""

    lr_schedule: str | None = None
    """Shape of the rate over the steps, by its transformers name: linear, cosine, constant, constant_with_warmup,
    cosine_with_restarts, polynomial, inverse_sqrt, cosine_with_min_lr, warmup_stable_decay."""

    lr_num_cycles: Annotated[float, Field(gt=0)] | None = None
    """Cycles of a cosine schedule; 0.5 is one fall from peak to floor. > 0."""

    warmup_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of all steps over which the rate climbs from 0 to its peak. 0..1. Excludes `warmup_steps`."""

    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps over which the rate climbs from 0 to its peak. Integer >= 0. Excludes `warmup_ratio`."""

    optimizer: str | None = None
    """Update rule, by its transformers name (adamw_torch, adamw_torch_fused, adafactor, sgd, ...)."""

    adam_beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of Adam's first moment. [0, 1). Kingma and Ba, arXiv:1412.6980, use 0.9."""

    adam_beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of Adam's second moment. [0, 1). arXiv:1412.6980 uses 0.999."""

    adam_epsilon: Annotated[float, Field(gt=0)] | None = None
    """Term that keeps Adam's division finite. > 0. arXiv:1412.6980 uses 1e-8."""

    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Decoupled decay of the trained weights per unit of learning rate (AdamW, arXiv:1711.05101). >= 0."""

    max_grad_norm: Annotated[float, Field(ge=0)] | None = None
    """Gradients are scaled down to this global L2 norm. >= 0; 0 switches clipping off."""

    prompt_loss_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Weight of prompt tokens in the loss, where completion tokens weigh 1. 0..1; 0 trains on answers alone."""

    lora_rank: Annotated[int, Field(ge=1)] | None = None
    """Rank of the low-rank update (LoRA, arXiv:2106.09685). Integer >= 1."""

    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    """LoRA scaling: the update is multiplied by alpha / rank. > 0."""

    lora_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout on the input of the LoRA branch. [0, 1)."""

    lora_target_modules: str | tuple[str, ...] | None = None
    """Which linear layers get an adapter: a preset (all-linear, attention, mlp) or module names."""

    layer_lr_multipliers: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Factor on the rate by layer: a layer's index ("0", "1", ...), a range ("0-3"), or a pattern of the parameter's
    name ("*.mlp.*"). >= 0; 0 freezes. Discriminative fine-tuning, arXiv:1801.06146."""

    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout of the base model's hidden states and residuals while training. [0, 1)."""

    attention_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout on attention probabilities while training. [0, 1)."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the target's probability spread evenly over the vocabulary (arXiv:1512.00567). [0, 1)."""

    replay_share: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Share of the loss that goes to the base model's own answers to general prompts, against forgetting. 0..0.5; 0 is
    off (rehearsal, arXiv:2205.12393)."""

    max_sequence_length: Annotated[int, Field(ge=1)] | None = None
    """Longest row in tokens, template included. Integer >= 1. What happens to longer rows: `dataset.on_too_long`."""

    packing: bool | None = None
    """Put several rows into one sequence without padding. Locally it changes speed only, never the loss."""

    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Evaluations without improvement after which training stops. Integer >= 1. Needs validation rows."""

    early_stopping_threshold: Annotated[float, Field(ge=0)] | None = None
    """Fall of the validation loss that counts as improvement. >= 0, in units of the loss (nats per token)."""

    eval_every: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between two evaluations on the validation rows. Integer >= 1."""

    checkpoint_every: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between two checkpoints. Integer >= 1."""

    keep_checkpoints: Annotated[int, Field(ge=1)] | None = None
    """Checkpoints kept; older ones are removed. Integer >= 1."""

    dpo_beta: Annotated[float, Field(gt=0)] | None = None
    """Strength of the pull towards the reference model in DPO (arXiv:2305.18290, which uses 0.1 to 0.5). > 0."""

    def _check_rules(self) -> None:
        for first, second in EXCLUSIVE:
            if getattr(self, first) is not None and getattr(self, second) is not None:
                raise ValueError(f"{first} and {second} exclude each other: set one of them")

    def merged(self, over: Hyperparameters | None) -> Hyperparameters:
        """Return these values with the set fields of `over` laid on top; a set member of a pair replaces the other."""
        if over is None:
            return self
        values = self.model_dump(exclude_none=True)
        new = over.model_dump(exclude_none=True)
        for pair in EXCLUSIVE:
            if any(name in new for name in pair):
                for name in pair:
                    values.pop(name, None)
        return Hyperparameters.model_validate(values | new)


#: What `DatasetSpec.split` takes, for editors.
_SPLIT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "array", "prefixItems": [{"type": "number"}] * 3, "minItems": 3, "maxItems": 3},
        {"type": "string", "pattern": "^[0-9]+/[0-9]+/[0-9]+$"},
    ]
}


class DatasetSpec(StrictModel):
    """Where the rows are, how to read them, and how they are split."""

    path: str | None = None
    """One file (or a dataset folder, or `hf://owner/name`) that llmtune splits. Excludes `train`."""

    train: str | None = None
    """The training file, when the split is already made."""

    validation: str | None = None
    """The validation file; without one, `split[1]` of the training rows are held out."""

    test: str | None = None
    """The test file; without one, `split[2]` of the training rows are held out."""

    format: str = "auto"
    """Row format: auto, or a name that `llmtune data formats` lists (chat, prompt_completion, alpaca, csv, ...)."""

    columns: dict[str, str] | None = None
    """Which column or key holds what, where the names differ: {"text": "utterance", "label": "intent"}."""

    label_column: str | None = None
    """Column that holds the label of a classification row."""

    group_by: str | None = None
    """Key whose equal values never fall on both sides of a split (a customer, a conversation)."""

    split: Annotated[tuple[float, float, float], WithJsonSchema(_SPLIT_SCHEMA)] = (0.8, 0.1, 0.1)
    """Shares (summing to 1) or row counts (integers) of train, validation and test; or percentages by their usual name:
    80/10/10, 70/15/15, 60/20/20."""

    split_seed: int = 0
    """Seed of the split; independent of the job's seed, so that seeds can vary on one split."""

    limit_rows: Annotated[int, Field(ge=1)] | None = None
    """Training rows used at most, chosen by their content: the same ones every time, and more of them with a higher
    limit. Validation and test rows stay, so that results can be compared. Integer >= 1; None uses all."""

    on_too_long: Literal["error", "truncate", "drop"] = "error"
    """What to do with a row longer than `max_sequence_length` or the model's context."""

    on_empty: Literal["error", "drop"] = "error"
    """What to do with a row whose answer is empty. How many were dropped is reported."""

    system: Literal["keep", "fold"] = "keep"
    """fold: put system turns at the beginning of the first user turn, for models whose template takes none."""

    def _check_rules(self) -> None:
        if (self.path is None) == (self.train is None):
            raise ValueError("give either path (llmtune splits it) or train (with validation and test, if any)")
        if self.path is not None and (self.validation or self.test):
            raise ValueError("validation and test go with train, not with path: path is split by llmtune")

    @field_validator("split", mode="before")
    @classmethod
    def _read_percentages(cls, split: object) -> object:
        if not isinstance(split, str):
            return split
        percentages = [int(part) for part in split.split("/") if part.strip().isdecimal()]
        if len(percentages) != 3 or split.count("/") != 2 or sum(percentages) != 100:
            raise ValueError(f"split by name is three percentages that sum to 100, as 80/10/10, not {split!r}")
        return tuple(percentage / 100 for percentage in percentages)

    @field_validator("split")
    @classmethod
    def _shares_or_counts(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        if any(part < 0 for part in split) or split[0] == 0:
            raise ValueError(f"split needs a positive share for train and none below 0, not {list(split)}")
        if not (abs(sum(split) - 1) < 1e-6 or all(float(part).is_integer() for part in split)):
            raise ValueError(f"split must be three shares that sum to 1 or three row counts, not {list(split)}")
        return split

    @property
    def paths(self) -> dict[str, str]:
        """The files by role: {"path": ...} or {"train": ..., "validation": ..., "test": ...}, unset ones left out."""
        roles = {"path": self.path, "train": self.train, "validation": self.validation, "test": self.test}
        return {role: path for role, path in roles.items() if path is not None}

    def relative_to(self, folder: Path) -> DatasetSpec:
        """Return the same spec with relative paths resolved against `folder` (where the job file is)."""
        moved = {
            role: path if "://" in path or Path(path).is_absolute() else str(folder / path)
            for role, path in self.paths.items()
        }
        return self.model_copy(update=moved)


class AbstainSpec(StrictModel):
    """A promise: of the answers that a tuned model gives, at most a share is wrong; the others are withheld."""

    error: Annotated[float, Field(gt=0, lt=0.5)]
    """Share of wrong answers among those given, at most. (0, 0.5)."""

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Probability with which the promise holds, over the rows that it was made with. [0.5, 1)."""


class EvaluationSpec(StrictModel):
    """How the tuned model is judged on the test rows, beside the base model."""

    metrics: tuple[str, ...] | None = None
    """Metric names, or `module:function` for your own; None picks by the kind of dataset."""

    labels: tuple[str, ...] | None = None
    """The label set; None takes the labels found in the dataset, when it has any."""

    max_rows: Annotated[int, Field(ge=1)] = 200
    """Test rows asked at most; a larger test split is subsampled by hash. Integer >= 1."""

    fit_rows: Annotated[int, Field(ge=0)] | None = None
    """Training rows, and as many validation rows, that the tuned model is asked too, to tell underfitting from
    overfitting. Integer >= 0; None takes a few for a model on this machine, and none where answers are billed."""

    calibration_rows: Annotated[int, Field(ge=0)] | None = None
    """Validation rows on which the probabilities of labels are calibrated. Integer >= 0; None takes as many as test
    rows are asked and, with `abstain`, up to 2,000; and none where answers are billed."""

    samples: Annotated[int, Field(ge=0, le=20)] | None = None
    """Validation rows that the model answers at each evaluation while it trains, to look at: the same ones each time,
    never test rows. 0..20; 0 is off, None leaves it to the backend."""

    abstain: AbstainSpec | None = None
    """Choose a confidence below which answers are withheld, so that of the others at most a share is wrong; None
    promises nothing."""

    panel: bool | str = False
    """Ask base and tuned model questions outside the task too, to see what else tuning has changed: true (the panel
    that llmtune ships), the name of a panel, or the path of a file (docs/panel.md). false asks none."""

    judge: JudgeSpec | None = None
    """A model that judges the answers of base and tuned model by a rubric (docs/judge.md); None asks none. Unless it
    runs on this machine, the judged rows are sent to it."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature of the answers. >= 0; 0 is greedy."""

    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling: the smallest set of tokens with this probability (arXiv:1904.09751). (0, 1]."""

    top_k: Annotated[int, Field(ge=1)] | None = None
    """Sample among the k likeliest tokens only. Integer >= 1."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer in tokens. Integer >= 1; None takes the longest reference answer and a margin."""

    baselines: tuple[Baseline, ...] | None = None
    """What the tuned model is measured against: base (the untuned model), majority (always the most frequent label),
    linear (TF-IDF and logistic regression on the training rows), nearest (the answer of the nearest training row),
    few_shot (the base model with examples in its prompt). None takes base, and majority and linear where rows have
    labels, nearest where answers are text, few_shot where answers cost nothing. `baseline: true` is the same as None,
    `baseline: false` leaves out whatever asks a model."""

    deploy: bool = False
    """Allow an evaluation that needs a paid deployment; it is removed afterwards."""

    @model_validator(mode="before")
    @classmethod
    def _one_switch(cls, data: Any) -> Any:
        """Read `baseline: true` and `baseline: false`, which is how jobs were written before."""
        if not isinstance(data, dict) or "baseline" not in data:
            return data
        fields = {name: value for name, value in data.items() if name != "baseline"}
        if not isinstance(data["baseline"], bool):
            raise ValueError("baseline is true or false; baselines takes a list of names")  # noqa: TRY004
        if "baselines" in fields:
            raise ValueError("baseline and baselines exclude each other: baselines is the newer name")
        return fields if data["baseline"] else fields | {"baselines": UNASKED_BASELINES}

    @field_validator("panel")
    @classmethod
    def _name_panel(cls, panel: bool | str) -> bool | str:
        if isinstance(panel, str) and not panel.strip():
            raise ValueError("panel is true, false, the name of a panel or the path of a file, not an empty text")
        return panel

    def _check_rules(self) -> None:
        if self.judge is not None and self.judge.mode == "pairwise" and not self.measures("base"):
            raise ValueError(
                "judge compares with the answers of the base model's, and baselines leaves base out (mode: score)"
            )

    def relative_to(self, folder: Path) -> EvaluationSpec:
        """Return the same spec with the paths of its files resolved against `folder` (where the job file is)."""
        panel = self.panel
        if not isinstance(panel, bool) and is_panel_path(panel) and not Path(panel).expanduser().is_absolute():
            panel = str(folder / panel)
        judge = None if self.judge is None else self.judge.relative_to(folder)
        if panel == self.panel and judge is self.judge:
            return self
        return self.model_copy(update={"panel": panel, "judge": judge})

    def measures(self, baseline: Baseline, *, free: bool = False) -> bool:
        """Return whether the tuned model is compared with a baseline; `free` says that answers cost nothing."""
        if self.baselines is not None:
            return baseline in self.baselines
        return baseline != "few_shot" or free


def is_panel_path(panel: str) -> bool:
    """Return whether `EvaluationSpec.panel` is the path of a file rather than a name."""
    return panel.endswith((".jsonl", ".json")) or "/" in panel or "\\" in panel


def _as_dataset(value: Any) -> Any:
    return {"path": os.fspath(value)} if isinstance(value, (str, os.PathLike)) else value


def _read_grader(data: Any, folder: Path) -> Any:
    """Return a job's fields with its grader's files read from `folder`, so that the job stands alone."""
    if not isinstance(data, dict) or not isinstance(data.get("grader"), (str, os.PathLike, dict)):
        return data
    grader = data["grader"]
    if not isinstance(grader, dict):
        return data | {"grader": load_grader(folder / grader)}
    try:
        return data | {"grader": read_sources(make_grader(grader), folder)}
    except InvalidJob as error:
        error.faults = tuple((("grader", *path), f"grader: {sentence}") for path, sentence in error.faults)
        error.message = f"grader: {error.message}"
        error.args = (error.message,)
        raise


class TuningJob(Rendered, StrictModel):
    """One fine-tuning job, for any backend.

    Loads from and saves to YAML, JSON and plain dicts; `llmtune schema` prints the JSON schema for editors.
    """

    _renderers: ClassVar[Mapping[str, str]] = {"notebook": "llmtune.report.html.notebook:show_job"}

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """What people call it; travels to the vendor as suffix or display name, shortened to what it allows."""

    dataset: Annotated[DatasetSpec, BeforeValidator(_as_dataset)]
    """A path, or a DatasetSpec."""

    model: str | dict[str, str]
    """One base model id, or one per provider. `run:ID[@checkpoint]` continues from an earlier run."""

    method: Method = "sft"
    """sft (learn to answer), dpo (learn from preferred and rejected answers), classification (an encoder's head),
    reinforcement (learn from what a grader pays for the model's own answers)."""

    grader: Grader | None = None
    """reinforcement: what scores an answer (docs/grade.md); a grader, or the path of its file."""

    adapter: Adapter | None = None
    """lora, qlora (4-bit base), dora (weight-decomposed), full (all weights). None: lora where a `lora_`
    hyperparameter is set, else the backend's choice for the model (of hosted services lora where they offer it); `plan`
    and the report show it."""

    hyperparameters: Hyperparameters = Hyperparameters()
    """How to train."""

    overrides: dict[str, Hyperparameters] = Field(default_factory=dict)
    """Per provider, laid over `hyperparameters` field by field."""

    evaluation: EvaluationSpec = EvaluationSpec()
    """How the result is judged."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Seed of initialisation and row order, 0..2147483647; None lets each backend choose (locally: 0)."""

    tags: dict[str, str] = Field(default_factory=dict)
    """Your own labels, sent along where the vendor keeps such."""

    provider_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Vendor-only options by provider; checked against that provider's `Options`."""

    if TYPE_CHECKING:
        # Accepts more than the fields hold: a path is short for a DatasetSpec.
        def __init__(  # noqa: PLR0913 - one keyword per field
            self,
            *,
            name: str,
            dataset: DatasetSpec | str | os.PathLike[str],
            model: str | dict[str, str],
            method: Method = "sft",
            grader: Grader | str | os.PathLike[str] | None = None,
            adapter: Adapter | None = None,
            hyperparameters: Hyperparameters = ...,
            overrides: dict[str, Hyperparameters] = ...,
            evaluation: EvaluationSpec = ...,
            seed: int | None = None,
            tags: dict[str, str] = ...,
            provider_options: dict[str, dict[str, Any]] = ...,
        ) -> None: ...

    def _check_rules(self) -> None:
        if self.method == "classification" and self.evaluation.panel is not False:
            raise ValueError("evaluation.panel asks for texts, and a classifier answers with labels alone")
        if self.method == "classification" and self.evaluation.judge is not None:
            raise ValueError("evaluation.judge judges texts, and a classifier answers with labels alone")
        if self.method == "reinforcement" and self.grader is None:
            raise ValueError("grader is missing: method reinforcement learns from what a grader pays (docs/grade.md)")
        if self.method != "reinforcement" and self.grader is not None:
            raise ValueError(f"grader is of method reinforcement, and the method is {self.method}")

    @model_validator(mode="wrap")
    @classmethod
    def _read_grader_file(cls, data: Any, handler: ModelWrapValidatorHandler[TuningJob]) -> TuningJob:
        return handler(_read_grader(data, Path()))

    @model_validator(mode="before")
    @classmethod
    def _not_yet(cls, data: Any) -> Any:
        method = data.get("method") if isinstance(data, dict) else None
        if isinstance(method, str) and method in NOT_YET:
            raise ValueError(f"method {data['method']!r} is not there yet: {NOT_YET[data['method']]}")
        return data

    @property
    def reference_field(self) -> str | None:
        """The rows' field with the right answer, by the grader; None where it is the last assistant turn."""
        return None if self.grader is None else find_reference_field(self.grader)

    def model_for(self, provider: str) -> str:
        """Return the base model id for this provider. Raises `InvalidJob` when the job names none for it."""
        if isinstance(self.model, str):
            return self.model
        if provider in self.model:
            return self.model[provider]
        raise InvalidJob(
            f"no model is named for provider {provider!r} (the job names one for {', '.join(self.model) or 'none'})",
            where="model",
            hint=f"add it: model: {{{provider}: MODEL_ID}}",
        )

    def hyperparameters_for(self, provider: str) -> Hyperparameters:
        """Return the hyperparameters with this provider's overrides laid on top."""
        return self.hyperparameters.merged(self.overrides.get(provider))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TuningJob:
        """Read a job file (.yaml, .yml or .json). Relative dataset paths are read from the file's own folder.

        Raises `InvalidJob` with file and line for a missing file, broken YAML or JSON, and every wrong field.
        """
        path = Path(path)
        data = read_mapping(path)
        try:
            job = cls.model_validate(_read_grader(data, path.parent))
        except InvalidJob as error:
            error.message = locate_faults(path, error)
            error.args = (error.message,)
            raise
        return job.relative_to(path.parent)

    def relative_to(self, folder: Path) -> TuningJob:
        """Return the same job with the relative paths of its files resolved against `folder`."""
        return self.model_copy(
            update={"dataset": self.dataset.relative_to(folder), "evaluation": self.evaluation.relative_to(folder)}
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the job as YAML or JSON, by the ending of `path`; unset fields are left out."""
        data = self.to_dict()
        if set(data.get("dataset", {})) == {"path"}:
            data["dataset"] = data["dataset"]["path"]
        write_mapping(data, Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data with the unset fields left out; `TuningJob.model_validate` reads it back."""
        return self.model_dump(mode="json", exclude_defaults=True)
