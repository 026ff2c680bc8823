"""Default sizes of computation: tokens per micro-batch, and positions whose logits are computed at once."""

from __future__ import annotations

#: Logits held at once: 64 MiB of float32 (on a GPU, 512), but enough rows to keep the matrix product busy.
_CHUNK_ELEMENTS, _CHUNK_ELEMENTS_GPU, _CHUNK_ROWS = 1 << 24, 1 << 27, 128


def token_budget(device: str) -> int:
    """Return the default tokens per micro-batch: enough to keep the matrix products busy, and little memory."""
    return 2048 if device == "cpu" else 16384


def chunk_rows(vocabulary: int, device: str) -> int:
    """Return the number of positions whose logits are computed at once."""
    elements = _CHUNK_ELEMENTS_GPU if device == "cuda" else _CHUNK_ELEMENTS
    return max(_CHUNK_ROWS, elements // max(1, vocabulary))
