"""The run folder: the whole conversation between a worker process and everybody else. Imports nothing heavy.

request.json     what to do; written once, before the worker starts
status.json      where the worker is; replaced atomically, so a reader always sees a whole one
metrics.jsonl    one point a line, whole lines only; each (step, series) once, also after a resume
events.jsonl     what happened, in sentences
worker.log       everything else, tracebacks included
checkpoints/     step-N/: adapter (or model), optimizer and position; renamed into place when complete
adapter/         the result in PEFT's layout (adapter full: model/, a whole model)
logits/          method classification: logits of the validation rows, and of every text asked later
reference.npy    method dpo without a fresh adapter: the reference's likelihoods
result.json      final figures
cancel           marker: the worker stops after the step it is in
lock             which process is at work here
launched         the worker processes that were started, a line each
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmtune_local.worker.process import ProcessId, alive

WorkerState = Literal["starting", "running", "finalizing", "succeeded", "failed", "cancelled"]
FINAL: frozenset[str] = frozenset(("succeeded", "failed", "cancelled"))

#: A status file fills one block of the disk, so that it can still be rewritten in place when the disk is full.
_STATUS_BYTES = 4096


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


class Recipe(_Record):
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
    max_sequence_length: int | None = None
    """None: the model's context."""

    packing: bool = True
    early_stopping_patience: int | None = None
    """None: no early stopping."""

    early_stopping_threshold: float = 0.0
    eval_every: int | None = None
    """None: ten times over the run."""

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
    """auto: cuda, else mps, else cpu."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA devices and, for models of 20 million parameters or more, on CPUs that multiply in it;
    float32 elsewhere. The trained weights are always float32."""

    launcher: Literal["worker", "torchrun", "ray"] | None = None
    """What starts the processes: worker (one), torchrun (several on this machine), ray (on a cluster). None: worker for
    one process, torchrun for several."""

    processes: int = Field(default=1, ge=1)
    """Processes that share each step's rows, one a GPU, or on CPU with the cores divided among them."""

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
    """A Jinja chat template instead of the model's own."""

    template_options: dict[str, Any] = {}
    """Variables for the chat template (`enable_thinking`), the same for training and answering."""

    rslora: bool = False
    """Scale the adapter by alpha / sqrt(rank) instead of alpha / rank (arXiv:2312.03732)."""

    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Method classification: weight of each label's rows in the loss; a label left out weighs 1."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Method classification with several labels a row: a label is answered from this probability on."""


class RunRequest(_Record):
    """What the worker has to do."""

    version: Literal[1] = Field(default=1, alias="schema")
    model: str
    """Hub id, folder, or `tiny`."""

    revision: str | None = None
    method: Literal["sft", "dpo", "classification"] = "sft"
    adapter: Literal["lora", "qlora", "dora", "full"] = "lora"
    files: RunFiles
    labels: tuple[str, ...] | None = None
    """Method classification: the label set; None: the sorted labels of the rows."""

    on_too_long: Literal["error", "truncate", "drop"] = "error"
    seed: int = 0
    hyperparameters: Recipe
    options: WorkerOptions = WorkerOptions()
    name: str | None = None
    tags: dict[str, str] = {}


class Status(_Record):
    """Where a worker is. Times are Unix seconds."""

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

    heartbeat: float = 0.0
    """Last sign of life; every few seconds while the process runs."""

    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    device: str | None = None
    dtype: str | None = None
    features: tuple[str, ...] = ()
    """What makes this run fast and is on: "packing", "selected logits", ..."""

    resolved: dict[str, Any] = {}
    """Values that were left to the worker: eval_every, checkpoint_every, max_sequence_length, ..."""

    message: str | None = None
    """What is going on, in one sentence."""

    error: str | None = None
    """Why it failed, in one sentence."""

    error_code: str | None = None
    """data, model, device, memory, disk, diverged, request or internal."""

    @property
    def process(self) -> ProcessId | None:
        """The worker's process, where known."""
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


class EventLine(_Record):
    """Something that happened. `id` is unique in the run."""

    id: str
    time: float
    level: Literal["info", "warning", "error"] = "info"
    message: str


class EarlyStopping(_Record):
    """How early stopping went. `best_step` is the one whose weights were kept."""

    stopped: bool
    best_step: int
    best_loss: float


class Result(_Record):
    """Final figures of a run. Losses are in nats per token."""

    train_loss: float
    """Mean over the last epoch's steps (or all, in a run shorter than one epoch)."""

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
    device: str
    dtype: str
    features: tuple[str, ...] = ()
    resolved: dict[str, Any] = {}
    versions: dict[str, str] = {}


class Cursor(_Record):
    """How far a file was read."""

    attempt: int = 0
    offset: int = 0


