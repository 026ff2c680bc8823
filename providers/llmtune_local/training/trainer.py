"""The training loop. One optimizer step is: loss = sum(w * nll) / sum(w) over all its rows, then one update.

What happens at a step depends on the request and the step's number alone: rows, dropout and rate are functions of them.
That is why a run that was killed and resumed ends where an uninterrupted one ends.

`Trainer.run` is the whole run: `setup`, `fit` (with `validate` and checkpoints in between), `finish`.
"""

from __future__ import annotations

import itertools
import math
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidData, InvalidJob
from llmtune_local.batching import packing, step_order
from llmtune_local.batching.packing import Step
from llmtune_local.batching.sizes import token_budget
from llmtune_local.batching.token_rows import TokenRow, TokenRows, read_image_rows, read_rows
from llmtune_local.images.reader import ModelImages, NoImages
from llmtune_local.models import loading as models
from llmtune_local.models import sharding
from llmtune_local.models.hardware import (
    free_memory,
    out_of_memory,
    peak_memory,
    resolve_device,
    set_threads,
    versions,
)
from llmtune_local.models.hub import load_config
from llmtune_local.models.image_runner import ImageNetwork
from llmtune_local.models.memory_estimate import choose_sharding_of
from llmtune_local.models.model_runner import Network
from llmtune_local.models.peft_adapter import add_adapter
from llmtune_local.models.quantization import QUANTIZED, check_adapter
from llmtune_local.models.sharding_choice import check_sharding
from llmtune_local.models.targets import zero_tensors
from llmtune_local.run_state.damage import DiskFull, is_full
from llmtune_local.run_state.schema import EarlyStopping, Result
from llmtune_local.training import checkpoints, distributed, lr_schedule, panel_check, replay
from llmtune_local.training.best_weights import BestWeights
from llmtune_local.training.distributed import ALONE, WorkerGroupLost
from llmtune_local.training.optimizer import make_optimizer, set_rates
from llmtune_local.training.progress import Diverged, Progress, Stopped
from llmtune_local.training.replay import Replay
from llmtune_local.training.sample_answers import ROWS, SHARE, SampleAnswers
from llmtune_local.training.sharded_model import build_sharded
from llmtune_local.training.time_left import Ahead, TimeLeft
from llmtune_local.training.validation_plan import TrainingWork, choose_rows, plan_validation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmtune.data.rendering.images import ImageReader
    from llmtune_local.models.sharding import ShardedModel
    from llmtune_local.models.sharding_choice import Sharding
    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.schema import RunRequest
    from llmtune_local.run_state.status_writer import StatusWriter


#: Steps after which unused memory is returned to the system: each time costs the next step a few percent.
_FREE_MEMORY_EVERY = 4


#: What to do where a model cannot be cut up.
_REPLICATE = "set provider_options.local.sharding: replicate"

#: Validation rows whose micro-batches are made at once.
_VALIDATED_AT_ONCE = 4096

#: Seconds for which a result waits for room on the disk, and between two tries.
DISK_TIMEOUT = 24 * 3600.0
DISK_RETRY_SECONDS = 5.0

#: The clock and the pause of that wait, for tests that let no time pass.
clock = time.monotonic
pause = time.sleep


