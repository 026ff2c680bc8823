"""A model as the trainer runs it: packed or padded, with logits only at trained positions.

Whether a model can be packed, and whether its head is just a linear layer, is not concluded from its name: both are
tried on a few tokens when it is loaded, in float32 whatever the run's precision, and a way that does not give the same
numbers is not used.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from llmtune_local.batching.loss import LossSums, linear_cross_entropy, logits_cross_entropy, token_nll
from llmtune_local.batching.packing import PrefixGroup
from llmtune_local.kernels import cpu_block_attention, last_block, packed_attention
from llmtune_local.kernels.liger import use_liger
from llmtune_local.kernels.packed_attention import PackedLayout
from llmtune_local.kernels.rotary import use_fast_rotary
from llmtune_local.kernels.shared_prefix import SharedPrefix
from llmtune_local.models import exact, fused_lora, sharding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from llmtune_local.batching.packing import MicroBatch
    from llmtune_local.models.sharding import ShardedModel

_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)

#: Relative difference up to which two ways to compute the same count as the same in bfloat16, in a model of eight
#: layers; a deeper one may differ more, as the root of its layers: they round independently of each other. It sees a
#: kernel that is wrong, and no small difference of meaning: that is seen in float32 (`exact`).
_HALF_TOLERANCE = 0.04
_LAYERS = 8

#: Rows of the output head that are tried in float32: a copy of all of a large vocabulary's would take gigabytes.
_HEAD_ROWS = 512

#: What a model raises that cannot be run in a way that it was not made for.
_RUN_ERRORS = (
    *(packed_attention.CannotPack, TypeError, ValueError, KeyError, IndexError),
    *(RuntimeError, AttributeError, NotImplementedError),
)

#: Layouts on which packing is tried: rows that share nothing, and rows that share their prefix.
_SEPARATE_ROWS = (PrefixGroup(0, (5,)), PrefixGroup(0, (9,)), PrefixGroup(0, (1,)))
_SHARED_ROWS = (PrefixGroup(6, (4, 1, 7)), PrefixGroup(0, (5,)))


class Network:
    """A causal language model (with its adapter) on a device.

    `model` is what is saved and trained, `causal` the transformers model inside it. The fast ways in use: `packed`;
    `shares_prefixes` (rows are packed behind one copy of their common prefix); `precomputes_prefix` (which may be
    computed before them); `linear_head`; `last` (parts of the last block that compute trained positions alone); `fused`
    adapters; `kernels` (Liger's).
    """

    def __init__(
        self,
        model: Any,
        *,
        device: str,
        dtype: torch.dtype,
        pack: bool = True,
        longest: int | None = None,
        root: ShardedModel | None = None,
    ) -> None:
        self.model = model
        self._root = root
        self.longest = longest
        self.causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.decoder: Any = _decoder_of(self.causal)
        self.device = device
        self.dtype = dtype
        implementation = str(getattr(self.causal.config, "_attn_implementation", None) or "sdpa")
        self.native = "sdpa" if implementation == packed_attention.NAME else implementation
        self.layers = int(getattr(self.causal.config.get_text_config(), "num_hidden_layers", None) or _LAYERS)
        self.packed = self.shares_prefixes = self.precomputes_prefix = self._exact = False
        self.last: tuple[nn.Module, ...] = ()
        self._set_attention(self.native)
        was_training = self.causal.training
        self.causal.eval()
        gathering = contextlib.nullcontext() if root is None else sharding.gathering_as_it_is(root)
        with torch.no_grad(), gathering:
            self.run(lambda: self._choose_ways(pack))
        self._set_attention(packed_attention.NAME if self.packed else self.native)
        self.causal.train(was_training)

    def _choose_ways(self, pack: bool) -> None:
        """Find the fast ways that give the same numbers.

        In a model that is cut up only those that run whole layers: what they are gathered by are their own calls.
        """
        is_cut = self._root is not None
        with self.autocast():
            self.kernels = self.device == "cuda" and not is_cut and self._try_kernels()
            if self.device == "cpu":
                use_fast_rotary(self.causal)
            self.linear_head = self._try_linear_head()
            self.fused = not is_cut and self._try_fusing()
            self.last = () if is_cut else self._try_last_block()
            self.packed = pack and self._try_packing(_SEPARATE_ROWS)
            # Dropout would be drawn once for all rows of a group.
            self.shares_prefixes = self.packed and not self._has_dropout() and self._try_packing(_SHARED_ROWS)
            self.precomputes_prefix = (
                self.shares_prefixes
                and self.linear_head
                and not is_cut
                and not self._uses_checkpointing()
                and self._try_prefix()
            )

    def run(self, compute: Callable[[], _Result]) -> _Result:
        """Run something that uses the model; where that is cut up, with its parts that belong to no layer whole."""
        return compute() if self._root is None else self._root(compute)

    @property
    def features(self) -> tuple[str, ...]:
        """Describe the ways in use, for people."""
        names = ["packing without padding" if self.packed else "padded batches"]
        if self.shares_prefixes:
            names.append(
                "one copy of a shared prefix" + (", computed once per step" if self.precomputes_prefix else "")
            )
        names.append("logits at trained positions only" if self.linear_head else "logits by the model's own head")
        if self.last:
            names.append("last block at trained positions only")
        if self.fused:
            names.append("fused adapters")
        if self.kernels:
            names.append("Liger kernels")
        if self.dtype == torch.bfloat16:
            names.append("bfloat16")
        if self._uses_checkpointing():
            names.append("gradient checkpointing")
        if self._root is not None:
            names.append("the model cut up")
        return tuple(names)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the model runs: matrix products in its dtype."""
        if self.dtype == torch.float32 or self._exact:
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=self.dtype)

    @contextlib.contextmanager
    def unpacked(self) -> Iterator[None]:
        """Run the model with transformers' own attention while the context lasts (for generation)."""
        self._set_attention(self.native)
        try:
            yield
        finally:
            self._set_attention(packed_attention.NAME if self.packed else self.native)

    def losses(self, batch: MicroBatch, *, smoothing: float = 0.0, prefix: SharedPrefix | None = None) -> LossSums:
        """Return the loss sums of one micro-batch, behind its prefix where it has one (see `compute_prefix`)."""
        return self.run(lambda: self._losses(batch, smoothing, prefix))

    def _losses(self, batch: MicroBatch, smoothing: float, prefix: SharedPrefix | None) -> LossSums:
        parts = (batch.targets, batch.weights, batch.completion)
        with self.autocast():
            if self.linear_head:
                head = self.causal.get_output_embeddings()
                hidden = self.hidden(batch, prefix)
                return linear_cross_entropy(hidden, head.weight, head.bias, *parts, smoothing=smoothing)
            return logits_cross_entropy(self.logits(batch), *parts, smoothing=smoothing)

    def compute_prefix(self, ids: Tensor) -> SharedPrefix:
        """Compute the prefix [1, tokens] of micro-batches to come."""
        prefix = SharedPrefix(ids.shape[1])
        at = torch.arange(ids.shape[1], device=ids.device)
        layout = PackedLayout((PrefixGroup(0, (prefix.tokens,)),), prefix=prefix)
        inputs = {"input_ids": ids, "position_ids": at.unsqueeze(0), "packed_layout": layout, "use_cache": False}
        with self.autocast():
            self._hidden(inputs, at[-1:])  # of the last block only keys and values are wanted
        return prefix

    def iterate_batches(self, batches: Sequence[MicroBatch]) -> Iterator[tuple[MicroBatch, SharedPrefix | None]]:
        """Yield each micro-batch on the device, and the prefix that it stands behind, for `losses`.

        The gradient of a batch must be taken before the next one is requested: after the last batch of a prefix, the
        collected gradients go back through the prefix.
        """
        for _, some in itertools.groupby(batches, key=lambda batch: id(batch.prefix)):
            prefix: SharedPrefix | None = None
            for batch in some:
                if batch.prefix is not None and prefix is None:
                    prefix = self.compute_prefix(batch.prefix)
                yield batch.to(self.device), prefix
            if prefix is not None:
                prefix.backward()

    def hidden(self, batch: MicroBatch, prefix: SharedPrefix | None = None) -> Tensor:
        """Return the input of the head at the trained positions, [selected, width]."""
        return self._hidden(self._inputs(batch, prefix), batch.select)

    def logits(self, batch: MicroBatch) -> Tensor:
        """Return the logits at the trained positions, [selected, vocabulary], for models whose head is more than a
        layer."""
        once, back = torch.unique(batch.select, return_inverse=True)
        return self._logits(self._inputs(batch), once)[back]

    @torch.no_grad()
    def nll(self, inputs: dict[str, Any], select: Tensor, targets: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats of each target at its flat position; positions may repeat."""
        once, back = torch.unique(select, return_inverse=True)
        with self.autocast():
            if self.linear_head:
                head = self.causal.get_output_embeddings()
                return token_nll(self._hidden(inputs, once), head.weight, head.bias, back, targets)
            logits = self._logits(inputs, once).float()
            return logits.logsumexp(1)[back] - logits[back, targets]

    def _hidden(self, inputs: dict[str, Any], select: Tensor) -> Tensor:
        layout: PackedLayout | None = inputs.get("packed_layout")
        if self.last and self.device == "cpu" and layout is not None:
            reads = cpu_block_attention.first_read(layout.groups, select)
            inputs["packed_layout"] = replace(layout, partial_layer=(self.layers - 1, reads))
        try:
            with last_block.compute_at_positions(self.last, select, inputs["input_ids"].shape):
                output: Tensor = self._body(inputs)(**inputs).last_hidden_state
        finally:
            fused_lora.clear_cache()
        return output.flatten(0, 1)[select]

    def _body(self, inputs: dict[str, Any]) -> Any:
        """Return the model without its head that takes these inputs."""
        return self.decoder

    def _logits(self, inputs: dict[str, Any], select: Tensor) -> Tensor:
        """Return the model's own logits at these positions, which must ascend."""
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

    def _inputs(self, batch: MicroBatch, prefix: SharedPrefix | None = None) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": batch.ids, "use_cache": False}
        if batch.prefix_groups is not None:
            inputs |= {
                "position_ids": batch.positions,
                "packed_layout": PackedLayout(batch.prefix_groups, prefix=prefix),
            }
        else:
            inputs["attention_mask"] = batch.attention_mask
        return inputs

    def _set_attention(self, implementation: str) -> None:
        if self.causal.config._attn_implementation != implementation:
            self.causal.set_attn_implementation(implementation)

    # trying

    def _tokens(self, count: int, shift: int) -> Tensor:
        vocabulary = int(self.causal.get_input_embeddings().weight.shape[0])
        return ((torch.arange(count, device=self.device) * 7 + shift) % vocabulary).unsqueeze(0)

    def ways_agree(self, probe: Callable[[], tuple[Tensor, Tensor]]) -> bool:
        """Return whether both ways of a probe give the same numbers.

        In float32 by the largest element, and then in the run's own precision, for which other kernels may be chosen. A
        way that raises does not agree.
        """
        try:
            self._exact = True
            with exact.float32(self.device):
                actual, expected = probe()
            self._exact = False
            if not exact.largest_agree(actual, expected, self.layers):
                return False
            return self.dtype == torch.float32 or self._agree(*probe())
        except _RUN_ERRORS as problem:
            logger.debug("a faster way is left out: %r", problem)
            return False
        finally:
            self._exact = False

    def _try_linear_head(self) -> bool:
        """Return whether the logits are the head's product and nothing else: no cap, no scale, nothing before or after
        it."""
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
        except _RUN_ERRORS:
            return False
        finally:
            head.weight, head.bias = weight, bias
            del self.decoder.__dict__["forward"]
            if own_forward is not None:
                self.decoder.__dict__["forward"] = own_forward

        def through_all() -> tuple[Tensor, Tensor]:
            hidden = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            return head(hidden.to(head.weight.dtype)), self.causal(input_ids=ids, use_cache=False).logits

        return linear and self.ways_agree(through_all)

    def _try_kernels(self) -> bool:
        """Put Liger's kernels in where they are installed and give the same numbers; return whether they are."""
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
            alike = self.ways_agree(probe)
        except Exception as problem:  # noqa: BLE001 - kernels are compiled here and now, and that can fail in many ways
            logger.warning("Liger's kernels are left out, and transformers' own used: %r", problem)
            alike = False
        if undo is None:
            return False
        if not alike:
            undo()
        return alike

    def _try_fusing(self) -> bool:
        """Fuse the adapters where that gives the same numbers, tried with adapters that are not zero; return whether it
        does."""
        ids = self._tokens(7, 5)

        def probe() -> tuple[Tensor, Tensor]:
            fused_lora.unfuse(self.causal)
            plain = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            fused_lora.fuse(self.causal)
            fused = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            fused_lora.clear_cache()
            return fused, plain

        with fused_lora.nonzero_adapters(self.causal):
            if fused_lora.fuse(self.causal) and self.ways_agree(probe):
                return True
        fused_lora.unfuse(self.causal)
        return False

    def _try_last_block(self) -> tuple[nn.Module, ...]:
        """Return the parts of the last block that may compute the trained positions alone."""
        if not self.linear_head or self._uses_checkpointing():
            return ()
        ids, at = self._tokens(9, 4), torch.tensor([3, 7, 8], device=self.device)
        parts = last_block.parts(self.decoder)

        def probe() -> tuple[Tensor, Tensor]:
            self.last = ()
            plain = self.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, at]
            self.last = parts
            return self._hidden({"input_ids": ids, "use_cache": False}, at), plain

        holds = self.ways_agree(probe)
        self.last = ()
        return parts if holds else ()

    def _uses_checkpointing(self) -> bool:
        """Return whether activations are computed again in the backward pass."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.causal.modules())

    def _has_dropout(self) -> bool:
        """Return whether there is any dropout in training."""
        names = ("attention_dropout", "attn_pdrop")
        config = self.causal.config.get_text_config()
        return any(getattr(config, name, 0) for name in names) or any(
            isinstance(module, nn.Dropout) and module.p > 0 for module in self.model.modules()
        )

    def _try_packing(self, prefix_groups: tuple[PrefixGroup, ...]) -> bool:
        """Return whether packed rows give what each gives alone, within windows of attention and beyond them."""
        if getattr(self.causal.config.get_text_config(), "attn_logit_softcapping", None):
            return False

        def probe() -> tuple[Tensor, Tensor]:
            return self._packed_and_alone(prefix_groups)

        if not self.ways_agree(probe):
            return False
        with exact.short_windows(self.causal, longest=self.longest):
            return self.ways_agree(probe)

    def _packed_and_alone(self, prefix_groups: tuple[PrefixGroup, ...]) -> tuple[Tensor, Tensor]:
        rows, ids, positions = [], [], []
        for number, group in enumerate(prefix_groups):
            first = self._tokens(group.shared, 3 + number)
            ids.append(first)
            positions.append(torch.arange(group.shared))
            for index, length in enumerate(group.own):
                behind = self._tokens(length, 11 + 5 * index + number)
                rows.append((torch.cat([first, behind], dim=1), length))
                ids.append(behind)
                positions.append(torch.arange(group.shared, group.shared + length))
        decoder = self.decoder
        alone = [decoder(input_ids=row, use_cache=False).last_hidden_state[:, -length:] for row, length in rows]
        try:
            self._set_attention(packed_attention.register())
            packed = decoder(
                input_ids=torch.cat(ids, dim=1),
                position_ids=torch.cat(positions).unsqueeze(0).to(self.device),
                packed_layout=PackedLayout(prefix_groups),
                use_cache=False,
            ).last_hidden_state
        finally:
            self._set_attention(self.native)
        start, parts = 0, []
        for group in prefix_groups:
            start += group.shared
            parts.append(packed[:, start : start + sum(group.own)])
            start += sum(group.own)
        return torch.cat(parts, dim=1), torch.cat(alone, dim=1)

    def _try_prefix(self) -> bool:
        """Return whether rows behind a precomputed prefix give what each gives alone.

        Not where attention has a window, which may end within the prefix.
        """
        config = self.causal.config.get_text_config()
        windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        if self.device != "cpu" or windowed or getattr(config, "attention_chunk_size", None):
            return False
        first, *suffixes = (self._tokens(count, 3 + count) for count in (6, 4, 1, 7))
        at = torch.cat([torch.arange(6, 6 + suffix.shape[1], device=self.device) for suffix in suffixes]).unsqueeze(0)

        def probe() -> tuple[Tensor, Tensor]:
            outputs = (
                self.decoder(input_ids=torch.cat([first, suffix], dim=1), use_cache=False) for suffix in suffixes
            )
            alone = torch.cat([output.last_hidden_state[0, 6:] for output in outputs])
            try:
                self._set_attention(packed_attention.NAME)
                packed = self.decoder(
                    input_ids=torch.cat(suffixes, dim=1),
                    position_ids=at,
                    packed_layout=PackedLayout(
                        tuple(PrefixGroup(0, (suffix.shape[1],)) for suffix in suffixes),
                        prefix=self.compute_prefix(first),
                    ),
                    use_cache=False,
                ).last_hidden_state[0]
            finally:
                self._set_attention(self.native)
            return packed, alone

        return self.ways_agree(probe)

    def _agree(self, actual: Tensor, expected: Tensor) -> bool:
        """Return whether two results of the same computation agree, as far as this precision goes."""
        if self.dtype == torch.float32:
            return exact.largest_agree(actual, expected, self.layers)
        actual, expected = actual.float(), expected.float()
        difference = (actual - expected).norm() / expected.norm().clamp_min(1e-12)
        return bool(difference < _HALF_TOLERANCE * math.sqrt(max(1.0, self.layers / _LAYERS)))


def _decoder_of(causal: Any) -> Any:
    """Return the model without its head; where transformers' look-up does not find it, by its usual name."""
    decoder = causal.get_decoder()
    return getattr(causal, "model", decoder) if decoder is causal else decoder


def _changes_logits(config: Any) -> bool:
    """Return whether the configuration says that the logits are changed after the head, or its input before it."""
    if getattr(config, "final_logit_softcapping", None):
        return True
    return any(
        getattr(config, name, None) not in (None, 1, 1.0)
        for name in ("logit_scale", "logits_scaling", "lm_head_multiplier")
    )
