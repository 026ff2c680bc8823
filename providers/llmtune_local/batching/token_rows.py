"""A dataset file as arrays of tokens, ready to be batched."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, Unpack, cast, overload

import numpy as np

from llmtune.data.rendering.prepared import IGNORED
from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidData
from llmtune_local.images.reader import ModelImages
from llmtune_local.run_state.cache import cached, stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from llmtune.data.example import Example
    from llmtune.data.rendering.images import ImageReader
    from llmtune.data.rendering.prepared import MappedShard
    from llmtune.data.rendering.tokenize import OnTooLong, RenderedRow
    from llmtune_local.images.reader import RowImage


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One sequence. `ids` int32 and `completion` bool, both [tokens]; each token's loss counts `weight` times.

    `images` are those that some of its tokens stand for, in order.
    """

    ids: np.ndarray[Any, np.dtype[np.int32]]
    completion: np.ndarray[Any, np.dtype[np.bool_]]
    weight: float = 1.0
    images: tuple[RowImage, ...] = ()

    @classmethod
    def of(cls, row: RenderedRow, images: ModelImages | None = None) -> TokenRow:
        return cls(
            np.array(row.ids, dtype=np.int32),
            np.array(row.completion_mask, dtype=np.bool_),
            images=images.place(row.images, row.ids) if images is not None else (),
        )

    def cut(self, start: int, stop: int | None = None) -> TokenRow:
        """Return the part of the sequence from token `start` to before token `stop`; no image may be cut in two."""
        end = len(self.ids) if stop is None else stop
        images = tuple(image._replace(first=image.first - start) for image in self.images if start <= image.first < end)
        return TokenRow(self.ids[start:stop], self.completion[start:stop], self.weight, images)

    def total_weight(self, prompt_weight: float) -> float:
        """Return the sum of the weights of its trained tokens; the first token is only read."""
        completion = int(self.completion[1:].sum())
        return self.weight * (completion + prompt_weight * (len(self.ids) - 1 - completion))


