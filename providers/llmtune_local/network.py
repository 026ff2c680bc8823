"""A model as the trainer runs it: packed or padded, with logits only where the loss looks.

Whether a model can be packed, and whether its head is just a linear layer, is not read off its name: both are tried
on a few tokens when it is loaded, and what does not give the same numbers is not used.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from llmtune_local import attention
from llmtune_local.loss import LossSums, linear_cross_entropy, logits_cross_entropy, token_nll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from llmtune_local.batching import MicroBatch

#: Relative difference up to which two ways to compute the same count as the same.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.04}


class Network:
    """A causal language model (with its adapter) on a device.

    `model` is what is saved and trained, `causal` the transformers model inside it. `packed` and `linear_head` say
    which of the fast ways are used.
    """

    def __init__(self, model: Any, *, device: str, dtype: torch.dtype, pack: bool = True) -> None:
        self.model = model
        self.causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.decoder: Any = self.causal.get_decoder()
        self.device = device
        self.dtype = dtype
        implementation = str(getattr(self.causal.config, "_attn_implementation", None) or "sdpa")
        self.native = "sdpa" if implementation == attention.NAME else implementation
        self.packed = False
        self._attend(self.native)
        was_training = self.causal.training
        self.causal.eval()
        with torch.no_grad(), self.arithmetic():
            self.linear_head = self._try_linear_head()
            self.packed = pack and self._try_packing()
        self._attend(attention.NAME if self.packed else self.native)
        self.causal.train(was_training)

    @property
    def features(self) -> tuple[str, ...]:
        """What is on, for people."""
        found = ["packing without padding" if self.packed else "padded batches"]
        found.append("logits at trained positions only" if self.linear_head else "logits by the model's own head")
        if self.dtype == torch.bfloat16:
            found.append("bfloat16")
        if any(getattr(module, "gradient_checkpointing", False) for module in self.causal.modules()):
            found.append("gradient checkpointing")
        return tuple(found)

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the model runs: matrix products in its dtype."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=self.dtype)

    @contextlib.contextmanager
    def unpacked(self) -> Iterator[None]:
        """For as long as it lasts, the model runs as transformers made it (for generation)."""
        self._attend(self.native)
        try:
            yield
        finally:
            self._attend(attention.NAME if self.packed else self.native)

    def losses(self, batch: MicroBatch, *, smoothing: float = 0.0) -> LossSums:
        """The loss sums of one micro-batch."""
        parts = (batch.targets, batch.weights, batch.completion)
        with self.arithmetic():
            if self.linear_head:
                hidden = self._hidden(self._inputs(batch), batch.select)
                head = self.causal.get_output_embeddings()
                return linear_cross_entropy(hidden, head.weight, head.bias, *parts, smoothing=smoothing)
            return logits_cross_entropy(self._logits(self._inputs(batch), batch.select), *parts, smoothing=smoothing)

    @torch.no_grad()
    def nll(self, inputs: dict[str, Any], select: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood in nats of each target at its flat position; positions may repeat."""
        with self.arithmetic():
            if self.linear_head:
                head = self.causal.get_output_embeddings()
                return token_nll(self._hidden(inputs, select), head.weight, head.bias, targets)
            once, back = torch.unique(select, return_inverse=True)
            logits = self._logits(inputs, once).float()[back]
            return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    def _hidden(self, inputs: dict[str, Any], select: Tensor) -> Tensor:
        output: Tensor = self.decoder(**inputs).last_hidden_state
        return output.flatten(0, 1)[select]

    def _logits(self, inputs: dict[str, Any], select: Tensor) -> Tensor:
        """The model's own logits at these positions, which must ascend."""
        ids = inputs["input_ids"]
        keep = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
        keep.view(-1)[select] = True
        logits: Tensor
        try:
            logits = self.causal(**inputs, logits_to_keep=keep).logits
        except TypeError:
            logits = self.causal(**inputs).logits
        if logits.ndim == 3:
            return torch.index_select(logits.flatten(0, 1), 0, select)
        return logits

    def _inputs(self, batch: MicroBatch) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": batch.ids, "use_cache": False}
        if batch.row_lengths is not None:
            inputs |= {"position_ids": batch.positions, "row_lengths": batch.row_lengths}
        else:
            inputs["attention_mask"] = batch.attention_mask
        return inputs

    def _attend(self, implementation: str) -> None:
        if self.causal.config._attn_implementation != implementation:
            self.causal.set_attn_implementation(implementation)

    # trying

    def _tokens(self, count: int, shift: int) -> Tensor:
        vocabulary = int(self.causal.get_input_embeddings().weight.shape[0])
        return ((torch.arange(count, device=self.device) * 7 + shift) % vocabulary).unsqueeze(0)

    def _try_linear_head(self) -> bool:
        head = self.causal.get_output_embeddings()
        if type(head) is not nn.Linear:
            return False
        ids = self._tokens(6, 1)
        try:
            hidden = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        except (TypeError, AttributeError):
            return False
        logits = self.causal(input_ids=ids, use_cache=False).logits
        return logits.shape[:2] == hidden.shape[:2] and self._same(head(hidden.to(head.weight.dtype)), logits)

    def _try_packing(self) -> bool:
        rows = [self._tokens(5, 3), self._tokens(9, 11), self._tokens(1, 2)]
        decoder = self.decoder
        apart = [decoder(input_ids=row, use_cache=False).last_hidden_state for row in rows]
        lengths = [row.shape[1] for row in rows]
        positions = torch.cat([torch.arange(length, device=self.device) for length in lengths]).unsqueeze(0)
        try:
            self._attend(attention.register())
            together = decoder(
                input_ids=torch.cat(rows, dim=1), position_ids=positions, row_lengths=lengths, use_cache=False
            ).last_hidden_state
        except (attention.CannotPack, TypeError, ValueError, KeyError, RuntimeError, AttributeError):
            return False
        finally:
            self._attend(self.native)
        return self._same(together, torch.cat(apart, dim=1))

    def _same(self, one: Tensor, other: Tensor) -> bool:
        one, other = one.float(), other.float()
        difference = (one - other).norm() / other.norm().clamp_min(1e-12)
        return bool(difference < _TOLERANCE[self.dtype])
