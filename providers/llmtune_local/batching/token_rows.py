"""A dataset file as arrays of tokens, ready to be batched."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, Unpack, cast

import numpy as np

from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidData
from llmtune_local.run_state.cache import kept, stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    mask_empty_thinking: bool = False,
) -> TokenRows:
    """Render and fit every row. Raises `InvalidData` with file, line and remedy."""
    renderer = Renderer(
        tokenizer, file=file, template_options=template_options, mask_empty_thinking=mask_empty_thinking
    )
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


class RowSettings(TypedDict):
    """How rows become tokens: the longest that a row may be, and what becomes of a longer one."""

    limit: int | None
    on_too_long: OnTooLong
    template_options: NotRequired[Mapping[str, Any] | None]
    mask_empty_thinking: NotRequired[bool]


def read_rows(tokenizer: Any, path: str, **settings: Unpack[RowSettings]) -> TokenRows:
    """A canonical dataset file as token rows, tokenised once and then found on disk. Raises `InvalidData`.

    They are the rows of `llmtune data prepare`, in the same form and place; the prompt's weight is no part of them,
    since the loss weighs at each step. Where nothing can be kept on disk the rows are tokenised all the same.
    """
    what = (path, stamp(path), tokenizer.name_or_path, tokenizer.chat_template, settings)
    return cast(TokenRows, kept("rows", what, lambda: _read(tokenizer, path, settings)))


def _read(tokenizer: Any, path: str, settings: RowSettings) -> TokenRows:
    from llmtune.data.io.reading import load
    from llmtune.data.rendering.prepared import load_prepared, prepare, prepared_home

    examples = load(path)
    try:
        on_disk = prepare(examples, tokenizer, prepared_home(), file=path, **settings)
    except OSError:
        return tokenise(tokenizer, examples, file=path, **settings)
    try:
        return _gathered(load_prepared(on_disk.path), on_disk)
    except InvalidData:  # damaged since it was made
        shutil.rmtree(on_disk.path, ignore_errors=True)
        return tokenise(tokenizer, examples, file=path, **settings)


def preferred(example: Example) -> Example:
    """A preference row as a row that teaches its preferred answer; any other row as it is."""
    if example.preference is None:
        return example
    prompt = tuple(turn.replace(weight=0) if turn.role == "assistant" else turn for turn in example.messages)
    return example.replace(messages=prompt + example.preference.preferred, preference=None)


def read_pairs(tokenizer: Any, path: str, **settings: Unpack[RowSettings]) -> TokenRows:
    """A canonical file of preference rows: each row is (prompt and preferred answer, prompt and rejected answer).

    A pair of which one side is too long is dropped as a whole. Raises `InvalidData`.
    """
    from llmtune.data.io.reading import load

    limit, on_too_long = settings["limit"], settings["on_too_long"]
    renderer = Renderer(
        tokenizer,
        file=path,
        template_options=settings.get("template_options"),
        mask_empty_thinking=settings.get("mask_empty_thinking", False),
    )
    found = TokenRows()
    for example in load(path):
        pair = renderer.render_pair(example)
        sides = (pair.preferred, pair.rejected)
        fitted = sides if limit is None else tuple(renderer.fit(side, limit, on_too_long) for side in sides)
        if any(side is None for side in fitted):
            found.dropped += 1
            continue
        found.truncated += any(one is not other for one, other in zip(sides, fitted, strict=True))
        found.rows.append(tuple(TokenRow.of(side) for side in fitted if side is not None))
    return found


def _gathered(rows: Iterable[PreparedRow], kept: Prepared) -> TokenRows:
    from llmtune.data.rendering.prepared import IGNORED

    found = TokenRows(dropped=kept.dropped, truncated=kept.truncated)
    line: int | None = None
    for row in rows:
        piece = TokenRow(row.ids, row.labels != IGNORED)
        if row.piece and row.line == line:
            found.rows[-1] += (piece,)
        else:  # a row's first piece, or the first that was not too long
            found.rows.append((piece,))
        line = row.line
    return found
