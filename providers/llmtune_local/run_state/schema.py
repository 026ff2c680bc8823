"""Contents of the files of a run folder: the request, the status, metrics, events, the result."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmtune_local.run_state.process import ProcessId

WorkerState = Literal["starting", "running", "finalizing", "succeeded", "failed", "cancelled"]


FINAL: frozenset[str] = frozenset(("succeeded", "failed", "cancelled"))


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


class TrainingConfig(_Record):
    """The hyperparameters as the worker runs them: everything resolved. None has the meaning its docstring gives.

    Meanings, units and ranges are those of `llmtune.Hyperparameters`.
    """

    epochs: int = Field(ge=1)
    max_steps: int | None = None
    """None: no limit but `epochs`."""

    batch_size: int = Field(ge=1)
    gradient_accumulation_steps: int | None = None
    """None: micro-batches by token budget."""

    learning_rate: float = Field(gt=0)
    min_lr_ratio: float = 0.0
    lr_schedule: str = "linear"
    lr_num_cycles: float | None = None
    """None: 0.5, and 1 for cosine_with_restarts."""

    warmup_ratio: float | None = 0.0
    warmup_steps: int | None = None
    """None: `warmup_ratio` of all steps."""

    optimizer: str = "adamw_torch"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    prompt_loss_weight: float = Field(default=0.0, ge=0, le=1)
    lora_rank: int = Field(default=16, ge=1)
    lora_alpha: float | None = None
    """None: twice the rank."""

    lora_dropout: float = 0.0
    lora_target_modules: str | tuple[str, ...] = "all-linear"
    layer_lr_multipliers: dict[str, float] | None = None
    """None: 1 everywhere."""

    dropout: float | None = None
    """None: the model's own."""

    attention_dropout: float | None = None
    """None: the model's own."""

    label_smoothing: float = 0.0
    replay_share: float = Field(default=0.0, ge=0, le=0.5)
    max_sequence_length: int | None = None
    """None: the model's context."""

    packing: bool = True
    early_stopping_patience: int | None = None
    """None: no early stopping."""

    early_stopping_threshold: float = 0.0
    eval_every: int | None = None
    """None: at most ten times over the run, and for at most a fifth of the training time."""

    checkpoint_every: int | None = None
    """None: at the end of each epoch."""

    keep_checkpoints: int = Field(default=2, ge=1)
    dpo_beta: float | None = None
    """None: 0.1, in method dpo."""


class RunFiles(_Record):
    """The datasets, in canonical rows (chat or plain text JSON lines)."""

    train: str
    validation: str | None = None


