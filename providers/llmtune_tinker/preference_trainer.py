"""The loop on preference rows, by DPO: the loss is the local trainer's, and its gradient goes to the service.

A pair is two sequences. A step sends them twice: once for the log-likelihood of each token, from which the loss and its
gradient are computed here, and once as cross-entropy weighted by that gradient. The reference is the model at its
start, whose fresh adapter changes nothing; its likelihoods are taken by one pass over all pairs before the first step
and kept in the run folder, two numbers a pair, so that a resumed run goes by the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from llmtune.errors import InvalidJob, VendorError
from llmtune_local.batching.token_rows import TokenRow, TokenRows
from llmtune_local.training.pair_loss import (
    BETA,
    PairLosses,
    mean_metrics,
    pair_losses,
    read_reference,
    write_reference,
)
from llmtune_local.training.progress import Diverged, Stopped
from llmtune_tinker.loop import CUSTOM, LoopRow, PassResult, Pending
from llmtune_tinker.trainer import VALIDATED_AT_ONCE, LoopTrainer, make_loop_row, read_run_pairs


class PreferenceLoopTrainer(LoopTrainer):
    """Trainer on preference rows; order, rates, checkpoints and stopping are those of every run."""

    _reference: NDArray[np.float64]
    """Log-likelihoods [pairs, 2] of training pairs, then of validation pairs."""

    _losses: PairLosses | None = None
    """Those of the step that is sent."""

    def read_file(self, path: str) -> TokenRows:
        """Read a file of preference rows: each is two sequences. Raises `InvalidData`."""
        return read_run_pairs(self.request, self.tokenizer, path, self.limit)

    def resolve_settings(self) -> None:
        """Decide what the job leaves open, beta among it."""
        if CUSTOM not in self.loop.limits.losses:
            raise InvalidJob("the service takes no gradient of a loss that is computed elsewhere", where="method")
        super().resolve_settings()
        self.beta = self.recipe.dpo_beta or BETA
        self.resolved["dpo_reference"] = "the model at the start; its likelihoods are kept in the run folder"
        self.status_writer.update(resolved=self.resolved)

    # --- the reference -----------------------------------------------------------------------------------------------
    def open_model(self, state: str | None) -> None:
        """Open the model; the reference's likelihoods are taken of a fresh one first, unless an earlier attempt did."""
        path = self.folder.path / "reference.npy"
        stored = read_reference(path, len(self.train) + len(self.validation))
        if stored is None:
            self.loop.open(None, 0)
            self.status_writer.update(message="taking the reference's likelihoods")
            stored = self._compute_likelihoods([*self.train.rows, *self.validation.rows], stops=True)
            write_reference(path, stored)
            if state is None:
                self._reference = stored
                return  # the model that was measured is the one to train
        self._reference = stored
        super().open_model(state)

    def _compute_likelihoods(self, pairs: Sequence[Sequence[TokenRow]], *, stops: bool) -> NDArray[np.float64]:
        """Return the log-likelihoods [pairs, 2] of the model as it is; with `stops`, break off when asked to."""
        values = []
        at_once = VALIDATED_AT_ONCE // 2
        for start in range(0, len(pairs), at_once):
            if stops and self.stop():
                raise Stopped
            self.status_writer.update()
            rows = [make_loop_row(side, prompt_weight=0.0) for pair in pairs[start : start + at_once] for side in pair]
            log_likelihoods = self.loop.forward(rows).log_likelihoods
            if log_likelihoods is None:
                raise VendorError("the service answers without the likelihood of each token, which DPO needs")
            values += [float(tokens[row.weights != 0].sum()) for row, tokens in zip(rows, log_likelihoods, strict=True)]
        likelihoods = np.array(values, dtype=np.float64).reshape(-1, 2)
        if not np.isfinite(likelihoods).all():
            raise Diverged(
                f"the likelihood of an answer is no number at step {self.progress.step}: lower learning_rate"
            )
        return likelihoods

    # --- steps and validation ----------------------------------------------------------------------------------------
    def send_gradient(
        self, number: int, indices: Sequence[int], pieces: Sequence[TokenRow]
    ) -> tuple[Pending[PassResult], list[LoopRow]]:
        """Send the pairs `indices` of a step, whose sides are `pieces`."""
        rows = [make_loop_row(side, prompt_weight=0.0) for side in pieces]
        answers = [torch.from_numpy(np.flatnonzero(row.weights)) for row in rows]
        reference = torch.from_numpy(self._reference[list(indices)])

        def compute_loss(log_likelihoods: Sequence[torch.Tensor]) -> torch.Tensor:
            if len(log_likelihoods) != len(rows):
                raise VendorError("the service answers without the likelihood of each token, which DPO needs")
            sums = [tokens[answer].double().sum() for tokens, answer in zip(log_likelihoods, answers, strict=True)]
            policy = torch.stack(sums).view(-1, 2)
            losses = pair_losses(policy, reference, beta=self.beta, smoothing=self.recipe.label_smoothing)
            loss = losses.loss.sum() / len(indices)
            if not torch.isfinite(loss):  # said before a gradient that is none is sent
                raise Diverged(f"the loss is no longer a number at step {number}: lower learning_rate or dpo_beta")
            self._losses = PairLosses(*(tensor.detach() for tensor in losses))
            return loss

        return self.loop.forward_backward_custom(number, rows, compute_loss), rows

    def describe_gradient(self, answer: PassResult) -> dict[str, float]:
        """Return loss, margin, accuracy and rewards of the step's pairs."""
        assert self._losses is not None  # the answer is there, so the loss was computed
        return mean_metrics("train", [self._losses], len(self._losses.loss))

    def measure(self) -> dict[str, float]:
        """Return the validation figures; before the first step those of the reference, for which no pass is sent."""
        reference = self._reference[len(self.train) :]
        policy = self._compute_likelihoods(self.validation.rows, stops=False) if self.progress.step else reference
        losses = pair_losses(torch.from_numpy(policy), torch.from_numpy(reference), beta=self.beta)
        return mean_metrics("validation", [losses], len(self.validation))
