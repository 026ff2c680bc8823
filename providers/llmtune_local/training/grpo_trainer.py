"""Group Relative Policy Optimization (arXiv:2402.03300): learn from what a grader pays for the model's own answers.

A step samples a group of answers to each of its prompts, has the grader score them, and raises the likelihood of those
that are paid more than the others of their group (see `group_loss`). The reference of the KL is the model that the run
starts from: with a fresh adapter that model with its adapter switched off; else a copy of the trained weights from
before the first step, which take their places while the reference is measured.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidJob
from llmtune.graders.scoring import GraderProcess, get_range
from llmtune.job.graders import make_grader
from llmtune_local.batching.answer_groups import AnswerBatch, AnswerStep, make_answer_step
from llmtune_local.models.hub import split_adapter
from llmtune_local.training import checkpoints
from llmtune_local.training.group_loss import (
    compute_advantages,
    is_dead,
    token_losses,
    weigh_tokens,
)
from llmtune_local.training.group_sampling import GradedAnswer, GroupSampler, PromptRow, read_prompts
from llmtune_local.training.likelihoods import head_likelihoods, logits_likelihoods
from llmtune_local.training.progress import Stopped
from llmtune_local.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from llmtune_local.batching.token_rows import TokenRows
    from llmtune_local.run_state.schema import Result

#: Steps over which rewards are averaged to see a collapse.
COLLAPSE_STEPS = 10
#: A fall of the mean reward that is a collapse: below this share of its highest, and by this share of the range.
COLLAPSE_SHARE = 0.5
COLLAPSE_FALL = 0.2

#: Prompts that are answered at once in a validation.
_VALIDATED_AT_ONCE = 256


@dataclass
class Rollout:
    """The answers of a step with what its losses are made of, one value per answer token in the answers' order.

    `sampling` and `reference` are filled in the first update: log-likelihoods in nats.
    """

    step: int
    answers: list[GradedAnswer]
    advantages: Tensor
    weights: Tensor
    sampling: Tensor
    reference: Tensor
    metrics: dict[str, float]


class ReinforcementTrainer(Trainer):
    """Trainer by GRPO; everything but where a step's rows come from and its loss is the same as in any other run."""

    validated = "mean reward"

    def run(self, *, resume: bool = False) -> Result | None:
        """Train to the end, with the grader open. Raises as `Trainer.run` does, and `InvalidJob` for the grader."""
        if self.request.options.processes > 1:
            raise InvalidJob(
                "method reinforcement trains in one process", where="provider_options", hint="leave processes out"
            )
        with GraderProcess(self._make_grader()) as self.grader:
            return super().run(resume=resume)

    def _make_grader(self) -> Any:
        if self.request.grader is None:
            raise InvalidJob("method reinforcement needs a grader", where="grader")
        return make_grader(self.request.grader)

    # --- setup

    def _read_rows(self, path: str) -> TokenRows:
        rows = read_prompts(
            Renderer(self.tokenizer, file=path, template_options=self.request.options.template_options),
            path,
            self._make_grader(),
            limit=self.limit,
            on_too_long=self.request.on_too_long,
        )
        self._report_long_rows(path, rows)
        return rows

    def _load_model(self, published: torch.dtype | None) -> None:
        options = self.request.options
        fresh = self.request.adapter != "full" and split_adapter(self.request.model)[1] is None
        self.resolved["kl_reference"] = (
            "the adapter switched off" if fresh else "the trained weights from before the first step"
        )
        super()._load_model(published)
        self._start = None if fresh else checkpoints.trained_weights(self.model)
        self._rollout: Rollout | None = None
        self._update = 0
        self._reported_fault = False
        self._rewards: list[float] = []
        self._best_mean: float | None = None
        self._recently_dead: deque[bool] = deque(maxlen=COLLAPSE_STEPS)
        self._may_stop = False
        self.sampler = GroupSampler(
            self.network,
            Renderer(self.tokenizer, template_options=options.template_options),
            self.grader,
            answer_tokens=options.answer_tokens,
            limit=self.limit,
            after_token=self._show_life,
        )

    def _make_validation_batches(self) -> list[list[PromptRow]]:
        rows = [row for (row,) in self.validation.rows]
        return [rows[at : at + _VALIDATED_AT_ONCE] for at in range(0, len(rows), _VALIDATED_AT_ONCE)]  # type: ignore[misc]

    def resume(self) -> None:
        """Continue as any run does, with the rewards so far read back, by which a collapse is seen."""
        super().resume()
        by_step: dict[int, dict[str, float]] = {}
        for line in self.folder.read_metrics()[0]:
            if line.series in ("train/reward", "train/dead_groups"):
                by_step.setdefault(line.step, {})[line.series] = line.value
        for step in sorted(by_step):
            if 0 < step <= self.progress.step:
                self._watch_rewards(by_step[step])

    # --- a step

    def step(self, number: int) -> tuple[dict[str, float], Any]:
        """Sample and grade the step's answers, and update the weights on them `updates_per_step` times."""
        updates = self.request.options.updates_per_step
        measured: list[dict[str, float]] = []
        for self._update in range(updates):
            values, step = super().step(number)
            measured.append(values)
        assert self._rollout is not None
        means = {name: sum(values[name] for values in measured) / updates for name in measured[0]}
        values = means | self._rollout.metrics
        self._rollout = None
        return values, replace(step, tokens=step.tokens * updates, completion_tokens=step.completion_tokens * updates)

    def _make_micro_batches(self, indices: Sequence[int], number: int, micro_batches: int | None) -> AnswerStep:
        if self._rollout is None or self._rollout.step != number:
            self._rollout = self._sample(indices, number)
        return make_answer_step(
            [answer.tokens for answer in self._rollout.answers],
            packed=self.network.packed,
            share_prefixes=self.network.shares_prefixes,
            token_budget=self.budget,
            micro_batches=micro_batches,
            pad=self.tokenizer.pad_token_id or 0,
        )

    def _sample(self, indices: Sequence[int], number: int) -> Rollout:
        options = self.request.options
        rows: Any = [self.train.rows[index][0] for index in indices]
        self.model.eval()
        self._may_stop = True
        try:
            answers = self.sampler.sample(
                rows,
                count=options.samples_per_prompt,
                temperature=options.answer_temperature,
                seed=f"{self.request.seed}/{number}",
            )
        finally:
            self._may_stop = False
        self._report_fault(answers)
        rewards = torch.tensor([answer.reward for answer in answers], dtype=torch.float64)
        rewards = rewards.view(len(rows), options.samples_per_prompt)
        lengths = [len(answer.tokens.answer) for answer in answers]
        counts = torch.tensor(lengths)
        advantages = compute_advantages(rewards, options.loss_normalisation).float().flatten()
        blank = torch.full((sum(lengths),), torch.nan, device=self.device)
        return Rollout(
            step=number,
            answers=answers,
            advantages=advantages.repeat_interleave(counts).to(self.device),
            weights=weigh_tokens(lengths, options.loss_normalisation, options.answer_tokens).to(self.device),
            sampling=blank,
            reference=blank.clone(),
            metrics={
                "train/reward": float(rewards.mean()),
                "train/reward_deviation": float(rewards.std(correction=0)),
                "train/dead_groups": float(is_dead(rewards).double().mean()),
                "train/answer_tokens": sum(lengths) / len(lengths),
                "train/truncated_answers": sum(answer.truncated for answer in answers) / len(answers),
            },
        )

    def _backward(self, step: AnswerStep, batches: Sequence[AnswerBatch]) -> dict[str, float]:
        options, rollout = self.request.options, self._rollout
        assert rollout is not None
        sums = dict.fromkeys(("train/policy_loss", "train/kl", "train/entropy", "train/clipped_tokens"), 0.0)
        for answers in batches:
            self.status_writer.update()
            token = answers.token.to(self.device)
            if self._update == 0:
                rollout.reference[token] = self._reference_likelihoods(answers)
            policy, entropy = self._likelihoods(answers)
            if self._update == 0:
                rollout.sampling[token] = policy.detach()
            losses = token_losses(
                policy,
                rollout.sampling[token],
                rollout.reference[token],
                rollout.advantages[token],
                clip=options.clip,
                beta=options.kl_beta,
            )
            loss: Any = (losses.loss * rollout.weights[token]).sum()
            loss.backward()
            sums["train/policy_loss"] += float(loss.detach())
            sums["train/kl"] += float(losses.kl.sum()) / step.completion_tokens
            sums["train/entropy"] += float(entropy.sum()) / step.completion_tokens
            sums["train/clipped_tokens"] += float(losses.clipped.sum()) / step.completion_tokens
        return sums

    def _likelihoods(self, answers: AnswerBatch) -> tuple[Tensor, Tensor]:
        """Return log-likelihood and entropy of each trained token, in nats; the first with its gradient."""
        network, temperature = self.network, self.request.options.answer_temperature
        batch = answers.batch.to(network.device)
        with network.autocast():
            if network.linear_head:
                head = network.causal.get_output_embeddings()
                return head_likelihoods(network.hidden(batch), head.weight, head.bias, batch.targets, temperature)
            return logits_likelihoods(network.logits(batch), batch.targets, temperature)

    def _reference_likelihoods(self, answers: AnswerBatch) -> Tensor:
        training = self.model.training
        self.model.eval()
        with torch.no_grad(), self._reference():
            likelihoods, _ = self._likelihoods(answers)
        self.model.train(training)
        return likelihoods

    @contextlib.contextmanager
    def _reference(self) -> Iterator[None]:
        """Make the model the reference while the context lasts."""
        if self._start is None:
            with self.model.disable_adapter():
                yield
            return
        parameters = dict(self.model.named_parameters())
        trained = {name: parameters[name].data for name in self._start}
        for name, start in self._start.items():
            parameters[name].data = start.to(trained[name].device)
        torch.clear_autocast_cache()
        try:
            yield
        finally:
            for name, weights in trained.items():
                parameters[name].data = weights
            torch.clear_autocast_cache()

    def _show_life(self) -> None:
        """Note that sampling goes on; stop within a step's sampling, where the weights are those of the step before."""
        self.status_writer.update()
        if self._may_stop and self.stop():
            self._checkpoint()
            raise Stopped

    def _report_fault(self, answers: Sequence[GradedAnswer]) -> None:
        faults = [answer.fault for answer in answers if answer.fault]
        if faults and not self._reported_fault:
            self._reported_fault = True
            self.status_writer.event(
                f"the grader does not score {len(faults)} of {len(answers)} answers ({faults[0]}): they count as the"
                " lowest reward, here and in later steps",
                "warning",
            )

    # --- validate, and see a collapse

    def _measure(self) -> dict[str, float]:
        """Return the mean reward of greedy answers to the validation rows, and their mean length in tokens."""
        answers = [
            answer
            for rows in self.validation_batches
            for answer in self.sampler.sample(rows, count=1, temperature=0.0, seed="")
        ]
        self._report_fault(answers)
        return {
            "validation/reward": sum(answer.reward for answer in answers) / len(answers),
            "validation/answer_tokens": sum(len(answer.tokens.answer) for answer in answers) / len(answers),
        }

    def _falling_figure(self, values: dict[str, float]) -> float:
        return -values["validation/reward"]

    def _log_step(self, values: dict[str, float]) -> None:
        super()._log_step(values)
        self._watch_rewards(values)

    def _watch_rewards(self, values: dict[str, float]) -> None:
        """Take in a step's rewards; note it where the last ones show that more training would only do harm."""
        self._rewards.append(values["train/reward"])
        self._recently_dead.append(values["train/dead_groups"] == 1.0)
        if len(self._rewards) < COLLAPSE_STEPS or self.progress.step >= self.total:
            return
        mean = sum(self._rewards[-COLLAPSE_STEPS:]) / COLLAPSE_STEPS
        self._best_mean = mean if self._best_mean is None else max(mean, self._best_mean)
        lowest, highest = get_range(self.grader.grader)
        reached = self._best_mean - lowest
        if all(self._recently_dead):
            self.progress.collapse = (
                f"in the last {COLLAPSE_STEPS} steps all answers of each prompt were paid alike (mean reward"
                f" {mean:.3g}), so there is nothing left to learn from"
            )
        elif mean - lowest < COLLAPSE_SHARE * reached and self._best_mean - mean > COLLAPSE_FALL * (highest - lowest):
            self.progress.collapse = (
                f"the mean reward of the last {COLLAPSE_STEPS} steps fell to {mean:.3g}, below half of the"
                f" {self._best_mean:.3g} that it had reached (a lower learning_rate or a higher kl_beta prevents that)"
            )

    # --- finish

    def _make_result(self) -> Result:
        """Return the final figures of the run: rewards, and no losses, which do not say how far it came."""
        reward = self._mean_of_last_epoch("train/reward")
        update = {"train_reward": reward, "validation_loss": None, "base_validation_loss": None}
        return super()._make_result().model_copy(update=update)
