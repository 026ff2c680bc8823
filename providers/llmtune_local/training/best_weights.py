"""The trained weights of the step that is the best so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmtune_local.training import checkpoints

if TYPE_CHECKING:
    from pathlib import Path


class BestWeights:
    """Weights in `folder`, or in memory while the disk has no room for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, torch.Tensor] | None = None
        self._bytes = 0

    def keep(self, weights: dict[str, torch.Tensor], byte_count: int) -> None:
        """Replace the weights. Raises `DiskFull` where they are only held in memory for now."""
        self._held, self._bytes = weights, byte_count
        self.write()

    def write(self) -> None:
        """Write the weights, unless they are on the disk already. Raises `DiskFull`."""
        weights = self._held
        if weights is None:
            return
        checkpoints.write_folder(self._folder, lambda path: torch.save(weights, path / "weights.pt"), needs=self._bytes)
        self._held = None

    def read(self) -> dict[str, torch.Tensor]:
        """Return the weights, on the CPU."""
        if self._held is not None:
            return self._held
        weights: dict[str, torch.Tensor] = torch.load(
            self._folder / "weights.pt", map_location="cpu", weights_only=True
        )
        return weights
