"""How much is computed at a time, where nobody says: tokens of a micro-batch, positions whose logits stand at once."""

from __future__ import annotations

#: Logits held at once: 64 MiB of float32 (on a GPU, 512), but enough rows to keep the matrix product busy.
_CHUNK_ELEMENTS, _CHUNK_ELEMENTS_GPU, _CHUNK_ROWS = 1 << 24, 1 << 27, 128


def token_budget(device: str) -> int:
    """Tokens of a micro-batch, where nobody says: enough to keep the matrix products busy, and little memory."""
    return 2048 if device == "cpu" else 16384


def chunk_rows(vocabulary: int, device: str) -> int:
    """Positions whose logits stand at one time."""
    elements = _CHUNK_ELEMENTS_GPU if device == "cuda" else _CHUNK_ELEMENTS
    return max(_CHUNK_ROWS, elements // max(1, vocabulary))