class RunDir:
    """A run folder. Safe to read from any process at any time; only the worker writes, apart from the request."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def artefact(self) -> Path:
        """The folder of the result: `model` where there is one (method full), else `adapter`."""
        return self.model if self.model.exists() else self.adapter

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    # the asking side

    def write_request(self, request: RunRequest) -> None:
        """Make the folder and write the request; the worker can be started then."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "request.json", request.model_dump_json(indent=2, by_alias=True))

    def read_request(self) -> RunRequest:
        """Raises FileNotFoundError, or pydantic's ValidationError."""
        return RunRequest.model_validate_json((self.path / "request.json").read_bytes())

    def read_status(self) -> Status | None:
        """The worker's last word; None before its first."""
        try:
            return Status.model_validate_json((self.path / "status.json").read_bytes().rstrip())
        except FileNotFoundError:
            return None

    def read_result(self) -> Result | None:
        """The final figures; None before the end."""
        try:
            return Result.model_validate_json((self.path / "result.json").read_bytes())
        except FileNotFoundError:
            return None

    def read_metrics(self, since: Cursor | None = None) -> tuple[list[MetricLine], Cursor]:
        """Points behind the cursor, and the next cursor. After a resume all points come again, none is missed."""
        lines, cursor = self._lines(self.metrics, since)
        return [MetricLine.model_validate_json(line) for line in lines], cursor

    def read_events(self, since: Cursor | None = None) -> tuple[list[EventLine], Cursor]:
        """Events behind the cursor, and the next cursor."""
        lines, cursor = self._lines(self.events, since)
        return [EventLine.model_validate_json(line) for line in lines], cursor

    def _lines(self, path: Path, since: Cursor | None) -> tuple[list[bytes], Cursor]:
        # The status is read first: an attempt seen too early costs a repeated reading, never a missed line.
        status = self.read_status()
        attempt = status.attempt if status else 0
        offset = since.offset if since is not None and since.attempt == attempt else 0
        try:
            with path.open("rb") as file:
                # A worker that resumes cuts the file back to its checkpoint, perhaps after its new attempt was seen:
                # an offset from before then lies behind the end or inside a line, and all is read again.
                if offset:
                    file.seek(offset - 1)
                    offset = offset if file.read(1) == b"\n" else 0
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return [], Cursor(attempt=attempt, offset=0)
        whole = data[: data.rfind(b"\n") + 1]
        return whole.splitlines(), Cursor(attempt=attempt, offset=offset + len(whole))

    def alive(self) -> bool | None:
        """Whether the worker's process runs; None when it is on another machine. False before its first word."""
        status = self.read_status()
        if status is None or status.process is None:
            return False
        return alive(status.process)

    def last_words(self) -> str:
        """The last line of the worker's log."""
        try:
            lines = (self.path / "worker.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return next((line for line in reversed(lines) if line.strip()), "it left no word")

    def cancel(self) -> None:
        """Ask the worker to stop after the step it is in."""
        (self.path / "cancel").touch()

    def uncancel(self) -> None:
        """Take the request to stop back, so that a cancelled run can be resumed."""
        (self.path / "cancel").unlink(missing_ok=True)

    @property
    def cancelling(self) -> bool:
        """Whether the worker was asked to stop."""
        return (self.path / "cancel").exists()

    def checkpoints(self) -> dict[int, Path]:
        """Complete checkpoints by step, oldest first."""
        found = {}
        folder = self.path / "checkpoints"
        for path in folder.iterdir() if folder.is_dir() else ():
            if match := re.fullmatch(r"step-(\d+)", path.name):
                found[int(match.group(1))] = path
        return dict(sorted(found.items()))

    # the worker's side

    def write_status(self, status: Status) -> None:
        """Replace the status. On a full disk the old file is overwritten in place, which needs no new block."""
        data = status.model_dump_json().encode().ljust(_STATUS_BYTES) + b"\n"
        path = self.path / "status.json"
        try:
            write_atomically(path, data)
        except OSError:
            with path.open("r+b") as file:
                file.write(data)
                file.truncate()

    def write_result(self, result: Result) -> None:
        write_atomically(self.path / "result.json", result.model_dump_json(indent=2))

    def append_metrics(self, points: list[MetricLine]) -> None:
        """Append points as whole lines, in one write."""
        _append(self.metrics, "".join(point.model_dump_json() + "\n" for point in points))

    def append_event(self, event: EventLine) -> None:
        """Append one event as a whole line."""
        _append(self.events, event.model_dump_json() + "\n")

    def truncate_metrics(self, step: int) -> None:
        """Forget the points after `step` and a half-written last line, before a resume writes them again."""
        try:
            lines = self.metrics.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        write_atomically(self.metrics, b"".join(line + b"\n" for line in kept))


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file under another name, then rename it into place: readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def now() -> float:
    """Unix seconds."""
    return time.time()


def _append(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        data = text.encode()
        written = os.write(descriptor, data)
        if written < len(data):  # a nearly full disk takes a part: no half line may stay
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(28, "No space left on device", str(path))
    finally:
        os.close(descriptor)
