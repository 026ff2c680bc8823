"""A model of text and images as the trainer runs it: padded, with the images of its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from llmtune_local.models.model_runner import Network

if TYPE_CHECKING:
    from llmtune_local.batching.loss import LossSums
    from llmtune_local.batching.packing import MicroBatch
    from llmtune_local.images.reader import ModelImages, RowImage
    from llmtune_local.kernels.shared_prefix import SharedPrefix


class ImageNetwork(Network):
    """A model whose rows have images, which `images` reads.

    Rows with images are padded: positions of images have up to three axes, and in some families an image's tokens see
    each other, which a pack without padding does not say. Batches without an image go through the text model alone, and
    with `pack` they may be packed.
    """

    def __init__(
        self,
        model: Any,
        *,
        images: ModelImages,
        device: str,
        dtype: torch.dtype,
        pack: bool = False,
        longest: int | None = None,
    ) -> None:
        self.images = images
        super().__init__(model, device=device, dtype=dtype, pack=pack, longest=longest)
        if images.family.mixes_in_weights and dtype != torch.float32:
            _mix_in(self.causal, dtype)

    @property
    def features(self) -> tuple[str, ...]:
        """Describe the ways in use, for people."""
        return ("images", *super().features)

    def losses(self, batch: MicroBatch, *, smoothing: float = 0.0, prefix: SharedPrefix | None = None) -> LossSums:
        """Return the loss sums of one micro-batch, which may be padded although texts are packed."""
        with self.unpacked() if batch.prefix_groups is None else contextlib.nullcontext():
            return super().losses(batch, smoothing=smoothing, prefix=prefix)

    def image_inputs(self, ids: torch.Tensor, images: Sequence[RowImage]) -> dict[str, Any]:
        """Return what the model takes beside the tokens [rows, length], whose images these are in order."""
        return self.images.inputs(ids, images) if images else {}

    def _inputs(self, batch: MicroBatch, prefix: SharedPrefix | None = None) -> dict[str, Any]:
        return super()._inputs(batch, prefix) | self.image_inputs(batch.ids, batch.images)

    def _body(self, inputs: dict[str, Any]) -> Any:
        # The decoder reads text alone; what holds tower and decoder is the model without its head.
        return self.causal.model if "pixel_values" in inputs else self.decoder


def _mix_in(causal: Any, dtype: torch.dtype) -> None:
    """Have a model whose embeddings are given in float32 put images among them in its own precision, which loses
    nothing of the embeddings; the decoder is given float32 again, for its residual stream."""
    trunk, mixing = causal.model, False

    def begin(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        nonlocal mixing
        mixing = inputs.get("pixel_values") is not None

    def end(*_: Any) -> None:
        nonlocal mixing
        mixing = False

    def narrow(_: Any, __: Any, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings.to(dtype) if mixing else embeddings

    def widen(_: Any, arguments: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, inputs | {"inputs_embeds": inputs["inputs_embeds"].float()} if mixing else inputs

    trunk.register_forward_pre_hook(begin, with_kwargs=True)
    trunk.register_forward_hook(end, always_call=True)
    causal.get_input_embeddings().register_forward_hook(narrow)
    causal.get_decoder().register_forward_pre_hook(widen, with_kwargs=True)
