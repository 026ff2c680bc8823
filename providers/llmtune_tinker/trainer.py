"""The loop of a run whose passes a service runs: rows, order, rates, validation, stopping and checkpoints are ours.

One step is: loss = sum(w * nll) / sum(w) over all its rows, then one update, as in `llmtune_local.training.trainer`,
whose parts do the work here too. What happens at a step depends on the request and the step's number alone. A run that
was killed, wherever, opens the last saved state and takes the steps after it again: they are the same ones, and the
model that results has had each of them once.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune.errors import InvalidData, InvalidJob, LlmtuneError
from llmtune_local.batching import step_order
from llmtune_local.batching.token_rows import RowSettings, TokenRow, TokenRows, read_pairs, read_rows
from llmtune_local.models.loading import load_tokenizer
from llmtune_local.run_state.run_dir import write_atomically
from llmtune_local.training import lr_schedule
from llmtune_local.training.progress import Diverged, Progress, Stopped
from llmtune_local.training.time_left import Ahead, TimeLeft
from llmtune_local.training.validation_plan import TrainingWork, choose_rows, plan_validation
from llmtune_tinker.loop import AdamSettings, LoopRow, Outcome, PassResult, Pending, TrainingLoop, count_tokens
from llmtune_tinker.run_folder import Checkpoint, LoopResult

if TYPE_CHECKING:
    from llmtune_local.run_state.status_writer import StatusWriter
    from llmtune_tinker.run_folder import LoopFolder, LoopRequest

#: Sequences of a validation pass, which are sent at once.
VALIDATED_AT_ONCE = 128


def make_loop_row(row: TokenRow, *, prompt_weight: float, scale: float = 1.0) -> LoopRow:
    """Return a sequence with the weight of each next token, times `scale`.

    Tokens after the last trained one are left out: nothing depends on them, and they would be billed.
    """
    weights = row.weight * np.where(row.completion[1:], 1.0, prompt_weight) * scale
    stop = int(np.flatnonzero(weights)[-1]) + 1
    return LoopRow(
        inputs=row.ids[:stop].astype(np.int64),
        targets=row.ids[1 : stop + 1].astype(np.int64),
        weights=weights[:stop].astype(np.float32),
    )


def read_run_rows(request: LoopRequest, tokenizer: Any, path: str, limit: int | None) -> TokenRows:
    """Read a dataset file as tokens, as the worker trains on them. Raises `InvalidData`."""
    return read_rows(tokenizer, path, **_row_settings(request, limit))


def read_run_pairs(request: LoopRequest, tokenizer: Any, path: str, limit: int | None) -> TokenRows:
    """Read a file of preference rows as tokens, two sequences a row. Raises `InvalidData`."""
    return read_pairs(tokenizer, path, **_row_settings(request, limit))


def _row_settings(request: LoopRequest, limit: int | None) -> RowSettings:
    options = request.options
    return {
        "limit": limit,
        "on_too_long": request.on_too_long,
        "template_options": options.template_options,
        "mask_empty_thinking": options.mask_empty_thinking,
    }


def load_run_tokenizer(request: LoopRequest) -> Any:
    """Load the tokenizer of a run. Raises `InvalidJob`."""
    name = request.tokenizer or request.model
    try:
        return load_tokenizer(name, None, request.options.chat_template)
    except InvalidJob as problem:
        raise InvalidJob(
            f"{problem.message.partition(': ')[2] or problem.message}",
            where="tokenizer",
            hint="set provider_options.tinker.tokenizer to a folder or a hub id that this machine can read",
        ) from problem


def count_training_tokens(request: LoopRequest, rows: TokenRows) -> int:
    """Count the tokens that all steps of a run send, by its own order of rows."""
    recipe = request.hyperparameters
    steps = step_order.steps_per_epoch(len(rows), recipe.batch_size)
    total = min(recipe.max_steps or sys.maxsize, recipe.epochs * steps)
    weight = recipe.prompt_loss_weight
    row_tokens = [sum(len(make_loop_row(piece, prompt_weight=weight).inputs) for piece in row) for row in rows.rows]
    whole, rest = divmod(total, steps)
    remaining = (
        row_tokens[index]
        for step in range(whole * steps, whole * steps + rest)
        for index in step_order.rows_of_step(len(rows), recipe.batch_size, request.seed, step)
    )
    return whole * sum(row_tokens) + sum(remaining)


class LoopTrainer:
    """The trainer of one run in its folder. `stop` says whether the worker was asked to end after its current step.

    It trains on answers; a method with another loss overrides how rows are read, sent and measured.
    """

    def __init__(
        self,
        folder: LoopFolder,
        request: LoopRequest,
        status_writer: StatusWriter,
        stop: Callable[[], bool],
        loop: TrainingLoop,
    ) -> None:
        self.folder, self.request, self.status_writer, self.stop, self.loop = folder, request, status_writer, stop, loop
        self.recipe = request.hyperparameters
        self.progress = Progress()
        self.best: str | None = None
        self.began = time.monotonic()

    def run(self, *, resume: bool = False) -> LoopResult:
        """Train to the end. Raises `Stopped`, and `LlmtuneError` for what a user can fix.

        However it ends, the session is ended with it.
        """
        self.read()
        self.resolve_settings()
        state = self.restore() if resume else None
        try:
            self.status_writer.update(message="opening the model at the service")
            self.open_model(state)
            self.status_writer.update(state="running", message="training")
            self.fit()
            result = self.finish()
        except Stopped:
            self._close("interrupted", "stopped by the user")
            raise
        except BaseException as problem:
            self._close("errored", str(problem).partition("\n")[0])
            raise
        self._close("success", "the run is complete")
        return result

    def _close(self, outcome: Outcome, detail: str) -> None:
        """End the session. Where that fails the run has ended all the same: its outcome stays what it was."""
        try:
            self.loop.close(outcome, detail)
        except LlmtuneError as unreachable:
            self.status_writer.event(f"the session could not be ended: {unreachable.message}", "warning")

    # --- setup -------------------------------------------------------------------------------------------------------
    def read(self) -> None:
        """Load tokenizer and rows."""
        self.status_writer.update(message="reading the rows")
        self.tokenizer = load_run_tokenizer(self.request)
        limits = (self.recipe.max_sequence_length, self.loop.limits.max_row_tokens)
        self.limit = min((limit for limit in limits if limit is not None), default=None)
        self.train = self._read(self.request.files.train)
        validation = self.request.files.validation
        self.validation = self._read(validation) if validation else TokenRows()

    def _read(self, path: str) -> TokenRows:
        rows = self.read_file(path)
        if not rows:
            raise InvalidData(f"{path}: every row is longer than {self.limit} tokens and was dropped")
        for count, verb in ((rows.dropped, "dropped"), (rows.truncated, "truncated")):
            if count:
                self.status_writer.event(f"{path}: {count} rows longer than {self.limit} tokens were {verb}", "warning")
        return rows

    def read_file(self, path: str) -> TokenRows:
        """Read a dataset file as the rows that are trained on. Raises `InvalidData`."""
        return read_run_rows(self.request, self.tokenizer, path, self.limit)

    def open_model(self, state: str | None) -> None:
        """Open the model at the service, from the state of the last checkpoint where there is one."""
        self.loop.open(state, self.progress.step)

    def resolve_settings(self) -> None:
        """Decide what the job leaves open: steps, warm-up, validation and checkpoints."""
        recipe = self.recipe
        if recipe.early_stopping_patience is not None and not self.validation:
            raise InvalidJob(
                "early stopping needs validation rows, and there are none",
                where="hyperparameters.early_stopping_patience",
            )
        self.per_epoch = step_order.steps_per_epoch(len(self.train), recipe.batch_size)
        self.total = min(recipe.max_steps or sys.maxsize, recipe.epochs * self.per_epoch)
        self.warmup = lr_schedule.warmup_steps(self.total, recipe.warmup_ratio, recipe.warmup_steps)
        self.eval_every = recipe.eval_every or self.total
        if recipe.eval_every is None and self.validation:
            self._plan_validation()
        self.checkpoint_every = recipe.checkpoint_every or self.per_epoch
        self.training_tokens = count_training_tokens(self.request, self.train)
        resolved: dict[str, Any] = {
            "total_steps": self.total,
            "warmup_steps": self.warmup,
            "checkpoint_every": self.checkpoint_every,
            "max_sequence_length": self.limit,
            "training_tokens": self.training_tokens,
        }
        if self.validation:
            resolved |= {"eval_every": self.eval_every, "validation_rows": len(self.validation)}
        self.resolved = resolved
        self.time_left = TimeLeft(
            step_rows=min(recipe.batch_size, len(self.train)),
            validation_rows=len(self.validation),
            method=self.request.method,
        )
        self.status_writer.update(total_steps=self.total, resolved=resolved)

    def _plan_validation(self) -> None:
        work = TrainingWork(
            steps=self.total,
            steps_per_epoch=self.per_epoch,
            tokens_per_epoch=self.train.tokens,
            patience=self.recipe.early_stopping_patience,
        )
        plan = plan_validation(work, self.validation.row_tokens())
        self.eval_every = plan.eval_every
        if plan.rows < len(self.validation):
            self.status_writer.event(
                f"validating on {plan.rows:,} of {len(self.validation):,} validation rows, the same ones each time;"
                " eval_every asks for all"
            )
            self.validation = self.validation.select(choose_rows(self.validation.rows, plan.rows))

    def restore(self) -> str | None:
        """Take over the counters of the newest state; return its address, None where there is none."""
        early = self.recipe.early_stopping_patience is not None
        step = max(self.folder.usable_checkpoints(best=early), default=0)
        checkpoint = self.folder.read_checkpoint(step) if step else None
        if checkpoint is not None:
            self.progress, self.best = Progress(**checkpoint.progress), checkpoint.best
        self.folder.truncate_metrics(self.progress.step if checkpoint else -1)
        self.status_writer.update(step=self.progress.step, epoch=self.progress.step / self.per_epoch)
        where = f"the state after step {self.progress.step}" if checkpoint else "the beginning: no state was saved yet"
        self.status_writer.event(f"resumed from {where}")
        return checkpoint.address if checkpoint else None

    # --- fit ---------------------------------------------------------------------------------------------------------
    def fit(self) -> None:
        """Train step by step until the end, an early stop, or a request to stop."""
        progress = self.progress
        if progress.step == 0 and self.validation:
            self.validate()
        while progress.step < self.total and not progress.stopped_early:
            if self.stop():
                if progress.step not in self.folder.checkpoints():
                    self.save_checkpoint()
                raise Stopped
            began = time.monotonic()
            values, tokens = self.step(progress.step + 1)
            progress.step += 1
            progress.tokens += tokens
            seconds = time.monotonic() - began
            progress.training_seconds += seconds
            self.time_left.steps.append((tokens, seconds))
            self._log_step(values)
            if self.validation and (progress.step == self.total or progress.step % self.eval_every == 0):
                self.validate()
            if progress.step % self.checkpoint_every == 0 or progress.step == self.total or progress.stopped_early:
                self.save_checkpoint()

    def step(self, number: int) -> tuple[dict[str, float], int]:
        """Take one step (counted from 1): send gradient and update, then wait for both; return points and tokens."""
        recipe = self.recipe
        indices = step_order.rows_of_step(len(self.train), recipe.batch_size, self.request.seed, number - 1)
        pieces = [piece for index in indices for piece in self.train.rows[index]]
        rate = self.learning_rate(number)
        settings = AdamSettings(
            learning_rate=rate,
            beta1=recipe.adam_beta1,
            beta2=recipe.adam_beta2,
            epsilon=recipe.adam_epsilon,
            weight_decay=recipe.weight_decay,
            grad_clip_norm=recipe.max_grad_norm,
        )
        gradient, rows = self.send_gradient(number, indices, pieces)
        update = self.loop.optimizer_step(number, settings)
        values = self.describe_gradient(gradient.result()) | {"train/learning_rate": rate}
        norm = update.result().grad_norm
        if norm is not None:
            values["train/grad_norm"] = norm
        if not all(math.isfinite(value) for value in values.values()):
            raise Diverged(
                f"the loss is no longer a number at step {number} (learning rate {rate:g}): lower learning_rate, or set"
                " max_grad_norm or warmup_steps"
            )
        self.progress.trained_tokens += sum(int(piece.completion[1:].sum()) for piece in pieces)
        return values, count_tokens(rows)

    def send_gradient(
        self, number: int, indices: Sequence[int], pieces: Sequence[TokenRow]
    ) -> tuple[Pending[PassResult], list[LoopRow]]:
        """Send the rows `indices` of a step, whose sequences are `pieces`; return their answer and what was sent."""
        prompt_weight = self.recipe.prompt_loss_weight
        weight = sum(piece.total_weight(prompt_weight) for piece in pieces)
        rows = [make_loop_row(piece, prompt_weight=prompt_weight, scale=1.0 / weight) for piece in pieces]
        return self.loop.forward_backward(number, rows), rows

    def describe_gradient(self, answer: PassResult) -> dict[str, float]:
        """Return the points of a step from the answer to its rows."""
        return {"train/loss": answer.loss_sum}

    def learning_rate(self, number: int) -> float:
        """Return the rate of a step (counted from 1)."""
        recipe = self.recipe
        return recipe.learning_rate * lr_schedule.lr_factor(
            recipe.lr_schedule,
            number - 1,
            self.total,
            self.warmup,
            floor=recipe.min_lr_ratio,
            cycles=recipe.lr_num_cycles,
        )

    def _log_step(self, values: dict[str, float]) -> None:
        progress, speed = self.progress, self.time_left.tokens_per_second
        epoch = progress.step / self.per_epoch
        self.status_writer.points(progress.step, epoch, values | {"train/tokens_per_second": speed})
        self.status_writer.update(
            step=progress.step, epoch=epoch, tokens_per_second=speed, eta_seconds=self._seconds_left()
        )

    def _seconds_left(self) -> float | None:
        step, total = self.progress.step, self.total
        validations = math.ceil(total / self.eval_every) - step // self.eval_every if self.validation else 0
        ahead = Ahead(
            steps=total - step,
            validations=max(0, validations),
            checkpoints=total // self.checkpoint_every - step // self.checkpoint_every,
            answers=self.request.evaluated_rows or 0,
        )
        return self.time_left.seconds(ahead)

    # --- validation --------------------------------------------------------------------------------------------------
    def validate(self) -> None:
        """Measure the validation rows without a gradient, and check for early stopping."""
        progress, began = self.progress, time.monotonic()
        values = self.measure()
        loss = values["validation/loss"]
        if not math.isfinite(loss):
            raise Diverged(f"the validation loss is no longer a number at step {progress.step}: lower learning_rate")
        self.time_left.validation = time.monotonic() - began
        progress.validation_loss = loss
        if progress.step == 0:
            progress.base_loss = loss
        self.status_writer.points(progress.step, progress.step / self.per_epoch, values)
        patience = self.recipe.early_stopping_patience
        if patience is None:
            return
        is_best = progress.record_validation(
            loss,
            values.get("validation/reward_accuracy"),
            threshold=self.recipe.early_stopping_threshold,
            patience=patience,
            any_rise=self.recipe.eval_every is None,
            total=self.total,
        )
        if is_best and progress.step:
            before, self.best = self.best, self.loop.save(f"best-{progress.step}")
            # the state of the last checkpoint is what a resume would open: only what no checkpoint names is removed
            if before is not None and not self._is_named(before):
                self._delete(before)

    def measure(self) -> dict[str, float]:
        """Return the validation figures of the model as it is."""
        loss_sum, tokens = 0.0, 0
        pieces = [piece for row in self.validation.rows for piece in row]
        for start in range(0, len(pieces), VALIDATED_AT_ONCE):
            self.status_writer.update()
            part = pieces[start : start + VALIDATED_AT_ONCE]
            loss_sum += self.loop.forward([make_loop_row(piece, prompt_weight=0.0) for piece in part]).loss_sum
            tokens += sum(int(piece.completion[1:].sum()) for piece in part)
        return {"validation/loss": loss_sum / tokens}

    def _is_named(self, address: str) -> bool:
        checkpoints = (self.folder.read_checkpoint(step) for step in self.folder.checkpoints())
        return any(address in (entry.address, entry.best) for entry in checkpoints if entry is not None)

    # --- checkpoints -------------------------------------------------------------------------------------------------
    def save_checkpoint(self) -> None:
        """Save the state after this step at the service, then its address here; remove all but the newest."""
        progress = self.progress
        if progress.step == 0:
            return
        progress.seconds += time.monotonic() - self.began
        self.began = time.monotonic()
        address = self.loop.save(f"step-{progress.step}")
        path = self.folder.path / "checkpoints" / f"step-{progress.step}"
        path.mkdir(parents=True, exist_ok=True)
        checkpoint = Checkpoint(address=address, best=self.best, progress=asdict(progress))
        write_atomically(path / "state.json", checkpoint.model_dump_json(indent=2))
        self.time_left.saving = time.monotonic() - self.began
        removed = list(self.folder.checkpoints())[: -self.recipe.keep_checkpoints]
        for step in removed:
            old = self.folder.read_checkpoint(step)
            shutil.rmtree(self.folder.path / "checkpoints" / f"step-{step}", ignore_errors=True)
            for stale in {old.address, old.best} - {None, self.best} if old is not None else ():
                if stale is not None and not self._is_named(stale):
                    self._delete(stale)

    def _delete(self, address: str) -> None:
        try:
            self.loop.delete(address)
        except LlmtuneError as problem:
            self.status_writer.event(f"{address} could not be removed: {problem.message}", "warning")

    # --- finish ------------------------------------------------------------------------------------------------------
    def finish(self) -> LoopResult:
        """Save the model: of the best step with early stopping, else of the last."""
        progress = self.progress
        self.status_writer.update(state="finalizing", message="saving the model", eta_seconds=None)
        state = self._final_state()
        model = self.loop.save_for_sampling("final")
        files: str | None = None
        try:
            files = self.loop.save_for_download("final")
        except LlmtuneError as problem:
            self.status_writer.event(f"the weights cannot be taken home: {problem.message}", "warning")
        losses = [line.value for line in self.folder.read_metrics()[0] if line.series == "train/loss"]
        last = losses[-min(self.per_epoch, len(losses)) :]
        progress.seconds += time.monotonic() - self.began
        early = self.recipe.early_stopping_patience is not None
        result = LoopResult(
            model=model,
            state=state,
            files=files,
            steps=progress.step,
            epochs=progress.step / self.per_epoch,
            train_loss=sum(last) / len(last),
            validation_loss=progress.best_loss if early else progress.validation_loss,
            base_validation_loss=progress.base_loss,
            best_step=progress.best_step if early else None,
            tokens=progress.tokens,
            trained_tokens=progress.trained_tokens,
            seconds=progress.seconds,
        )
        self.folder.write_loop_result(result)
        return result

    def _final_state(self) -> str:
        """Return the state that the model is made of, opened where it is not the last one."""
        progress = self.progress
        checkpoint = self.folder.read_checkpoint(progress.step)
        assert checkpoint is not None  # one is saved at the end
        early = self.recipe.early_stopping_patience is not None
        if early:
            best = f"the step with the best validation loss was kept (step {progress.best_step:,} of {progress.step:,})"
            stopped = "stopped early: validation no longer improved; " if progress.stopped_early else ""
            self.resolved["stopping"] = stopped + best
            self.status_writer.update(resolved=self.resolved)
            self.status_writer.event(stopped + best)
        if not early or progress.best_step == progress.step:
            return checkpoint.address
        self.loop.open(self.best, progress.best_step)  # without one, no step was better than the model at its start
        return self.best or self.loop.save("step-0")

    def cleanup(self) -> None:
        """Do nothing: the states of the last steps stay, so that training can continue from them."""