class MappedRows(Sequence[tuple[TokenRow, ...]]):
    """Rows in prepared shards, read from the disk where they are looked at. 24 bytes a row stay in memory."""

    def __init__(self, shards: Sequence[MappedShard]) -> None:
        self._shards = shards
        self._shard_ends = np.cumsum([len(shard.lines) for shard in shards], dtype=np.int64)
        lines = np.concatenate([shard.lines for shard in shards])
        pieces = np.concatenate([shard.pieces for shard in shards])
        # a row begins with its first piece, or with the first that was not too long
        begins = np.concatenate(([True], (pieces[1:] == 0) | (lines[1:] != lines[:-1])))
        self._starts = np.flatnonzero(begins)
        self._stops = np.append(self._starts[1:], len(lines))
        lengths = np.concatenate([np.diff(shard.offsets).astype(np.int32) for shard in shards])
        self.tokens = np.add.reduceat(lengths, self._starts)
        """Tokens of each row."""
        self.longest = np.maximum.reduceat(lengths, self._starts)
        """Tokens of the longest sequence of each row."""

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> tuple[TokenRow, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[TokenRow, ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[TokenRow, ...] | list[tuple[TokenRow, ...]]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = range(len(self))[index]  # also from the end; raises IndexError
        return tuple(self._read(number) for number in range(self._starts[row], self._stops[row]))

    def select(self, indices: Sequence[int]) -> MappedRows:
        """Return some of the rows, which stay on the disk."""
        selected = copy.copy(self)
        chosen = np.asarray(indices, dtype=np.int64)
        selected._starts, selected._stops = self._starts[chosen], self._stops[chosen]
        selected.tokens, selected.longest = self.tokens[chosen], self.longest[chosen]
        return selected

    def _read(self, number: int) -> TokenRow:
        """Return a sequence, counted over all shards."""
        place = int(np.searchsorted(self._shard_ends, number, side="right"))
        shard = self._shards[place]
        within = number - (int(self._shard_ends[place - 1]) if place else 0)
        part = slice(int(shard.offsets[within]), int(shard.offsets[within + 1]))
        return TokenRow(shard.ids[part].copy(), shard.labels[part] != IGNORED)

    def release(self) -> None:
        """Return the memory of the rows that were looked at."""
        for shard in self._shards:
            shard.release()


@dataclass(slots=True)
class TokenRows:
    """The rows of one file. A row is one sequence, or several where its template needs pieces."""

    rows: Sequence[tuple[TokenRow, ...]] = field(default_factory=list)
    dropped: int = 0
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> int:
        """Count the tokens of all rows."""
        return int(np.sum(self.row_tokens(), dtype=np.int64))

    @property
    def longest(self) -> int:
        """Return the tokens of the longest sequence; 0 where there is none."""
        if isinstance(self.rows, MappedRows):
            return int(self.rows.longest.max())
        return max((len(piece.ids) for row in self.rows for piece in row), default=0)

    def row_tokens(self) -> Sequence[int] | NDArray[np.integer[Any]]:
        """Count the tokens of each row."""
        if isinstance(self.rows, MappedRows):
            return self.rows.tokens
        return [sum(len(piece.ids) for piece in row) for row in self.rows]

    def release(self) -> None:
        """Return the memory of rows that can be read again."""
        if isinstance(self.rows, MappedRows):
            self.rows.release()

    def select(self, indices: Sequence[int]) -> TokenRows:
        """Return some of the rows, with the counts of the whole file."""
        if isinstance(self.rows, MappedRows):
            return TokenRows(self.rows.select(indices), self.dropped, self.truncated)
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
    images: ImageReader | None = None,
) -> TokenRows:
    """Render every row and fit it to the limit. Raises `InvalidData` with file, line and remedy."""
    renderer = Renderer(
        tokenizer,
        file=file,
        template_options=template_options,
        mask_empty_thinking=mask_empty_thinking,
        images=images,
    )
    reader = images if isinstance(images, ModelImages) else None
    rows: list[tuple[TokenRow, ...]] = []
    token_rows = TokenRows(rows)
    for pieces in renderer.render_all(examples):
        sequences = []
        for row in pieces:
            fitted = row if limit is None else renderer.fit(row, limit, on_too_long)
            if fitted is None:
                token_rows.dropped += 1
                continue
            token_rows.truncated += fitted is not row
            sequences.append(TokenRow.of(fitted, reader))
        if sequences:
            rows.append(tuple(sequences))
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
    from llmtune.data.io.reading import FileRows
    from llmtune.data.rendering.prepared import PrepareOptions, map_prepared, prepare, prepared_home

    examples = FileRows(path)
    try:
        on_disk = prepare(examples, tokenizer, prepared_home(), PrepareOptions(**settings), file=path)
    except OSError:
        return tokenise(tokenizer, examples, file=path, **settings)
    try:
        shards = map_prepared(on_disk.path)
        return TokenRows(MappedRows(shards) if shards else [], on_disk.dropped, on_disk.truncated)
    except InvalidData:  # damaged since it was made
        shutil.rmtree(on_disk.path, ignore_errors=True)
        return tokenise(tokenizer, examples, file=path, **settings)


def read_image_rows(
    tokenizer: Any, path: str, images: ImageReader, **settings: Unpack[RowSettings]
) -> TokenRows | None:
    """Read a canonical dataset file some rows of which have images as token rows, which are held in memory; None where
    no row has one. Raises `InvalidData`."""
    from llmtune.data.io.reading import FileRows

    if not _may_have_images(path) or not any(turn.images for row in FileRows(path) for turn in row.messages):
        return None
    return tokenise(tokenizer, FileRows(path), file=path, images=images, **settings)


def _may_have_images(path: str) -> bool:
    """Return whether a canonical file could have a row with an image, without reading its rows. What cannot be opened
    has none: whoever reads its rows says why."""
    try:
        with Path(path).open("rb") as file:
            return any(b"image_url" in line for line in file)
    except OSError:
        return False


def preferred(example: Example) -> Example:
    """Turn a preference row into a row that teaches its preferred answer; return any other row as it is."""
    if example.preference is None:
        return example
    prompt = tuple(turn.replace(weight=0) if turn.role == "assistant" else turn for turn in example.messages)
    return example.replace(messages=prompt + example.preference.preferred, preference=None)


def read_pairs(tokenizer: Any, path: str, **settings: Unpack[RowSettings]) -> TokenRows:
    """Read a canonical file of preference rows as `tokenise_pairs` does. Raises `InvalidData`."""
    from llmtune.data.io.reading import load

    return tokenise_pairs(tokenizer, load(path), file=path, **settings)


def tokenise_pairs(
    tokenizer: Any, examples: Iterable[Example], *, file: str | None = None, **settings: Unpack[RowSettings]
) -> TokenRows:
    """Render preference rows: each becomes (prompt and preferred answer, prompt and rejected answer).

    A pair of which one side is too long is dropped. Raises `InvalidData`.
    """
    limit, on_too_long = settings["limit"], settings["on_too_long"]
    renderer = Renderer(
        tokenizer,
        file=file,
        template_options=settings.get("template_options"),
        mask_empty_thinking=settings.get("mask_empty_thinking", False),
    )
    rows: list[tuple[TokenRow, ...]] = []
    token_rows = TokenRows(rows)
    for example in examples:
        pair = renderer.render_pair(example)
        sides = (pair.preferred, pair.rejected)
        fitted = sides if limit is None else tuple(renderer.fit(side, limit, on_too_long) for side in sides)
        if any(side is None for side in fitted):
            token_rows.dropped += 1
            continue
        token_rows.truncated += any(side is not fitted_side for side, fitted_side in zip(sides, fitted, strict=True))
        rows.append(tuple(TokenRow.of(side) for side in fitted if side is not None))
    return token_rows
