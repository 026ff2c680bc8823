"""A dataset file as arrays of tokens, ready to be batched."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, Unpack, cast

import numpy as np

from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidData
from llmtune_local.run_state.cache import cached, stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmtune.data.example import Example
    from llmtune.data.rendering.prepared import Prepared, PreparedRow
    from llmtune.data.rendering.tokenize import OnTooLong, RenderedRow


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
        """Count the tokens of all rows."""
        return sum(len(piece.ids) for row in self.rows for piece in row)

    def select(self, indices: Sequence[int]) -> TokenRows:
        """Return some of the rows, with the counts of the whole file."""
        return TokenRows([self.rows[index] for index in indices], self.dropped, self.truncated)


def tokenise(
    tokenizer: Any,
    examples: Iterable[Example],
    *,
    file: str | None = None,
    limit: int | None = None,
    on_too_long: OnTooLong = "error",
    template_options: Mapping[str, Any] | None = None,
    mask_empty_thinking: bool = False,
) -> TokenRows:
    """Render every row and fit it to the limit. Raises `InvalidData` with file, line and remedy."""
    renderer = Renderer(
        tokenizer, file=file, template_options=template_options, mask_empty_thinking=mask_empty_thinking
    )
    token_rows = TokenRows()
    for pieces in renderer.render_all(examples):
        sequences = []
        for row in pieces:
            fitted = row if limit is None else renderer.fit(row, limit, on_too_long)
            if fitted is None:
                token_rows.dropped += 1
                continue
            token_rows.truncated += fitted is not row
            sequences.append(TokenRow.of(fitted))
        if sequences:
            token_rows.rows.append(tuple(sequences))
    return token_rows


class RowSettings(TypedDict):
    """How rows become tokens: the longest row allowed, and inputs is done with a longer one."""

    limit: int | None
    on_too_long: OnTooLong
    template_options: NotRequired[Mapping[str, Any] | None]
    mask_empty_thinking: NotRequired[bool]


def read_rows(tokenizer: Any, path: str, **settings: Unpack[RowSettings]) -> TokenRows:
    """Read a canonical dataset file as token rows, tokenised once and then cached on disk. Raises `InvalidData`.

    The cache is that of `llmtune data prepare`, in the same form and place; the prompt's weight is no part of it, since
    the loss applies it at each step. Where nothing can be written to disk the rows are tokenised all the same.
    """
    inputs = (path, stamp(path), tokenizer.name_or_path, tokenizer.chat_template, settings)
    return cast(TokenRows, cached("rows", inputs, lambda: _read(tokenizer, path, settings)))


def _read(tokenizer: Any, path: str, settings: RowSettings) -> TokenRows:
    from llmtune.data.io.reading import load
    from llmtune.data.rendering.prepared import PrepareOptions, load_prepared, prepare, prepared_home

    examples = load(path)
    try:
        on_disk = prepare(examples, tokenizer, prepared_home(), PrepareOptions(**settings), file=path)
    except OSError:
        return tokenise(tokenizer, examples, file=path, **settings)
    try:
        return _gather_rows(load_prepared(on_disk.path), on_disk)
    except InvalidData:  # damaged since it was made
        shutil.rmtree(on_disk.path, ignore_errors=True)
        return tokenise(tokenizer, examples, file=path, **settings)


def preferred(example: Example) -> Example:
    """Turn a preference row into a row that teaches its preferred answer; return any other row as it is."""
    if example.preference is None:
        return example
    prompt = tuple(turn.replace(weight=0) if turn.role == "assistant" else turn for turn in example.messages)
    return example.replace(messages=prompt + example.preference.preferred, preference=None)


def read_pairs(tokenizer: Any, path: str, **settings: Unpack[RowSettings]) -> TokenRows:
    """Read a canonical file of preference rows: each row is (prompt and preferred answer, prompt and rejected answer).

    A pair of which one side is too long is dropped. Raises `InvalidData`.
    """
    from llmtune.data.io.reading import load

    limit, on_too_long = settings["limit"], settings["on_too_long"]
    renderer = Renderer(
        tokenizer,
        file=path,
        template_options=settings.get("template_options"),
        mask_empty_thinking=settings.get("mask_empty_thinking", False),
    )
    token_rows = TokenRows()
    for example in load(path):
        pair = renderer.render_pair(example)
        sides = (pair.preferred, pair.rejected)
        fitted = sides if limit is None else tuple(renderer.fit(side, limit, on_too_long) for side in sides)
        if any(side is None for side in fitted):
            token_rows.dropped += 1
            continue
        token_rows.truncated += any(side is not fitted_side for side, fitted_side in zip(sides, fitted, strict=True))
        token_rows.rows.append(tuple(TokenRow.of(side) for side in fitted if side is not None))
    return token_rows


def _gather_rows(rows: Iterable[PreparedRow], prepared: Prepared) -> TokenRows:
    from llmtune.data.rendering.prepared import IGNORED

    token_rows = TokenRows(dropped=prepared.dropped, truncated=prepared.truncated)
    line: int | None = None
    for row in rows:
        piece = TokenRow(row.ids, row.labels != IGNORED)
        if row.piece and row.line == line:
            token_rows.rows[-1] += (piece,)
        else:  # a row's first piece, or the first that was not too long
            token_rows.rows.append((piece,))
        line = row.line
    return token_rows