class WorkerOptions(_Record):
    """How and where to run; nothing here changes what is learned, except that bfloat16 rounds."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: cuda, else mps, else cpu. Another one is used only when it is there, never silently replaced."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA devices and, for models of 20 million parameters or more, on CPUs that multiply in it;
    float32 elsewhere. The trained weights are always float32."""

    launcher: Literal["worker", "torchrun", "ray"] | None = None
    """What starts the processes: worker (one), torchrun (several on this machine), ray (on a cluster). None: worker for
    one process, torchrun for several."""

    processes: int = Field(default=1, ge=1)
    """Processes that share each step's rows, one a GPU, or on CPU with the cores divided among them."""

    sharding: Literal["replicate", "shard"] | None = None
    """What each of several processes holds: replicate: the whole model; shard: a part of every matrix, of its gradient
    and of its optimizer state, so that a model larger than one GPU is trained (FSDP2; method sft, adapter lora or
    full). None: shard where whole models with gradients and optimizer take more than four fifths of the memory."""

    offload: bool = False
    """Where the model is cut up, on CUDA devices: each process keeps its part in RAM, and a layer is on the GPU only
    while it computes. Slower; for models that are larger than all GPUs together."""

    nodes: int = Field(default=1, ge=1)
    """Machines that the processes are divided among, equally many on each. On every machine but the one that the run
    was started on, `python -m llmtune_local.worker.join RUN_DIR` starts its share; all must see the run folder. Not for
    launcher ray, whose cluster spreads the processes itself."""

    rendezvous: str | None = None
    """With several nodes: HOST:PORT of the machine that the run is started on, by which the others reach it."""

    ray_address: str = "local"
    """Launcher ray: a cluster's address, "auto", or "local" for one that is started for the run. Its nodes must see the
    run folder."""

    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads; None: OMP_NUM_THREADS where set, else the physical cores this process may use."""

    token_budget: int | None = Field(default=None, ge=16)
    """Tokens in a micro-batch at most (a longer row goes alone); None: 2048 on CPU, 16384 elsewhere."""

    gradient_checkpointing: bool = False
    """Trade speed for memory: recompute activations in the backward pass."""

    chat_template: str | None = None
    """A Jinja chat template instead of the model's own, or the name of a ready one: chatml, llama3, gemma, deepseek-r1,
    plain, alpaca."""

    template_options: dict[str, Any] = {}
    """Variables for the chat template (enable_thinking), the same for training and answering."""

    mask_empty_thinking: bool = False
    """Leave the empty `<think></think>` unlearned that the template of a model with reasoning writes before an answer
    without any, so that tuning on such rows does not teach the model to stop thinking."""

    image_max_pixels: int | None = Field(default=None, ge=256)
    """Images with more pixels (width times height) are scaled down to so many before the model's own processing, in
    training and answering: fewer tokens in families whose images have as many tokens as their size asks for."""

    max_time: float | None = Field(default=None, gt=0)
    """Seconds of training, its validations included, after which no further step begins: the run then ends like any
    other, with a validation, a checkpoint, the model and a report. The first step is always done."""

    panel_margin: float | None = Field(default=None, ge=0)
    """Method sft with early stopping: the step that is kept may have lost so much of the mean log-likelihood of the
    panel's reference answers (docs/panel.md), in nats per token. None: the validation loss alone chooses."""

    optimizer_arguments: dict[str, Any] = {}
    """Arguments of an optimizer that is named by its class (`optimizer: torch.optim.SGD`), beside rate and weight decay
    (`momentum: 0.9`)."""

    quantization: Literal["nf4", "nf4-dq", "fp4", "fp4-dq", "int8"] | None = None
    """Adapter qlora: how the base is held. nf4 and fp4 are 4 bits, with -dq their constants are quantised too
    (arXiv:2305.14314); int8 is 8 bits with outliers in 16 (arXiv:2208.07339). None: nf4-dq."""

    rslora: bool = False
    """Scale adapters by alpha / sqrt(rank) instead of alpha / rank, so that high ranks learn (arXiv:2312.03732)."""

    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Method classification: how much each label's rows weigh in the loss, 1 for a label that is left out; balanced:
    by how rare they are."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Method classification with several labels a row: a label is answered from this probability on."""

    samples_per_prompt: int = Field(default=8, ge=2, le=1024)
    """Method reinforcement: answers that are sampled to each prompt of a step, the group that rewards are compared
    in."""

    answer_tokens: int = Field(default=256, ge=1)
    """Method reinforcement: tokens of a sampled answer at most; it is graded as far as it got."""

    answer_temperature: float = Field(default=1.0, gt=0, le=10)
    """Method reinforcement: temperature of the sampling. What is trained is the distribution at this temperature."""

    loss_normalisation: Literal["grpo", "dapo", "dr_grpo"] = "dapo"
    """Method reinforcement: how tokens are weighed. grpo: each answer the same (arXiv:2402.03300); dapo: each token of
    the step the same (arXiv:2503.14476); dr_grpo: by the longest answer allowed, and advantages are not divided by
    their group's deviation (arXiv:2503.20783)."""

    clip: float = Field(default=0.2, gt=0, lt=1)
    """Method reinforcement: how far a token's probability may move in a step, up or down, as a share of what it was
    when it was sampled; beyond, there is no gradient from its reward. Without effect where updates_per_step is 1."""

    updates_per_step: int = Field(default=1, ge=1, le=64)
    """Method reinforcement: optimizer updates on the answers of a step, which are together counted as one step."""

    kl_beta: float = Field(default=0.04, ge=0)
    """Method reinforcement: strength of the pull towards the model at the start, in nats of KL per unit of advantage.
    0: none (its KL is measured all the same). 0.04 is that of arXiv:2402.03300."""


class RunRequest(_Record):
    """The task of the worker."""

    version: Literal[1] = Field(default=1, alias="schema")
    model: str
    """Hub id, folder, or `tiny`."""

    revision: str | None = None
    method: Literal["sft", "dpo", "classification", "reinforcement"] = "sft"
    adapter: Literal["lora", "qlora", "dora", "full"] = "lora"
    files: RunFiles
    labels: tuple[str, ...] | None = None
    """Method classification: the label set; None: the sorted labels of the rows."""

    grader: dict[str, Any] | None = None
    """Method reinforcement: what scores the answers, by the fields of `llmtune.types.Grader`."""

    on_too_long: Literal["error", "truncate", "drop"] = "error"
    seed: int = 0
    hyperparameters: TrainingConfig
    options: WorkerOptions = WorkerOptions()
    name: str | None = None
    tags: dict[str, str] = {}
    samples: int | None = None
    """Validation rows that are answered at each evaluation, to look at; None: a few, as long as they cost little."""

    evaluated_rows: int | None = None
    """Rows that models are asked in the evaluation after the run, for the time left; nothing else depends on it."""


