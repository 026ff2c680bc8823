"""A model of text and images as the trainer runs it: padded, with the images of its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmtune_local.models.model_runner import Network

if TYPE_CHECKING:
    import torch

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
