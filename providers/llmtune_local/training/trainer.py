"""The training loop. One optimizer step is: loss = sum(w * nll) / sum(w) over all its rows, then one update.

What happens at a step depends on the request and the step's number alone: rows, dropout and rate are functions of
them. That is why a run that was killed ends where an uninterrupted one ends.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from llmtune.errors import InvalidData, InvalidJob, LlmtuneError
from llmtune_local.batching import packing
from llmtune_local.batching.packing import Step
from llmtune_local.batching.sizes import token_budget
from llmtune_local.batching.token_rows import TokenRows, read_rows
from llmtune_local.models import loading as models
from llmtune_local.models.hardware import (
    check_device,
    give_memory_back,
    out_of_memory,
    peak_memory,
    set_threads,
    versions,
)
from llmtune_local.models.hub import check_model
from llmtune_local.models.model_runner import Network
from llmtune_local.models.peft_adapter import add_adapter
from llmtune_local.models.quantization import check_adapter
from llmtune_local.models.targets import zero_tensors
from llmtune_local.run_state.damage import DiskFull, is_full
from llmtune_local.run_state.schema import EarlyStopping, Result
from llmtune_local.training import checkpoints, distributed, lr_schedule
from llmtune_local.training.checkpoints import Progress
from llmtune_local.training.distributed import ALONE, TeamLost
from llmtune_local.training.optimizer import make_optimizer, set_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.schema import RunRequest
    from llmtune_local.run_state.status_writer import Journal


#: Steps after which memory that is no longer used goes back to the system: each time costs the next step a few percent.
_TIDY_EVERY = 4


#: Seconds for which a result waits for room on the disk, and between two tries.
ROOM_PATIENCE = 24 * 3600.0
ROOM_LOOK = 5.0

#: The clock and the pause of that wait, for tests that let no time pass.
clock = time.monotonic
pause = time.sleep


class Diverged(LlmtuneError):
    """The loss or its gradient is no longer a number."""


class Stopped(Exception):
    """The worker was asked to stop; a checkpoint has been written."""


class Trainer:
    """Runs one request in its folder. `stop` says whether the worker was asked to end after the step it is in."""

    def __init__(self, folder: RunDir, request: RunRequest, journal: Journal, stop: Callable[[], bool]) -> None:
        self.folder = folder
        self.request = request
        self.recipe = request.hyperparameters
        self.micro_batches = self.recipe.gradient_accumulation_steps
        self.journal = journal
        self.stop = stop
        self.began = time.monotonic()
        self.progress = Progress()
        self.team = ALONE
        self._best: dict[str, torch.Tensor] | None = None
        """The best step's weights, while the disk has no room for them."""

    def run(self, *, resume: bool = False) -> Result | None:
        """Train to the end; None in a process that does not lead its team. Raises `Stopped`, `TeamLost`, and
        `LlmtuneError` for everything a user can fix."""
        self.prepare()
        if resume:
            self.resume()
        self.journal.update(state="running", message="training")
        self.loop()
        self.team.leave()
        return self.finish() if self.team.leads else None

    # preparing

    def prepare(self) -> None:
        """Load rows and model, and settle what was left open."""
        options = self.request.options
        threads = set_threads(options)
        self.team = distributed.join(options, check_device(options.device))
        self.read()
        self._settle(threads)
        self.journal.update(message="loading the model")
        self._load(getattr(self.config, "dtype", None))

    def read(self) -> None:
        """Find device and precision, and load tokenizer and rows."""
        request, options = self.request, self.request.options
        self.device = check_device(options.device)
        check_adapter(request.adapter, self.device)
        if options.gradient_checkpointing and self.device == "cpu":
            give_memory_back(at_once=True)
        self.dtype = models.choose_dtype(options.dtype, self.device, request.model, request.revision)
        self.budget = options.token_budget or token_budget(self.device)
        self.journal.update(
            message="reading the rows", device=self.device, dtype=str(self.dtype).removeprefix("torch.")
        )
        self.config = config = check_model(request.model, request.revision, request.method)
        self.tokenizer = models.load_tokenizer(request.model, request.revision, options.chat_template)
        self.limit = models.context_length(config, self.tokenizer, self.recipe.max_sequence_length)
        if self.limit is not None and self.limit < 2:
            raise InvalidJob("max_sequence_length must be at least 2", where="hyperparameters.max_sequence_length")
        self.train = self._rows(request.files.train)
        self.validation = self._rows(request.files.validation) if request.files.validation else TokenRows()

    def read_ahead(self) -> None:
        """Read what a run of this request begins with, for workers that are forked from here (see `warm`)."""
        self.read()
        dtype = torch.float32 if self.request.adapter == "full" else self.dtype
        models.read_base(self.request.model, self.request.revision, dtype, self.config)

    def _rows(self, path: str) -> TokenRows:
        return self._checked(path, read_rows)

    def _checked(self, path: str, read: Callable[..., TokenRows]) -> TokenRows:
        rows = read(
            self.tokenizer,
            path,
            limit=self.limit,
            on_too_long=self.request.on_too_long,
            template_options=self.request.options.template_options,
            mask_empty_thinking=self.request.options.mask_empty_thinking,
        )
        self._report_long_rows(path, rows)
        return rows

    def _report_long_rows(self, path: str, rows: Any) -> None:
        """Say which rows were longer than the limit. Raises `InvalidData` where no row is left."""
        if not rows:
            raise InvalidData(f"{path}: every row is longer than {self.limit} tokens and was dropped")
        for count, verb in ((rows.dropped, "dropped"), (rows.truncated, "truncated")):
            if count:
                self.journal.event(f"{path}: {count} rows longer than {self.limit} tokens were {verb}", "warning")

    def _settle(self, threads: int) -> None:
        recipe = self.recipe
        if recipe.early_stopping_patience is not None and not self.validation:
            raise InvalidJob(
                "early stopping needs validation rows, and there are none",
                where="hyperparameters.early_stopping_patience",
            )
        self.per_epoch = packing.steps_per_epoch(len(self.train), recipe.batch_size)
        self.total = min(recipe.max_steps or sys.maxsize, recipe.epochs * self.per_epoch)
        self.warmup = lr_schedule.warmup_steps(self.total, recipe.warmup_ratio, recipe.warmup_steps)
        self.eval_every = recipe.eval_every or math.ceil(self.total / 10)
        self.checkpoint_every = recipe.checkpoint_every or self.per_epoch
        self.resolved: dict[str, Any] = {
            "total_steps": self.total,
            "warmup_steps": self.warmup,
            "max_sequence_length": self.limit,
            "checkpoint_every": self.checkpoint_every,
            "token_budget": self.budget,
            "num_threads": threads,
        }
        if self.validation:
            self.resolved["eval_every"] = self.eval_every
        if self.request.adapter != "full":
            self.resolved["lora_alpha"] = recipe.lora_alpha or 2.0 * recipe.lora_rank

    def _load(self, published: torch.dtype | None) -> None:
        request = self.request
        self.model = self._build()
        self.half = request.adapter == "full" and published in (torch.float16, torch.bfloat16)
        if request.options.gradient_checkpointing:
            base: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            # transformers renames it in version 6
            enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self.network: Any = self._wrap()
        self.optimizer = make_optimizer(self.model.named_parameters(), self.recipe)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.held_out = self._hold_out() if self.validation else []
        several = (f"{self.team.size} processes",) if self.team.size > 1 else ()
        self.features: tuple[str, ...] = (*self.network.features, *several)
        self.journal.update(features=self.features, resolved=self.resolved, total_steps=self.total)
        self.journal.event(
            f"training {sum(p.numel() for p in self.trained):,} parameters on {len(self.train):,} rows for"
            f" {self.total:,} steps on {self.device} ({'; '.join(self.features)})"
        )

    def _build(self) -> Any:
        """The model with what is trained."""
        request = self.request
        base = models.load_base(
            request.model,
            request.revision,
            dtype=torch.float32 if request.adapter == "full" else self.dtype,
            device=self.device,
            recipe=self.recipe,
            four_bit=request.adapter == "qlora",
        )
        torch.manual_seed(request.seed)
        return add_adapter(base, request, self.journal.event)

    def _wrap(self) -> Any:
        """The model as it is run."""
        rows = (piece for part in (self.train, self.validation) for pieces in part.rows for piece in pieces)
        longest = max(len(row.ids) for row in rows)
        return Network(self.model, device=self.device, dtype=self.dtype, pack=self.recipe.packing, longest=longest)

    def _hold_out(self) -> list[Any]:
        """The validation rows as micro-batches."""
        return packing.make_step(
            [row for rows in self.validation.rows for row in rows],
            prompt_weight=0.0,
            packed=self.network.packed,
            share=self.network.shares,
            token_budget=self.budget,
            pad=self.tokenizer.pad_token_id or 0,
        ).batches

    def resume(self) -> None:
        """Go on from the newest checkpoint, or from the start where there is none."""
        best = self.recipe.early_stopping_patience is not None
        problems: list[str] = []
        found = checkpoints.load(self.folder, self.model, self.optimizer, best=best, report=problems.append)
        if found is not None:
            self.progress = found
        if self.team.leads:
            self.folder.truncate_metrics(self.progress.step if found else -1)
        self.journal.update(step=self.progress.step, epoch=self.progress.step / self.per_epoch)
        for problem in problems:
            self.journal.event(problem, "warning")
        none = "no checkpoint is whole" if problems else "there is no checkpoint yet"
        where = f"step {self.progress.step}" if found else f"the beginning: {none}"
        self.journal.event(f"resumed from {where}")

    # training

    def loop(self) -> None:
        """Step by step until the end, an early stop, or a request to stop."""
        progress = self.progress
        if progress.step == 0 and self.held_out:
            self._evaluate()
        recent: deque[tuple[int, float]] = deque(maxlen=20)
        while progress.step < self.total and not progress.stopped_early:
            if self.team.agree(self.stop()):
                self._checkpoint()
                raise Stopped
            began = time.monotonic()
            values, step = self.step(progress.step)
            progress.step += 1
            progress.tokens += step.tokens
            progress.trained_tokens += step.completion_tokens
            seconds = time.monotonic() - began
            progress.training_seconds += seconds
            recent.append((step.tokens, seconds))
            self._tell(values, recent)
            if self.device == "cpu" and progress.step % _TIDY_EVERY == 0:
                give_memory_back()
            done = progress.step == self.total
            if self.held_out and (done or progress.step % self.eval_every == 0):
                self._evaluate()
            if progress.step % self.checkpoint_every == 0:
                self._checkpoint()

    def step(self, number: int) -> tuple[dict[str, float], Step]:
        """One optimizer step (counted from 0). Returns its points and what it was made of."""
        recipe = self.recipe
        rate = recipe.learning_rate * lr_schedule.lr_factor(
            recipe.lr_schedule,
            number,
            self.total,
            self.warmup,
            floor=recipe.min_lr_ratio,
            cycles=recipe.lr_num_cycles,
        )
        step, measured = self._gradient(number)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, recipe.max_grad_norm or math.inf)
        values = measured | {"train/learning_rate": rate, "train/grad_norm": float(norm)}
        if not all(math.isfinite(value) for value in values.values()):
            raise Diverged(
                f"the loss is no longer a number at step {number + 1} (learning rate {rate:g}): lower learning_rate,"
                " or set max_grad_norm or warmup_steps"
            )
        set_rates(self.optimizer, rate)
        self.optimizer.step()
        return values, step

    def _gradient(self, number: int) -> tuple[Step, dict[str, float]]:
        """The gradient of one step and its points, with smaller micro-batches where memory does not suffice."""
        indices = packing.rows_of_step(len(self.train), self.recipe.batch_size, self.request.seed, number)
        while True:
            step = self._cut(indices)
            problem: RuntimeError | None = None
            values: dict[str, float] = {}
            try:
                self.model.train()
                torch.manual_seed(self.request.seed * 1_000_003 + number + (self.team.rank << 40))
                self.optimizer.zero_grad(set_to_none=True)
                values = self._backward(step, self.team.share(step.batches))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                problem = error
            if not self.team.anyone(problem is not None):
                return step, self.team.add_up(self.trained, values)
            if not self._halve(step, max(len(row.ids) for index in indices for row in self.train.rows[index])):
                raise problem or TeamLost("another process is out of memory")
            del problem
            self.optimizer.zero_grad(set_to_none=True)
            if self.device == "cuda":
                torch.cuda.empty_cache()
            self.journal.update(resolved=self.resolved)
            how = (
                f"micro-batches of {self.budget} tokens"
                if self.micro_batches is None
                else f"{self.micro_batches} micro-batches a step"
            )
            self.journal.event(
                f"out of memory at step {number + 1}: going on with {how}, which changes speed and not the gradient:"
                f" a step is {self.recipe.batch_size} rows as before",
                "warning",
            )

    def _halve(self, step: Step, longest: int) -> bool:
        """Make micro-batches half as large from now on; False where each is a single row already."""
        if self.micro_batches is not None:
            if len(step.batches) < self.micro_batches:  # there were no more rows to spread
                return False
            self.micro_batches *= 2
            self.resolved["gradient_accumulation_steps"] = self.micro_batches
            return True
        if longest >= self.budget:
            return False
        self.budget //= 2
        self.resolved["token_budget"] = self.budget
        return True

    def _cut(self, indices: Sequence[int]) -> Any:
        """The micro-batches of these rows; in a team as many as make shares alike, where there are rows for it."""
        step = self._cut_into(indices, self.micro_batches)
        short = -len(step.batches) % self.team.size
        return self._cut_into(indices, len(step.batches) + short) if short else step

    def _cut_into(self, indices: Sequence[int], micro_batches: int | None) -> Any:
        return packing.make_step(
            [piece for index in indices for piece in self.train.rows[index]],
            prompt_weight=self.recipe.prompt_loss_weight,
            packed=self.network.packed,
            share=self.network.shares,
            ahead=self.network.begins,
            token_budget=self.budget,
            micro_batches=micro_batches,
            pad=self.tokenizer.pad_token_id or 0,
        )

    def _backward(self, step: Any, batches: Sequence[Any]) -> dict[str, float]:
        """Add up the gradient of these of the step's micro-batches; what was measured on the way, as shares of the
        whole step: those of all its micro-batches add up to the step's own."""
        objective = torch.zeros((), device=self.device)
        nll = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for batch, beginning in self.network.in_turn(batches):
            self.journal.update()
            sums = self.network.losses(batch, smoothing=self.recipe.label_smoothing, beginning=beginning)
            share: Any = sums.objective / step.weight
            share.backward()
            objective += sums.objective.detach()
            nll += sums.nll
            correct += sums.correct
        return {
            "train/loss": float(objective) / step.weight,
            "train/token_accuracy": int(correct) / max(1, step.completion_tokens),
        }

    def _evaluate(self) -> None:
        """Measure on the validation rows, dropout off, and tell."""
        if self.team.leads:
            self._look()
        self.progress.stopped_early = self.team.agree(self.progress.stopped_early)

    def _look(self) -> None:
        progress = self.progress
        self.model.eval()
        with torch.no_grad():
            values = self._measure()
        loss = values["validation/loss"]
        if not math.isfinite(loss):
            raise Diverged(f"the validation loss is no longer a number at step {progress.step}: lower learning_rate")
        progress.validation_loss, progress.validation_accuracy = loss, values.get("validation/token_accuracy")
        if progress.step == 0:
            progress.base_loss = loss
        self.journal.points(progress.step, progress.step / self.per_epoch, values)
        if self.recipe.early_stopping_patience is not None:
            self._judge(loss, self.recipe.early_stopping_patience)

    def _measure(self) -> dict[str, float]:
        """Loss and accuracy on the completion tokens of the validation rows."""
        nll, correct, tokens = 0.0, 0, 0
        for batch in self.held_out:
            self.journal.update()
            sums = self.network.losses(batch.to(self.device))
            nll += float(sums.nll)
            correct += int(sums.correct)
            tokens += int(sums.tokens)
        return {"validation/loss": nll / tokens, "validation/token_accuracy": correct / tokens}

    def _judge(self, loss: float, patience: int) -> None:
        progress = self.progress
        if progress.best_loss is None or loss < progress.best_loss - self.recipe.early_stopping_threshold:
            progress.best_loss, progress.best_accuracy = loss, progress.validation_accuracy
            progress.best_step, progress.without_improvement = progress.step, 0
            self._best = checkpoints.trained_weights(self.model)
            try:
                self._write_best()
            except DiskFull as problem:
                self.journal.event(f"the best step's weights are kept in memory for now: {problem}", "warning")
            return
        progress.without_improvement += 1
        if progress.without_improvement >= patience:
            progress.stopped_early = True
            self.journal.event(
                f"stopped early at step {progress.step}: no evaluation has been better than step {progress.best_step}'s"
                f" {progress.best_loss:.4f} for {patience} evaluations"
            )

    def _write_best(self) -> None:
        """Write the best step's weights, unless they are on the disk already. Raises `DiskFull`."""
        if self._best is None:
            return
        weights, best = self._best, self.folder.path / "checkpoints" / "best"
        needs = models.artefact_bytes(self.model)
        checkpoints.write_folder(best, lambda path: torch.save(weights, path / "weights.pt"), needs=needs)
        self._best = None

    def _tell(self, values: dict[str, float], recent: deque[tuple[int, float]]) -> None:
        progress = self.progress
        seconds = sum(spent for _, spent in recent)
        speed = sum(tokens for tokens, _ in recent) / seconds
        left = (self.total - progress.step) * seconds / len(recent)
        epoch = progress.step / self.per_epoch
        self.journal.points(progress.step, epoch, values | {"train/tokens_per_second": speed})
        self.journal.update(step=progress.step, epoch=epoch, tokens_per_second=speed, eta_seconds=left)

    def _checkpoint(self) -> None:
        if self.progress.step == 0 or not self.team.leads:
            return
        self.progress.seconds += time.monotonic() - self.began
        self.began = time.monotonic()
        try:
            self._write_best()  # a checkpoint whose best step is not on the disk could not be gone on from
            checkpoints.save(
                self.folder,
                self.model,
                self.tokenizer,
                self.optimizer,
                self.progress,
                keep=self.recipe.keep_checkpoints,
            )
        except DiskFull as problem:
            self.journal.event(f"the checkpoint of step {self.progress.step} is left out: {problem}", "warning")

    def _write_with_patience(self, write: Callable[[], object]) -> None:
        """Write a part of the result; on a full disk wait for room, since what was learned is nowhere else.

        Checkpoints make room first, all but the newest. Raises `DiskFull` after `ROOM_PATIENCE`, `Stopped`.
        """
        began = clock()
        while True:
            try:
                write()
                break
            except Exception as problem:
                if not is_full(problem):
                    raise
                full = problem if isinstance(problem, DiskFull) else DiskFull(f"{self.folder.path}: {problem}")
            for path in list(self.folder.checkpoints().values())[:-1]:
                shutil.rmtree(path, ignore_errors=True)
            if self.stop():
                raise Stopped from full
            if clock() - began >= ROOM_PATIENCE:
                raise full
            self.journal.update(waiting_for=full.message)
            pause(ROOM_LOOK)
        if self.journal.status.waiting_for is not None:
            self.journal.update(waiting_for=None)
            self.journal.event("there is room on the disk again")

    # finishing

    def finish(self) -> Result:
        """Write the result: the best weights with early stopping, else the last."""
        progress, patience = self.progress, self.recipe.early_stopping_patience
        self.journal.update(state="finalizing", message="writing the result", eta_seconds=None)
        if patience is not None:
            best = self.folder.path / "checkpoints" / "best" / "weights.pt"
            weights = self._best or torch.load(best, map_location="cpu", weights_only=True)
            checkpoints.restore_weights(self.model, weights)
        whole = not hasattr(self.model, "peft_config")
        if zero := zero_tensors(self.model):
            self.journal.event(
                f"{len(zero)} of the adapter's matrices are still zero, so the layers behind them learned nothing"
                f" (the first is {zero[0]}): leave these layers out of lora_target_modules",
                "warning",
            )
        target = self.folder.model if whole else self.folder.adapter
        needs = models.artefact_bytes(self.model)
        self._write_with_patience(lambda: checkpoints.write_folder(target, self._save, needs=needs))
        progress.seconds += time.monotonic() - self.began
        losses = [line.value for line in self.folder.read_metrics()[0] if line.series == "train/loss"]
        last = losses[-min(self.per_epoch, len(losses)) :]
        result = Result(
            train_loss=sum(last) / len(last),
            validation_loss=progress.best_loss if patience is not None else progress.validation_loss,
            validation_token_accuracy=progress.best_accuracy if patience is not None else progress.validation_accuracy,
            base_validation_loss=progress.base_loss,
            steps=progress.step,
            epochs=progress.step / self.per_epoch,
            rows=len(self.train),
            dropped_rows=self.train.dropped,
            truncated_rows=self.train.truncated,
            tokens=progress.tokens,
            trained_tokens=progress.trained_tokens,
            trainable_parameters=sum(parameter.numel() for parameter in self.trained),
            total_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            peak_memory_bytes=peak_memory(self.device),
            seconds=progress.seconds,
            training_seconds=progress.training_seconds,
            early_stopping=EarlyStopping(
                stopped=progress.stopped_early, best_step=progress.best_step, best_loss=progress.best_loss or math.nan
            )
            if patience is not None
            else None,
            artefact="model" if whole else "adapter",
            device=self.device,
            dtype=str(self.dtype).removeprefix("torch."),
            features=self.features,
            resolved=self.resolved,
            versions=versions(),
        )
        self._write_with_patience(lambda: self.folder.write_result(result))
        return result

    def _save(self, path: Path) -> None:
        models.save_artefact(self.model, self.tokenizer, path, half=self.half)

    def tidy(self) -> None:
        """Remove what only an unfinished run needs; to be called when the run is known to have succeeded."""
        shutil.rmtree(self.folder.path / "checkpoints" / "best", ignore_errors=True)
