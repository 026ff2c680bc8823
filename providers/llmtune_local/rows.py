"""A dataset file as arrays of tokens, ready to be batched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune.data.rendering import Renderer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmtune.data.example import Example
    from llmtune.data.rendering import OnTooLong, RenderedRow


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One sequence. `ids` int32 and `completion` bool, both [tokens]."""

    ids: np.ndarray[Any, np.dtype[np.int32]]
    completion: np.ndarray[Any, np.dtype[np.bool_]]

    @classmethod
    def of(cls, row: RenderedRow) -> TokenRow:
        return cls(np.array(row.ids, dtype=np.int32), np.array(row.completion_mask, dtype=np.bool_))


@dataclass(slots=True)
class TokenRows:
    """The rows of one file. A row is one sequence, or several where its template needs pieces."""

    rows: list[tuple[TokenRow, ...]] = field(default_factory=list)
    dropped: int = 0
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> int:
        """All tokens of all rows."""
        return sum(len(piece.ids) for row in self.rows for piece in row)


def tokenise(
    tokenizer: Any,
    examples: Iterable[Example],
    *,
    file: str | None = None,
    limit: int | None = None,
    on_too_long: OnTooLong = "error",
    template_options: Mapping[str, Any] | None = None,
) -> TokenRows:
    """Render and fit every row. Raises `InvalidData` with file, line and remedy."""
    renderer = Renderer(tokenizer, file=file, template_options=template_options)
    found = TokenRows()
    for pieces in renderer.render_all(examples):
        kept = []
        for row in pieces:
            fitted = row if limit is None else renderer.fit(row, limit, on_too_long)
            if fitted is None:
                found.dropped += 1
                continue
            found.truncated += fitted is not row
            kept.append(TokenRow.of(fitted))
        if kept:
            found.rows.append(tuple(kept))
    return found


def read_rows(
    tokenizer: Any,
    path: str,
    *,
    limit: int | None,
    on_too_long: OnTooLong,
    template_options: Mapping[str, Any] | None = None,
) -> TokenRows:
    """A canonical dataset file as token rows. Raises `InvalidData`."""
    from llmtune.data.reading import load

    return tokenise(
        tokenizer,
        load(path),
        file=path,
        limit=limit,
        on_too_long=on_too_long,
        template_options=template_options,
    )