class Trainer:
    """Trainer of one request in its folder. `stop` says whether the worker was asked to end after its current step."""

    other_validation_passes = 1
    """Passes over the validation rows beside those of the evaluations: the one before the first step."""

    shares_validation = True
    """Whether each process of several measures a part of the validation rows; else the main process measures alone."""

    validated = "validation loss"
    """What the validation rows measure, in words."""

    def __init__(
        self, folder: RunDir, request: RunRequest, status_writer: StatusWriter, stop: Callable[[], bool]
    ) -> None:
        self.folder = folder
        self.request = request
        self.recipe = request.hyperparameters
        self.micro_batches = self.recipe.gradient_accumulation_steps
        self.status_writer = status_writer
        self.stop = stop
        self.began = time.monotonic()
        self._fit_began = clock()
        self.progress = Progress()
        self.worker_group = ALONE
        self.sample_answers: SampleAnswers | None = None
        self.replay: Replay | None = None
        self.panel = TokenRows()
        """The panel's questions with their reference answers, where `panel_margin` asks for them."""
        self.best = BestWeights(folder.path / "checkpoints" / "best")
        self.root: ShardedModel | None = None
        """The root of a model that is cut up."""
        self._gathered: dict[str, torch.Tensor] | None = None
        """The trained weights of a model that is cut up, gathered at the end in the main process."""
        self.has_images = False

    def run(self, *, resume: bool = False) -> Result | None:
        """Train to the end; None in a process that is not the main one of its group.

        Raises `Stopped`, `WorkerGroupLost`, and `LlmtuneError` for everything a user can fix.
        """
        try:
            with distributed.lost_process_reported(among_others=True):
                self._train(resume)
        except WorkerGroupLost:
            self._check_others_memory()
            raise
        except (RuntimeError, MemoryError) as problem:
            if self.root is not None and out_of_memory(problem):
                self.folder.out_of_memory.touch()
            raise
        self.worker_group.close()
        return self.finish() if self.worker_group.is_main else None

    def _train(self, resume: bool) -> None:
        """Do everything that the processes do together."""
        self.setup()
        if self.worker_group.broadcast_flag(resume):  # the main process knows
            self.resume()
        self.status_writer.update(state="running", message="training")
        self.fit()
        if self.root is not None and self.recipe.early_stopping_patience is None:
            self.optimizer.zero_grad(set_to_none=True)
            self.optimizer.state.clear()  # room for the whole weights
            free_memory()
            keep = self.worker_group.is_main
            self._gathered = models.gather_weights(self.model, half=self.half, keep=keep)

    # --- setup

    def setup(self) -> None:
        """Join the other processes, load rows and model, and resolve the settings that were left open."""
        self._check_others_memory()
        options = self.request.options
        threads = set_threads(options)
        self.worker_group = distributed.join(options, resolve_device(options.device))
        self.read()
        self._resolve_settings(threads)
        self.status_writer.update(message="loading the model")
        self._load_model(getattr(self.config, "dtype", None))
        if self.worker_group.is_main:
            self.sample_answers = self._choose_samples()
        if self.recipe.replay_share > 0:
            self.replay = self._prepare_replay(self.recipe.replay_share)

    def _check_others_memory(self) -> None:
        """Raise `MemoryError` where a process of the run has reported that its memory does not suffice."""
        if self.folder.out_of_memory.exists():
            raise MemoryError("out of memory in one of the processes")

    def read(self) -> None:
        """Choose device and precision, and load tokenizer and rows."""
        request, options = self.request, self.request.options
        self.device = resolve_device(options.device)
        check_adapter(request.adapter, self.device, quantization=options.quantization)
        if options.gradient_checkpointing and self.device == "cpu":
            free_memory(at_once=True)
        self.sharding = self._choose_sharding()
        self.dtype = models.choose_dtype(options.dtype, self.device, request.model, request.revision)
        self.budget = options.token_budget or token_budget(self.device)
        self.status_writer.update(
            message="reading the rows", device=self.device, dtype=str(self.dtype).removeprefix("torch.")
        )
        self.config = config = load_config(request.model, request.revision, request.method)
        self.tokenizer = models.load_tokenizer(request.model, request.revision, options.chat_template)
        self.images = self._load_images()
        self.limit = models.context_length(config, self.tokenizer, self.recipe.max_sequence_length)
        if self.limit is not None and self.limit < 2:
            raise InvalidJob("max_sequence_length must be at least 2", where="hyperparameters.max_sequence_length")
        self.train = self._read_rows(request.files.train)
        self.validation = self._read_rows(request.files.validation) if request.files.validation else TokenRows()
        if self.has_images and self.sharding == "shard":
            raise InvalidJob("rows with images need the whole model in every process", where="dataset", hint=_REPLICATE)
        panel_check.check_request(request)
        if options.panel_margin is not None:
            template_options = options.template_options
            self.panel = panel_check.read_panel(self.tokenizer, limit=self.limit, template_options=template_options)

    def _choose_sharding(self) -> Sharding:
        """Choose what each process holds, all the same: their machines may differ."""
        check_sharding(self.request, self.device)
        if self.worker_group.size == 1:
            return "replicate"
        choice = choose_sharding_of(self.request, self.device)
        return "shard" if self.worker_group.broadcast_flag(choice == "shard") else "replicate"

    def _load_images(self) -> ImageReader:
        """Load what reads the images of rows; they are written to the run's folder."""
        request, keep = self.request, self.folder.path / "images"
        if request.method == "classification":
            return NoImages("encoders read text alone")
        max_pixels = request.options.image_max_pixels
        return models.load_images(request.model, request.revision, self.tokenizer, max_pixels=max_pixels, keep=keep)

    def _read_rows(self, path: str) -> TokenRows:
        def read(tokenizer: Any, path: str, **settings: Any) -> TokenRows:
            rows = read_image_rows(tokenizer, path, self.images, **settings)
            self.has_images = self.has_images or rows is not None
            return read_rows(tokenizer, path, **settings) if rows is None else rows

        return self._read_and_check(path, read)

    def _read_and_check(self, path: str, read: Callable[..., TokenRows]) -> TokenRows:
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
        """Report which rows were longer than the limit. Raises `InvalidData` where no row is left."""
        if not rows:
            raise InvalidData(f"{path}: every row is longer than {self.limit} tokens and was dropped")
        for count, verb in ((rows.dropped, "dropped"), (rows.truncated, "truncated")):
            if count:
                self.status_writer.event(f"{path}: {count} rows longer than {self.limit} tokens were {verb}", "warning")

    def _resolve_settings(self, threads: int) -> None:
        recipe = self.recipe
        if recipe.early_stopping_patience is not None and not self.validation:
            raise InvalidJob(
                "early stopping needs validation rows, and there are none",
                where="hyperparameters.early_stopping_patience",
            )
        self.per_epoch = step_order.steps_per_epoch(len(self.train), recipe.batch_size)
        self.total = min(recipe.max_steps or sys.maxsize, recipe.epochs * self.per_epoch)
        self.warmup = lr_schedule.warmup_steps(self.total, recipe.warmup_ratio, recipe.warmup_steps)
        self._plan_validation()
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
            self.resolved |= {"eval_every": self.eval_every, "validation_rows": len(self.validation)}
        if self.request.adapter != "full":
            self.resolved["lora_alpha"] = recipe.lora_alpha or 2.0 * recipe.lora_rank

    def _plan_validation(self) -> None:
        """Choose how often to validate and on which rows, unless the job says how often: then on all, that often."""
        recipe, rows = self.recipe, self.validation.rows
        self.eval_every = recipe.eval_every or self.total
        if recipe.eval_every is not None or not self.validation:
            return
        work = TrainingWork(
            steps=self.total,
            steps_per_epoch=self.per_epoch,
            tokens_per_epoch=self.train.tokens,
            other_passes=self.other_validation_passes,
            processes=self.worker_group.size,
            patience=recipe.early_stopping_patience,
        )
        plan = plan_validation(work, self.validation.row_tokens())
        self.eval_every = plan.eval_every
        if plan.rows < len(rows):
            self.status_writer.event(
                f"validating on {plan.rows:,} of {len(rows):,} validation rows, the same ones each time (chosen by a"
                " hash): all of them would take more than a fifth of the training time; eval_every asks for all"
            )
            self.validation = self.validation.select(choose_rows(rows, plan.rows))

    def _load_model(self, published: torch.dtype | None) -> None:
        request = self.request
        self.model = self._build_model()
        self.half = request.adapter == "full" and published in (torch.float16, torch.bfloat16)
        if request.options.gradient_checkpointing:
            base: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            # transformers renames it in version 6
            enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self.network: Any = self._make_network()
        self.optimizer = make_optimizer(self.model.named_parameters(), self.recipe, request.options.optimizer_arguments)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.validation_batches = self._make_validation_batches() if self.validation else []
        self.panel_batches = self._make_batches(self.panel) if self.panel else []
        several = (f"{self.worker_group.size} processes",) if self.worker_group.size > 1 else ()
        self.features: tuple[str, ...] = (*self.network.features, *several)
        self.time_left = TimeLeft(
            step_rows=min(self.recipe.batch_size, len(self.train)),
            validation_rows=len(self.validation),
            method=request.method,
        )
        self.status_writer.update(features=self.features, resolved=self.resolved, total_steps=self.total)
        self.status_writer.event(
            f"training {sum(p.numel() for p in self.trained):,} parameters on {len(self.train):,} rows for"
            f" {self.total:,} steps on {self.device} ({'; '.join(self.features)})"
        )

    def _build_model(self) -> Any:
        """Load the base model and add what is trained."""
        request = self.request
        if self.sharding == "shard":
            report = self.status_writer.event
            model, self.root = build_sharded(request, self.worker_group, self.device, self.dtype, report)
            return model
        base = models.load_base(
            request.model,
            request.revision,
            dtype=torch.float32 if request.adapter == "full" else self.dtype,
            device=self.device,
            recipe=self.recipe,
            quantization=(request.options.quantization or QUANTIZED) if request.adapter == "qlora" else None,
        )
        torch.manual_seed(request.seed)
        return add_adapter(base, request, self.status_writer.event, images=self.has_images)

    def _make_network(self) -> Any:
        """Wrap the model as it is run: packed or padded, with the faster ways that it supports."""
        longest = max(self.train.longest, self.validation.longest, self.panel.longest)
        if self.has_images and isinstance(self.images, ModelImages):
            return ImageNetwork(self.model, images=self.images, device=self.device, dtype=self.dtype, longest=longest)
        pack = self.recipe.packing
        return Network(self.model, device=self.device, dtype=self.dtype, pack=pack, longest=longest, root=self.root)

    def _make_validation_batches(self) -> Any:
        return self._make_batches(self.validation)

    def _make_batches(self, token_rows: TokenRows) -> Any:
        """Cut rows that are only read into micro-batches; those of many rows are not held from one validation to the
        next."""

        def make(rows: Sequence[TokenRow]) -> list[packing.MicroBatch]:
            return packing.make_step(
                rows,
                prompt_weight=0.0,
                packed=self.network.packed,
                share_prefixes=self.network.shares_prefixes,
                token_budget=self.budget,
                pad=self.tokenizer.pad_token_id or 0,
            ).batches

        parts = packing.BatchesInParts(token_rows.rows, make, _VALIDATED_AT_ONCE)
        return list(parts) if len(token_rows) <= _VALIDATED_AT_ONCE else parts

    def _choose_samples(self) -> SampleAnswers | None:
        """Choose the validation rows that are answered while training; None where there are none to be answered."""
        count = ROWS if self.request.samples is None else self.request.samples
        path = self.request.files.validation
        if count == 0 or path is None or not self.validation:
            return None
        if self.root is not None:
            self.status_writer.event("no validation rows are answered while training: the model is cut up", "warning")
            return None
        template_options = self.request.options.template_options
        renderer = Renderer(self.tokenizer, template_options=template_options, images=self.images)
        context = models.context_length(self.config, self.tokenizer, None)
        samples = SampleAnswers(self.network, renderer, path, count=count, context=context)
        self.resolved["evaluation.samples"] = samples.rows
        self.status_writer.update(resolved=self.resolved)
        return samples if samples.rows else None

    def _prepare_replay(self, share: float) -> Replay:
        """Let the model answer the prompts that are replayed, unless a run before this one did; read the answers."""
        request, path = self.request, self.folder.replay
        renderer = Renderer(self.tokenizer, template_options=request.options.template_options)
        if self.worker_group.is_main and not path.exists():
            prompts = replay.read_prompts(replay.count_needed(share, self.recipe.batch_size, self.total), request.seed)

            def on_progress(answered: int) -> None:
                if self.stop():
                    raise Stopped
                self.status_writer.update(message=f"answering prompts to replay: {answered} of {len(prompts)}")

            self.model.eval()
            context = models.context_length(self.config, self.tokenizer, None)
            answers = replay.answer_prompts(self.network, renderer, prompts, context=context, on_progress=on_progress)
            replay.store_answers(path, answers)
        self.worker_group.broadcast_flag(True)  # the others wait for the answers here
        rows = replay.load_rows(path, limit=self.limit)
        self.resolved["replay_rows"] = len(rows)
        self.status_writer.update(resolved=self.resolved)
        prepared = Replay(rows, share=share, batch_size=self.recipe.batch_size, seed=request.seed)
        self.status_writer.event(
            f"replaying {len(rows)} answers of the model as it was: {prepared.rows_per_step} beside each step's rows,"
            f" with {share:.0%} of its loss"
        )
        return prepared

    def resume(self) -> None:
        """Continue from the newest checkpoint, or from the start where there is none."""
        best = self.recipe.early_stopping_patience is not None
        problems: list[str] = []
        restored = checkpoints.load(self.folder, self.model, self.optimizer, best=best, report=problems.append)
        if restored is not None:
            self.progress = restored
        if self.worker_group.is_main:
            self.folder.truncate_metrics(self.progress.step if restored else -1)
        self.status_writer.update(step=self.progress.step, epoch=self.progress.step / self.per_epoch)
        for problem in problems:
            self.status_writer.event(problem, "warning")
        none = "no checkpoint is complete" if problems else "there is no checkpoint yet"
        where = f"step {self.progress.step}" if restored else f"the beginning: {none}"
        self.status_writer.event(f"resumed from {where}")

    def read_ahead(self) -> None:
        """Read what a run of this request starts with, for workers that are forked from here (see `warm`)."""
        self.read()
        dtype = torch.float32 if self.request.adapter == "full" else self.dtype
        models.read_base(self.request.model, self.request.revision, dtype, self.config)

    # --- fit

    def fit(self) -> None:
        """Train step by step until the end, an early stop, or a request to stop."""
        progress = self.progress
        self._fit_began = clock() - progress.fit_seconds
        if progress.step == 0 and self.validation_batches:
            self.validate()
        while progress.step < self.total and not progress.is_over:
            if self.worker_group.broadcast_flag(self.stop()):
                self._checkpoint()
                raise Stopped
            began = clock()
            values, step = self.step(progress.step)
            progress.step += 1
            progress.tokens += step.tokens
            progress.trained_tokens += step.completion_tokens
            seconds = clock() - began
            progress.training_seconds += seconds
            self.time_left.steps.append((step.tokens, seconds))
            self._log_step(values)
            if progress.step % _FREE_MEMORY_EVERY == 0:
                self.train.release()
                if self.device == "cpu":
                    free_memory()
            progress.out_of_time = self._is_out_of_time()
            done = progress.step == self.total or progress.is_over
            if self.validation_batches and (done or progress.step % self.eval_every == 0):
                self.validate()
            if progress.step % self.checkpoint_every == 0 or progress.out_of_time:
                self._checkpoint()

    def _is_out_of_time(self) -> bool:
        """Return whether another step, as long as the last ones, would end after `max_time`; the same everywhere."""
        limit = self.request.options.max_time
        if limit is None or self.progress.step == self.total:
            return False
        seconds = [seconds for _, seconds in self.time_left.steps]
        return self.worker_group.broadcast_flag(clock() - self._fit_began + sum(seconds) / len(seconds) > limit)

    def step(self, number: int) -> tuple[dict[str, float], Step]:
        """Run one optimizer step (counted from 0); return its metric points and its micro-batches."""
        recipe = self.recipe
        rate = recipe.learning_rate * lr_schedule.lr_factor(
            recipe.lr_schedule,
            number,
            self.total,
            self.warmup,
            floor=recipe.min_lr_ratio,
            cycles=recipe.lr_num_cycles,
        )
        step, measured = self._compute_gradient(number)
        norm = self._clip_gradients(recipe.max_grad_norm or math.inf)
        values = measured | {"train/learning_rate": rate, "train/grad_norm": float(norm)}
        if not all(math.isfinite(value) for value in values.values()):
            raise Diverged(
                f"the loss is no longer a number at step {number + 1} (learning rate {rate:g}): lower learning_rate,"
                " or set max_grad_norm or warmup_steps"
            )
        set_rates(self.optimizer, rate)
        self.optimizer.step()
        return values, step

    def _clip_gradients(self, limit: float) -> float:
        """Scale the gradient down to a norm of at most `limit`; return its norm."""
        if self.root is None:
            return float(torch.nn.utils.clip_grad_norm_(self.trained, limit))
        grads = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        norm = sharding.whole(torch.nn.utils.get_total_norm(grads))
        torch.nn.utils.clip_grads_with_norm_(self.trained, limit, norm)
        return float(norm)

    def _compute_gradient(self, number: int) -> tuple[Step, dict[str, float]]:
        """Compute the gradient of one step and its points, with smaller micro-batches where memory does not suffice."""
        indices = step_order.rows_of_step(len(self.train), self.recipe.batch_size, self.request.seed, number)
        while True:
            step = self._make_step(indices, number)
            problem: RuntimeError | None = None
            values: dict[str, float] = {}
            try:
                self.model.train()
                torch.manual_seed(self.request.seed * 1_000_003 + number + (self.worker_group.rank << 40))
                self.optimizer.zero_grad(set_to_none=True)
                values = self._backward(step, self._share(step.batches))
            except RuntimeError as error:
                # The processes of a model that is cut up compute together: one alone cannot try again.
                if self.root is not None or not out_of_memory(error):
                    raise
                problem = error
            if not self.worker_group.any_rank(problem is not None):
                if self.root is not None:  # its gradients are summed already
                    return step, self.worker_group.sum_values(values)
                return step, self.worker_group.all_reduce_gradients(self.trained, values)
            if not self._split_batch(step, max(len(row.ids) for index in indices for row in self.train.rows[index])):
                raise problem or WorkerGroupLost("another process is out of memory")
            del problem
            self.optimizer.zero_grad(set_to_none=True)
            if self.device == "cuda":
                torch.cuda.empty_cache()
            self.status_writer.update(resolved=self.resolved)
            how = (
                f"micro-batches of {self.budget} tokens"
                if self.micro_batches is None
                else f"{self.micro_batches} micro-batches per step"
            )
            self.status_writer.event(
                f"out of memory at step {number + 1}: continuing with {how}, which changes speed and not the gradient:"
                f" a step still has {self.recipe.batch_size} rows",
                "warning",
            )

    def _share(self, batches: Sequence[Any]) -> list[Any]:
        """Return this process's micro-batches; of a model that is cut up as many as the others have, with one of no
        weight where there are too few."""
        mine = self.worker_group.share(batches)
        if self.root is not None and len(mine) < -(-len(batches) // self.worker_group.size):
            mine.append(batches[0].without_weight())
        return mine

    def _make_step(self, indices: Sequence[int], number: int) -> Any:
        """Cut the rows of a step into micro-batches; with several processes so many that shares are equal, if rows
        suffice."""
        step = self._make_micro_batches(indices, number, self.micro_batches)
        short = -len(step.batches) % self.worker_group.size
        return self._make_micro_batches(indices, number, len(step.batches) + short) if short else step

    def _make_micro_batches(self, indices: Sequence[int], number: int, micro_batches: int | None) -> Any:
        prompt_weight = self.recipe.prompt_loss_weight
        rows = [piece for index in indices for piece in self.train.rows[index]]
        if self.replay is not None:
            task_weight = sum(row.total_weight(prompt_weight) for row in rows)
            rows += self.replay.rows_of_step(number, task_weight, prompt_weight)
        return packing.make_step(
            rows,
            prompt_weight=prompt_weight,
            packed=self.network.packed,
            share_prefixes=self.network.shares_prefixes,
            precompute_prefix=self.network.precomputes_prefix,
            token_budget=self.budget,
            micro_batches=micro_batches,
            pad=self.tokenizer.pad_token_id or 0,
        )

    def _backward(self, step: Any, batches: Sequence[Any]) -> dict[str, float]:
        """Add up the gradient of some of the step's micro-batches; return their metrics as shares of the whole step.

        The shares of all its micro-batches add up to the step's own.
        """
        objective = torch.zeros((), device=self.device)
        nll = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for batch, prefix in self.network.iterate_batches(batches):
            self.status_writer.update()
            sums = self.network.losses(batch, smoothing=self.recipe.label_smoothing, prefix=prefix)
            share: Any = sums.objective / step.weight
            share.backward()
            objective += sums.objective.detach()
            nll += sums.nll
            correct += sums.correct
        return {
            "train/loss": float(objective) / step.weight,
            "train/token_accuracy": int(correct) / max(1, step.completion_tokens),
        }

    def _split_batch(self, step: Step, longest: int) -> bool:
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

    def _log_step(self, values: dict[str, float]) -> None:
        progress, speed = self.progress, self.time_left.tokens_per_second
        epoch = progress.step / self.per_epoch
        self.status_writer.points(progress.step, epoch, values | {"train/tokens_per_second": speed})
        self.status_writer.update(
            step=progress.step, epoch=epoch, tokens_per_second=speed, eta_seconds=self._seconds_left()
        )

    def _seconds_left(self) -> float | None:
        """Estimate the seconds to the end of the run and of the evaluation after it."""
        step, total, every = self.progress.step, self.total, self.eval_every
        validations = math.ceil(total / every) - step // every if self.validation_batches and step < total else 0
        ahead = Ahead(
            steps=total - step,
            validations=validations,
            samples=0 if self.sample_answers is None else self._samples_ahead(validations),
            checkpoints=total // self.checkpoint_every - step // self.checkpoint_every,
            answers=self.request.evaluated_rows or 0,
        )
        seconds = self.time_left.seconds(ahead)
        limit = self.request.options.max_time
        if seconds is None or limit is None:
            return seconds
        return min(seconds, max(0.0, limit - (clock() - self._fit_began)) + (self._seconds_to_finish() or 0.0))

    def _samples_ahead(self, validations: int) -> int:
        """Estimate how often the validation rows are still answered: each time, or as often as it is affordable."""
        if self.request.samples is not None or not validations:
            return validations
        affordable = SHARE * self.progress.training_seconds / max(1e-9, self.time_left.samples)
        steps = max(1, self.progress.step)
        return min(validations, 1 + int(affordable * (self.total - self.progress.step) / steps))

    # --- validate

    def validate(self) -> None:
        """Measure on the validation rows, shared out among the processes where the method can; the main process records
        it, and tells every process whether to stop early."""
        values: dict[str, float] = {}
        began = clock()
        if self.shares_validation or self.worker_group.is_main:
            self.model.eval()
            with torch.no_grad():
                values = self._measure()
                if self.panel_batches:
                    values[panel_check.SERIES] = -self._sum_losses(self.panel_batches)[0]
        is_best = False
        if self.worker_group.is_main:
            self.time_left.validation = clock() - began
            is_best = self._record_validation(values)
        if self.recipe.early_stopping_patience is not None:
            self._keep_best(self.worker_group.broadcast_flag(is_best))
        if self.worker_group.is_main:
            self._record_samples()
        self.progress.stopped_early = self.worker_group.broadcast_flag(self.progress.stopped_early)

    def _record_validation(self, values: dict[str, float]) -> bool:
        """Write the points, and check for early stopping; return whether this step is the best so far."""
        progress = self.progress
        loss = self._falling_figure(values)
        if not math.isfinite(loss):
            raise Diverged(f"the validation loss is no longer a number at step {progress.step}: lower learning_rate")
        progress.validation_loss, progress.validation_accuracy = loss, values.get("validation/token_accuracy")
        if progress.step == 0:
            progress.base_loss, progress.base_panel = loss, values.get(panel_check.SERIES)
        self.status_writer.points(progress.step, progress.step / self.per_epoch, values)
        self.status_writer.update(eta_seconds=self._seconds_left())
        if self.recipe.early_stopping_patience is None:
            return False
        margin, report = self.request.options.panel_margin, self.status_writer.event
        measured = values.get(panel_check.SERIES, math.nan)
        allowed = margin is None or panel_check.is_within_margin(measured, margin, progress, report)
        return self._check_early_stopping(loss, self._accuracy(values), self.recipe.early_stopping_patience, allowed)

    def _record_samples(self) -> None:
        """Write the model's answers to a few validation rows; where the job does not ask for them, only while they cost
        little. What goes wrong with them is a warning: they are to be looked at, and no part of the training."""
        samples, progress = self.sample_answers, self.progress
        if samples is None:
            return
        is_last = progress.step == self.total or progress.is_over
        always = self.request.samples is not None or progress.step == 0 or is_last
        if not always and not samples.is_affordable(progress.sample_seconds, progress.training_seconds):
            return

        def proceed() -> bool:
            self.status_writer.update()
            return not self.stop()

        self.model.eval()
        try:
            self.status_writer.samples(samples.answer(progress.step, proceed))
        except Exception as problem:  # noqa: BLE001 - a model may refuse to generate in ways of its own
            self.sample_answers = None
            reason = f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
            self.status_writer.event(f"no more answers are shown while training: {reason}", "warning")
            if self.device == "cuda":
                torch.cuda.empty_cache()
        progress.sample_seconds += samples.last_seconds
        self.time_left.samples = samples.last_seconds
        self.status_writer.update(eta_seconds=self._seconds_left())

    def _measure(self) -> dict[str, float]:
        """Return loss and accuracy on the completion tokens of the validation rows."""
        loss, accuracy = self._sum_losses(self.validation_batches)
        return {"validation/loss": loss, "validation/token_accuracy": accuracy}

    def _sum_losses(self, batches: Any) -> tuple[float, float]:
        """Return the mean loss and accuracy of the completion tokens of some micro-batches, each of them run by one
        process."""
        nll, correct, tokens = 0.0, 0, 0
        batches = iter(batches)
        while turn := list(itertools.islice(batches, self.worker_group.size)):
            self.status_writer.update()
            for batch in self._share(turn):
                sums = self.network.losses(batch.to(self.device))
                nll += float(sums.nll)
                correct += int(sums.correct)
                tokens += int(sums.tokens)
        sums = self.worker_group.sum_values({"nll": nll, "correct": correct, "tokens": tokens})
        return sums["nll"] / sums["tokens"], sums["correct"] / sums["tokens"]

    def _falling_figure(self, values: dict[str, float]) -> float:
        """Return the validation figure that is to fall."""
        return values["validation/loss"]

    def _accuracy(self, values: dict[str, float]) -> float | None:
        """Return the validation figure that is to rise where the loss is to fall."""
        return values.get("validation/token_accuracy")

    def _check_early_stopping(self, loss: float, accuracy: float | None, patience: int, allowed: bool = True) -> bool:
        """Stop after `patience` evaluations without improvement; return whether the loss is the best so far, and the
        step `allowed`."""
        recipe, progress = self.recipe, self.progress
        is_best = progress.record_validation(
            loss,
            accuracy,
            threshold=recipe.early_stopping_threshold,
            patience=patience,
            any_rise=recipe.eval_every is None,
            total=self.total,
            allowed=allowed,
        )
        if progress.stopped_early and not is_best:
            self.status_writer.update(eta_seconds=self._seconds_to_finish())
        return is_best

    def _keep_best(self, is_best: bool) -> None:
        """Keep the weights of a step that is the best so far, in the main process."""
        if not is_best or (self.root is None and not self.worker_group.is_main):
            return
        if self.root is not None:
            weights = models.gather_weights(self.model, half=False, keep=self.worker_group.is_main)
        else:
            weights = checkpoints.trained_weights(self.model)
        if not self.worker_group.is_main:
            return
        try:
            self.best.keep(weights, models.artefact_bytes(self.model))
        except DiskFull as problem:
            self.status_writer.event(f"the best step's weights are kept in memory for now: {problem}", "warning")

    def _report_stop(self) -> None:
        """Say where training ended and which step was kept, in an event and among the resolved values."""
        progress = self.progress
        epochs, max_epochs = progress.step / self.per_epoch, self.total / self.per_epoch
        best = f"the step with the best {self.validated} was kept (step {progress.best_step:,} of {progress.step:,})"
        if progress.over_margin:
            best += f"; {progress.over_margin} that had lost more on the panel than panel_margin were passed over"
            best += "; the result is the model as it was" if progress.best_step == 0 else ""
        if progress.collapse:
            sentence = f"stopped after {progress.step:,} of {self.total:,} steps: {progress.collapse}"
            if self.recipe.early_stopping_patience is not None:
                sentence += f"; {best}"
        elif progress.stopped_early:
            sentence = (
                f"stopped after {epochs:.3g} of at most {max_epochs:.3g} epochs: validation no longer improved; {best}"
            )
        elif progress.out_of_time:
            sentence = (
                f"stopped after {progress.step:,} of {self.total:,} steps: another would have ended after max_time"
                f" ({self.request.options.max_time:g} s), so the learning rate did not come to its end"
            )
            if self.recipe.early_stopping_patience is not None:
                sentence += f"; {best}"
        else:
            sentence = f"trained for {epochs:.3g} epochs; {best}"
        self.resolved["stopping"] = sentence
        self.status_writer.update(resolved=self.resolved)
        self.status_writer.event(sentence)

    def _write_best(self) -> None:
        """Have the best step's weights on the disk: a checkpoint could not be resumed without them.

        Raises `DiskFull`, of a model that is cut up in every process.
        """
        full: DiskFull | None = None
        try:
            self.best.write()
        except DiskFull as problem:
            full = problem
        if full is not None and self.root is None:
            raise full
        if self.root is not None and self.worker_group.broadcast_flag(full is not None):
            raise full or DiskFull("the first process has no room for the best step's weights")

    # --- checkpoint

    def _checkpoint(self) -> None:
        if self.progress.step == 0 or not (self.worker_group.is_main or self.root is not None):
            return
        self.progress.seconds += time.monotonic() - self.began
        self.began = time.monotonic()
        began = clock()
        self.progress.fit_seconds = began - self._fit_began
        keep, group = self.recipe.keep_checkpoints, self.worker_group
        try:
            self._write_best()
            if self.root is None:
                checkpoints.save(self.folder, self.model, self.tokenizer, self.optimizer, self.progress, keep=keep)
            else:
                checkpoints.save_shards(self.folder, self.model, self.optimizer, self.progress, group, keep=keep)
        except DiskFull as problem:
            self.status_writer.event(f"the checkpoint of step {self.progress.step} is left out: {problem}", "warning")
        self.time_left.saving = clock() - began

    # --- finish

    def finish(self) -> Result:
        """Write the result: the best weights with early stopping, else the last."""
        self.status_writer.update(
            state="finalizing", message="writing the result", eta_seconds=self._seconds_to_finish()
        )
        if self.recipe.early_stopping_patience is not None:
            self._restore_best_weights()
        if self.recipe.early_stopping_patience is not None or self.progress.out_of_time or self.progress.collapse:
            self._report_stop()
        self._report_untrained_matrices()
        target = self.folder.adapter if hasattr(self.model, "peft_config") else self.folder.model
        needs = models.artefact_bytes(self.model)
        self._write_when_room(lambda: checkpoints.write_folder(target, self._save, needs=needs))
        self.progress.seconds += time.monotonic() - self.began
        result = self._make_result()
        self._write_when_room(lambda: self.folder.write_result(result))
        self.status_writer.update(eta_seconds=self._seconds_to_finish(results=0))
        return result

    def _seconds_to_finish(self, results: int = 1) -> float | None:
        """Estimate the seconds of what comes after the last step."""
        answers = self.request.evaluated_rows or 0
        return self.time_left.seconds(Ahead(steps=0, validations=0, checkpoints=0, results=results, answers=answers))

    def _restore_best_weights(self) -> None:
        weights = self.best.read()
        if self.root is None:
            checkpoints.restore_weights(self.model, weights)
        else:
            self._gathered = models.round_weights(self.model, weights) if self.half else weights

    def _report_untrained_matrices(self) -> None:
        if zero := zero_tensors(self.model, self._gathered):
            self.status_writer.event(
                f"{len(zero)} of the adapter's matrices are still zero, so the layers behind them learned nothing"
                f" (the first is {zero[0]}): leave these layers out of lora_target_modules",
                "warning",
            )

    def _save(self, path: Path) -> None:
        models.save_artefact(self.model, self.tokenizer, path, half=self.half, weights=self._gathered)
        if self.has_images:
            models.copy_image_processor(self.request.model, self.request.revision, path)

    def _make_result(self) -> Result:
        """Return the final figures of the run."""
        progress, patience = self.progress, self.recipe.early_stopping_patience
        return Result(
            train_loss=self._mean_of_last_epoch("train/loss"),
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
            artefact="adapter" if hasattr(self.model, "peft_config") else "model",
            files=tuple(sorted(path.name for path in self.folder.artefact.iterdir())),
            device=self.device,
            dtype=str(self.dtype).removeprefix("torch."),
            features=self.features,
            resolved=self.resolved,
            versions=versions(),
        )

    def _mean_of_last_epoch(self, series: str) -> float | None:
        """Return the mean of a series over the last epoch's steps, or all of a shorter run; None without points."""
        values = [line.value for line in self.folder.read_metrics()[0] if line.series == series][-self.per_epoch :]
        return sum(values) / len(values) if values else None

    def _write_when_room(self, write: Callable[[], object]) -> None:
        """Write a part of the result; on a full disk wait for room, since what was learned is nowhere else.

        All checkpoints but the newest are removed first. Raises `DiskFull` after `DISK_TIMEOUT`, `Stopped`.
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
            if clock() - began >= DISK_TIMEOUT:
                raise full
            self.status_writer.update(waiting_for=full.message)
            pause(DISK_RETRY_SECONDS)
        if self.status_writer.status.waiting_for is not None:
            self.status_writer.update(waiting_for=None)
            self.status_writer.event("there is room on the disk again")

    def cleanup(self) -> None:
        """Remove what only an unfinished run needs; to be called when the run is known to have succeeded."""
        shutil.rmtree(self.folder.path / "checkpoints" / "best", ignore_errors=True)
        shutil.rmtree(self.folder.path / "images", ignore_errors=True)
