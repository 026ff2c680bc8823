"""A model as the trainer runs it: packed or padded, with logits only where the loss looks.

Whether a model can be packed, and whether its head is just a linear layer, is not read off its name: both are tried
on a few tokens when it is loaded, in float32 whatever the run's precision, and what does not give the same numbers is
not used.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from llmtune_local.batching.loss import LossSums, linear_cross_entropy, logits_cross_entropy, token_nll
from llmtune_local.batching.packing import Family
from llmtune_local.kernels import cpu_block_attention, last_block, packed_attention
from llmtune_local.kernels.liger import use_liger
from llmtune_local.kernels.rotary import use_fast_rotary
from llmtune_local.kernels.shared_prefix import Beginning
from llmtune_local.models import exact, fused_lora

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from llmtune_local.batching.packing import MicroBatch

logger = logging.getLogger(__name__)

#: Relative difference up to which two ways to compute the same count as the same in bfloat16, in a model of eight
#: layers; a deeper one may differ more, as the root of its layers: they round independently of each other. It sees a
#: kernel that is wrong, and no small difference of meaning: that is seen in float32 (`exact`).
_HALF_TOLERANCE = 0.04
_LAYERS = 8

#: Rows of the output head that are tried in float32: a copy of all of a large vocabulary's would take gigabytes.
_HEAD_ROWS = 512

#: What a model raises that cannot be run in a way that it was not made for.
_CANNOT = (
    *(packed_attention.CannotPack, TypeError, ValueError, KeyError, IndexError),
    *(RuntimeError, AttributeError, NotImplementedError),
)

#: Layouts on which packing is tried: rows that share nothing, and rows that share their beginning.
_APART = (Family(0, (5,)), Family(0, (9,)), Family(0, (1,)))
_ALIKE = (Family(6, (4, 1, 7)), Family(0, (5,)))


class Network:
    """A causal language model (with its adapter) on a device.

    `model` is what is saved and trained, `causal` the transformers model inside it. Which of the fast ways are used:
    `packed`; `shares`: rows stand behind one copy of their common beginning, which `begins`: may be computed before
    them; `linear_head`; `last`: parts of the last block that compute trained positions alone; `fused` adapters;
    `kernels`.
    """

    def __init__(
        self, model: Any, *, device: str, dtype: torch.dtype, pack: bool = True, longest: int | None = None
    ) -> None:
        self.model = model
        self.longest = longest
        self.causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.decoder: Any = _decoder_of(self.causal)
        self.device = device
        self.dtype = dtype
        implementation = str(getattr(self.causal.config, "_attn_implementation", None) or "sdpa")
        self.native = "sdpa" if implementation == packed_attention.NAME else implementation
        self.layers = int(getattr(self.causal.config.get_text_config(), "num_hidden_layers", None) or _LAYERS)
        self.packed = self.shares = self.begins = self._exact = False
        self.last: tuple[nn.Module, ...] = ()
        self._attend(self.native)
        was_training = self.causal.training
        self.causal.eval()
        with torch.no_grad(), self.arithmetic():
            self.kernels = device == "cuda" and self._try_kernels()
            if device == "cpu":
                use_fast_rotary(self.causal)
            self.linear_head = self._try_linear_head()
            self.fused = self._try_fusing()
            self.last = self._try_last_block()
            self.packed = pack and self._try_packing(_APART)
            # Dropout would be drawn once for all rows of a family.
            self.shares = self.packed and not self._drops() and self._try_packing(_ALIKE)
            self.begins = self.shares and self.linear_head and not self._checkpoints() and self._try_beginning()
        self._attend(packed_attention.NAME if self.packed else self.native)
        self.causal.train(was_training)

    @property
    def features(self) -> tuple[str, ...]:
        """What is on, for people."""
        found = ["packing without padding" if self.packed else "padded batches"]
        if self.shares:
            found.append("one copy of a beginning that rows share" + (", computed once a step" if self.begins else ""))
        found.append("logits at trained positions only" if self.linear_head else "logits by the model's own head")
        if self.last:
            found.append("last block at trained positions only")
        if self.fused:
            found.append("fused adapters")
        if self.kernels:
            found.append("Liger kernels")
        if self.dtype == torch.bfloat16:
            found.append("bfloat16")
        if self._checkpoints():
            found.append("gradient checkpointing")
        return tuple(found)

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the model runs: matrix products in its dtype."""
        if self.dtype == torch.float32 or self._exact:
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=self.dtype)

    @contextlib.contextmanager
    def unpacked(self) -> Iterator[None]:
        """For as long as it lasts, the model runs as transformers made it (for generation)."""
        self._attend(self.native)
        try:
            yield
        finally:
            self._attend(packed_attention.NAME if self.packed else self.native)

    def losses(self, batch: MicroBatch, *, smoothing: float = 0.0, beginning: Beginning | None = None) -> LossSums:
        """The loss sums of one micro-batch, behind its beginning where it has one (see `begin`)."""
        parts = (batch.targets, batch.weights, batch.completion)
        with self.arithmetic():
            if self.linear_head:
                head = self.causal.get_output_embeddings()
                hidden = self.hidden(batch, beginning)
                return linear_cross_entropy(hidden, head.weight, head.bias, *parts, smoothing=smoothing)
            return logits_cross_entropy(self.logits(batch), *parts, smoothing=smoothing)

    def begin(self, ids: Tensor) -> Beginning:
        """Compute the beginning [1, tokens] of micro-batches to come."""
        found = Beginning(ids.shape[1])
        at = torch.arange(ids.shape[1], device=ids.device)
        families = (Family(0, (found.tokens,)),)
        inputs = {"input_ids": ids, "position_ids": at.unsqueeze(0), "families": families, "beginning": found}
        with self.arithmetic():
            self._hidden({**inputs, "use_cache": False}, at[-1:])  # of the last block only keys and values are wanted
        return found

    def in_turn(self, batches: Sequence[MicroBatch]) -> Iterator[tuple[MicroBatch, Beginning | None]]:
        """Each micro-batch, and the beginning that it stands behind, for `losses`.

        The gradient of a batch must have been taken before the next is asked for: behind the last of a beginning, what
        was collected goes back through that.
        """
        for _, some in itertools.groupby(batches, key=lambda batch: id(batch.beginning)):
            beginning: Beginning | None = None
            for batch in some:
                if batch.beginning is not None and beginning is None:
                    beginning = self.begin(batch.beginning)
                yield batch.to(self.device), beginning
            if beginning is not None:
                beginning.backward()

    def hidden(self, batch: MicroBatch, beginning: Beginning | None = None) -> Tensor:
        """What the head is given at the trained positions, [selected, width]."""
        inputs = self._inputs(batch)
        if beginning is not None:
            inputs["beginning"] = beginning
        return self._hidden(inputs, batch.select)

    def logits(self, batch: MicroBatch) -> Tensor:
        """The logits at the trained positions, [selected, vocabulary], for models whose head is more than a layer."""
        once, back = torch.unique(batch.select, return_inverse=True)
        return self._logits(self._inputs(batch), once)[back]

    @torch.no_grad()
    def nll(self, inputs: dict[str, Any], select: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood in nats of each target at its flat position; positions may repeat."""
        once, back = torch.unique(select, return_inverse=True)
        with self.arithmetic():
            if self.linear_head:
                head = self.causal.get_output_embeddings()
                return token_nll(self._hidden(inputs, once), head.weight, head.bias, back, targets)
            logits = self._logits(inputs, once).float()
            return logits.logsumexp(1)[back] - logits[back, targets]

    def _hidden(self, inputs: dict[str, Any], select: Tensor) -> Tensor:
        if self.last and self.device == "cpu" and "families" in inputs:
            inputs["reads"] = (self.layers - 1, cpu_block_attention.first_read(inputs["families"], select))
        try:
            with last_block.only_at(self.last, select, inputs["input_ids"].shape):
                output: Tensor = self.decoder(**inputs).last_hidden_state
        finally:
            fused_lora.forget()
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
        if batch.families is not None:
            inputs |= {"position_ids": batch.positions, "families": batch.families}
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

    def holds(self, probe: Callable[[], tuple[Tensor, Tensor]]) -> bool:
        """Whether both ways of a probe give the same: in float32 by the largest element, and then in the run's own
        precision, for which other kernels may be chosen. A way that cannot be gone does not hold."""
        try:
            self._exact = True
            with exact.float32(self.device):
                one, other = probe()
            self._exact = False
            if not exact.largest_agree(one, other, self.layers):
                return False
            return self.dtype == torch.float32 or self.same(*probe())
        except _CANNOT as problem:
            logger.debug("a faster way is left out: %r", problem)
            return False
        finally:
            self._exact = False

    def _try_linear_head(self) -> bool:
        """Whether the logits are the head's product and nothing else: no cap, no scale, nothing before or behind."""
        head = self.causal.get_output_embeddings()
        if type(head) is not nn.Linear or _changes_logits(self.causal.config.get_text_config()):
            return False
        ids = self._tokens(6, 1)
        weight, bias = head.weight, head.bias
        # The decoder is stood in for, so that hidden states can be large: a cap shows on large logits alone.
        hidden = self.decoder(input_ids=ids, use_cache=False)
        if not hasattr(hidden, "last_hidden_state"):
            return False
        plain = hidden.last_hidden_state.float()
        some = slice(0, _HEAD_ROWS)
        size = (plain.flatten(0, 1) @ weight[some].float().t()).abs().amax().clamp_min(1e-6)
        scales = torch.tensor([1.0, 10.0, 100.0, 1e3, 1e4, 1e5], device=plain.device).unsqueeze(1)
        hidden.last_hidden_state = plain / size * scales
        own_forward = self.decoder.__dict__.get("forward")
        self.decoder.__dict__["forward"] = lambda *_, **__: hidden
        head.weight = nn.Parameter(weight.data[some].float(), requires_grad=False)
        head.bias = None if bias is None else nn.Parameter(bias.data[some].float(), requires_grad=False)
        try:
            with torch.autocast(self.device, enabled=False):
                logits = self.causal(input_ids=ids, use_cache=False).logits
                linear = exact.largest_agree(logits, head(hidden.last_hidden_state), 1)
        except _CANNOT:
            return False
        finally:
            head.weight, head.bias = weight, bias
            del self.decoder.__dict__["forward"]
            if own_forward is not None:
                self.decoder.__dict__["forward"] = own_forward

        def through_all() -> tuple[Tensor, Tensor]:
            hidden = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            return head(hidden.to(head.weight.dtype)), self.causal(input_ids=ids, use_cache=False).logits

        return linear and self.holds(through_all)

    def _try_kernels(self) -> bool:
        """Put Liger's kernels in where they are installed and give the same numbers."""
        ids = self._tokens(9, 2)
        undo: Callable[[], None] | None = None

        def probe() -> tuple[Tensor, Tensor]:
            nonlocal undo
            if undo is not None:
                undo()
            plain = self.causal(input_ids=ids, use_cache=False).logits
            undo = use_liger(self.causal)
            return (plain, plain) if undo is None else (self.causal(input_ids=ids, use_cache=False).logits, plain)

        try:
            alike = self.holds(probe)
        except Exception as problem:  # noqa: BLE001 - kernels are compiled here and now, and that can fail in many ways
            logger.warning("Liger's kernels are left out, and transformers' own used: %r", problem)
            alike = False
        if undo is None:
            return False
        if not alike:
            undo()
        return alike

    def _try_fusing(self) -> bool:
        """Fuse the adapters where that gives the same numbers, with every adapter of a size that shows."""
        ids = self._tokens(7, 5)

        def probe() -> tuple[Tensor, Tensor]:
            fused_lora.unfuse(self.causal)
            plain = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            fused_lora.fuse(self.causal)
            fused = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            fused_lora.forget()
            return fused, plain

        with fused_lora.woken(self.causal):
            if fused_lora.fuse(self.causal) and self.holds(probe):
                return True
        fused_lora.unfuse(self.causal)
        return False

    def _try_last_block(self) -> tuple[nn.Module, ...]:
        """The parts of the last block that may compute the trained positions alone."""
        if not self.linear_head or self._checkpoints():
            return ()
        ids, at = self._tokens(9, 4), torch.tensor([3, 7, 8], device=self.device)
        parts = last_block.parts(self.decoder)

        def probe() -> tuple[Tensor, Tensor]:
            self.last = ()
            plain = self.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, at]
            self.last = parts
            return self._hidden({"input_ids": ids, "use_cache": False}, at), plain

        holds = self.holds(probe)
        self.last = ()
        return parts if holds else ()

    def _checkpoints(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.causal.modules())

    def _drops(self) -> bool:
        """Whether anything is dropped out in training."""
        names = ("attention_dropout", "attn_pdrop")
        config = self.causal.config.get_text_config()
        return any(getattr(config, name, 0) for name in names) or any(
            isinstance(module, nn.Dropout) and module.p > 0 for module in self.model.modules()
        )

    def _try_packing(self, families: tuple[Family, ...]) -> bool:
        """Whether rows laid out like this give what each gives alone, within windows of attention and beyond them."""
        if getattr(self.causal.config.get_text_config(), "attn_logit_softcapping", None):
            return False

        def probe() -> tuple[Tensor, Tensor]:
            return self._packed_and_alone(families)

        if not self.holds(probe):
            return False
        with exact.short_windows(self.causal, longest=self.longest):
            return self.holds(probe)

    def _packed_and_alone(self, families: tuple[Family, ...]) -> tuple[Tensor, Tensor]:
        rows, ids, positions = [], [], []
        for number, family in enumerate(families):
            first = self._tokens(family.shared, 3 + number)
            ids.append(first)
            positions.append(torch.arange(family.shared))
            for index, own in enumerate(family.own):
                behind = self._tokens(own, 11 + 5 * index + number)
                rows.append((torch.cat([first, behind], dim=1), own))
                ids.append(behind)
                positions.append(torch.arange(family.shared, family.shared + own))
        decoder = self.decoder
        alone = [decoder(input_ids=row, use_cache=False).last_hidden_state[:, -own:] for row, own in rows]
        try:
            self._attend(packed_attention.register())
            packed = decoder(
                input_ids=torch.cat(ids, dim=1),
                position_ids=torch.cat(positions).unsqueeze(0).to(self.device),
                families=families,
                use_cache=False,
            ).last_hidden_state
        finally:
            self._attend(self.native)
        start, parts = 0, []
        for family in families:
            start += family.shared
            parts.append(packed[:, start : start + sum(family.own)])
            start += sum(family.own)
        return torch.cat(parts, dim=1), torch.cat(alone, dim=1)

    def _try_beginning(self) -> bool:
        """Whether rows behind a beginning that was computed before them give what each gives alone. Not where attention
        has a window, which may end within the beginning."""
        config = self.causal.config.get_text_config()
        windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        if self.device != "cpu" or windowed or getattr(config, "attention_chunk_size", None):
            return False
        first, *behind = (self._tokens(count, 3 + count) for count in (6, 4, 1, 7))
        at = torch.cat([torch.arange(6, 6 + own.shape[1], device=self.device) for own in behind]).unsqueeze(0)

        def probe() -> tuple[Tensor, Tensor]:
            whole = (self.decoder(input_ids=torch.cat([first, own], dim=1), use_cache=False) for own in behind)
            alone = torch.cat([output.last_hidden_state[0, 6:] for output in whole])
            try:
                self._attend(packed_attention.NAME)
                packed = self.decoder(
                    input_ids=torch.cat(behind, dim=1),
                    position_ids=at,
                    families=tuple(Family(0, (own.shape[1],)) for own in behind),
                    beginning=self.begin(first),
                    use_cache=False,
                ).last_hidden_state[0]
            finally:
                self._attend(self.native)
            return packed, alone

        return self.holds(probe)

    def same(self, one: Tensor, other: Tensor) -> bool:
        """Whether two ways to compute the same gave the same, as far as this precision goes."""
        if self.dtype == torch.float32:
            return exact.largest_agree(one, other, self.layers)
        one, other = one.float(), other.float()
        difference = (one - other).norm() / other.norm().clamp_min(1e-12)
        return bool(difference < _HALF_TOLERANCE * math.sqrt(max(1.0, self.layers / _LAYERS)))


def _decoder_of(causal: Any) -> Any:
    """The model without its head; where transformers' look-up does not find it, under its usual name."""
    decoder = causal.get_decoder()
    return getattr(causal, "model", decoder) if decoder is causal else decoder


def _changes_logits(config: Any) -> bool:
    """Whether the configuration says that something is done to the logits behind the head, or before it."""
    if getattr(config, "final_logit_softcapping", None):
        return True
    return any(
        getattr(config, name, None) not in (None, 1, 1.0)
        for name in ("logit_scale", "logits_scaling", "lm_head_multiplier")
    )