class Status(_Record):
    """The state of a worker. Times are Unix seconds."""

    state: WorkerState = "starting"
    step: int = 0
    total_steps: int | None = None
    epoch: float = 0.0
    pid: int | None = None
    started: str | None = None
    """Start time of the process, as `process.start_time` gives it."""

    host: str | None = None
    attempt: int = 1
    """Counts the workers that have run in this folder; a cursor into a file holds within one attempt."""

    attempts_before_resume: int = 0
    """Of `attempt`, those before a person resumed the run: they do not count against it."""

    heartbeat: float = 0.0
    """Last sign of life; every few seconds while the process runs."""

    moved: float = 0.0
    """When the training itself last did something. A device that hangs stops this, and not the heartbeat."""

    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    """Seconds to the end of the run: steps, validations, what is written, and the evaluation after it."""

    device: str | None = None
    dtype: str | None = None
    features: tuple[str, ...] = ()
    """What makes this run fast and is on: "packing", "selected logits", ..."""

    resolved: dict[str, Any] = {}
    """Values that were left to the worker: eval_every, checkpoint_every, max_sequence_length, ..."""

    message: str | None = None
    """What is going on, in one sentence."""

    waiting_for: str | None = None
    """What it waits for (room on the disk), in one sentence."""

    error: str | None = None
    """Why it failed, in one sentence."""

    error_code: str | None = None
    """data, model, device, memory, disk, damaged, diverged, request or internal."""

    @property
    def process(self) -> ProcessId | None:
        """Return the worker's process, where known."""
        if self.pid is None or self.started is None or self.host is None:
            return None
        return ProcessId(self.pid, self.started, self.host)


class MetricLine(_Record):
    """One measured value."""

    step: int
    series: str
    value: float
    epoch: float
    time: float


class SampleLine(_Record):
    """The answer to one validation row at one step; fields are those of `llmtune.provider.Sample`."""

    step: int
    number: int
    prompt: str
    expected: str = ""
    answer: str


class EventLine(_Record):
    """An event of the run. `id` is unique in the run."""

    id: str
    time: float
    level: Literal["info", "warning", "error"] = "info"
    message: str


class Verdict(_Record):
    """The state of a run as seen from outside: with the error, warnings, and one event to report."""

    state: WorkerState | Literal["cancelling"]
    error: str | None = None
    warnings: tuple[str, ...] = ()
    notice: EventLine | None = None


class EarlyStopping(_Record):
    """The outcome of early stopping. `best_step` is the one whose weights were kept."""

    stopped: bool
    best_step: int
    best_loss: float
    """Of the validation rows; in method reinforcement their mean reward, negative."""


class Result(_Record):
    """Final figures of a run. Losses are in nats per token."""

    train_loss: float | None = None
    """Mean over the last epoch's steps (or all, in a run shorter than one epoch); None in method reinforcement."""

    train_reward: float | None = None
    """Method reinforcement: mean reward of the answers of the last epoch's steps."""

    validation_loss: float | None = None
    validation_token_accuracy: float | None = None
    base_validation_loss: float | None = None
    """Before the first step."""

    steps: int
    epochs: float
    rows: int
    dropped_rows: int = 0
    truncated_rows: int = 0
    tokens: int
    """Tokens read over all steps."""

    trained_tokens: int
    """Completion tokens over all steps."""

    trainable_parameters: int
    total_parameters: int
    peak_memory_bytes: int
    seconds: float
    """Wall time from the worker's start to its end, earlier attempts counted up to their last checkpoint."""

    training_seconds: float
    """Wall time in steps, evaluations and loading left out."""

    early_stopping: EarlyStopping | None = None
    artefact: Literal["adapter", "model"] = "adapter"
    files: tuple[str, ...] = ()
    """Names of the files that make up the adapter or model, so that a missing one is noticed; () in older runs."""

    device: str
    dtype: str
    features: tuple[str, ...] = ()
    resolved: dict[str, Any] = {}
    versions: dict[str, str] = {}


class Cursor(_Record):
    """The position up to which a file was read."""

    attempt: int = 0
    offset: int = 0
