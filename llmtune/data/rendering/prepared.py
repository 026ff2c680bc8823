"""Rows as tokens on disk, named by what they were made of: the same rows, tokenizer and settings are made once.

A folder `prepared-HASH` holds `manifest.json` and shards. In each shard the rows stand one behind the other:
`ids`, `labels` (the id, or -100 where nothing is learned), `weights` (1 on completions, the prompt's loss weight on the
rest, 0 on what nothing predicts), `positions` (from 0 in every row), and per row `offsets` (one more than rows),
`lines`, `pieces` and `sides` (0; in preference rows 1 for the preferred and 2 for the rejected answer).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from llmtune._safety.private_files import make_private_folder
from llmtune.data.example import Example, Message
from llmtune.data.rendering.tokenize import OnTooLong, RenderedRow, Renderer
from llmtune.errors import InvalidData, MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
IGNORED = -100
SIDES = ("", "preferred", "rejected")
#: Tokens of a shard; decides how much memory preparing and reading take (16 bytes a token).
SHARD_TOKENS = 1 << 22
_TOKENS = ("ids", "labels", "weights", "positions")


class Prepared(NamedTuple):
    """A folder of prepared rows."""

    path: Path
    rows: int
    tokens: int
    trained: int
    dropped: int
    truncated: int
    shards: tuple[str, ...]
    made: bool
    """False when the folder was there already."""


class PreparedRow(NamedTuple):
    """One row, as arrays of the same length."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    weights: NDArray[np.float32]
    positions: NDArray[np.int32]
    line: int
    piece: int
    side: int


def fingerprint(tokenizer: Any) -> str:
    """What a tokenizer is: the hash of its own description and of its chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    described = backend.to_str() if hasattr(backend, "to_str") else repr(tokenizer)
    template = str(getattr(tokenizer, "chat_template", None))
    return hashlib.sha256(f"{described}\0{template}".encode()).hexdigest()


def prepare(
    examples: Sequence[Example],
    tokenizer: Any,
    into: str | os.PathLike[str],
    *,
    limit: int | None = None,
    on_too_long: OnTooLong = "error",
    prompt_loss_weight: float = 0.0,
    template_options: Mapping[str, Any] | None = None,
    mask_empty_thinking: bool = False,
    container: Literal["safetensors", "arrow"] = "safetensors",
    file: str | None = None,
) -> Prepared:
    """Write rows as tokens below `into`; what is already there is not made again.

    Args:
        examples: the rows; preference rows give two sequences each.
        tokenizer: a transformers fast tokenizer with a chat template.
        limit: longest sequence in tokens; `on_too_long` says what becomes of longer ones.
        prompt_loss_weight: weight of prompt tokens, 0..1.
        template_options: extra variables for the chat template, as in training.
        mask_empty_thinking: leave a template's empty `<think></think>` unlearned.
        file: named in errors.
    """
    settings = {
        "format": FORMAT,
        "tokenizer": fingerprint(tokenizer),
        "limit": limit,
        "on_too_long": on_too_long if limit is not None else None,
        "prompt_loss_weight": prompt_loss_weight,
        "template_options": dict(template_options or {}),
        "container": container,
        "rows": _rows_hash(examples),
    }
    if mask_empty_thinking:
        settings["mask_empty_thinking"] = True
    key = hashlib.sha256(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)).hexdigest()
    folder = Path(into) / f"prepared-{key[:16]}"
    if (folder / "manifest.json").is_file():
        return _opened(folder, made=False)
    make_private_folder(folder.parent)
    working = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".preparing-"))
    try:
        writer = _Writer(working, container, prompt_loss_weight)
        renderer = Renderer(
            tokenizer, file=file, template_options=template_options, mask_empty_thinking=mask_empty_thinking
        )
        for row, side in _rendered(examples, renderer, limit, on_too_long, writer):
            writer.add(row, side)
        writer.finish(settings)
        try:
            working.rename(folder)
        except OSError:
            if not (folder / "manifest.json").is_file():  # another process made the same folder first
                raise
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return _opened(folder, made=True)


def _rows_hash(examples: Iterable[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(orjson.dumps(example._replace(group=None), default=_plain, option=orjson.OPT_NON_STR_KEYS))
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return list(value.key_fields)
    return list(value) if isinstance(value, tuple) else repr(value)


def _rendered(
    examples: Iterable[Example], renderer: Renderer, limit: int | None, on_too_long: OnTooLong, writer: _Writer
) -> Iterator[tuple[RenderedRow, int]]:
    def fitted(row: RenderedRow) -> RenderedRow | None:
        if limit is None:
            return row
        cut = renderer.fit(row, limit, on_too_long)
        writer.dropped += cut is None
        writer.truncated += cut is not None and cut is not row
        return cut

    def plain() -> Iterator[Example]:
        for example in examples:
            if example.preference is not None:
                raise InvalidData("preference rows and others stand in one set", hint="keep one kind of rows a file")
            yield example

    pairs = [example for example in examples if example.preference is not None]
    if not pairs:
        for pieces in renderer.render_all(plain()):
            for row in pieces:
                cut = fitted(row)
                if cut is not None:
                    yield cut, 0
        return
    for example in examples:
        pair = renderer.render_pair(example)
        sides = fitted(pair.preferred), fitted(pair.rejected)
        if sides[0] is not None and sides[1] is not None:
            yield sides[0], 1
            yield sides[1], 2


class _Writer:
    def __init__(self, folder: Path, container: str, prompt_loss_weight: float) -> None:
        self._folder = folder
        self._container = container
        self._weight = prompt_loss_weight
        self._rows: list[tuple[RenderedRow, int]] = []
        self._held = 0
        self._shards: list[dict[str, Any]] = []
        self.rows = self.tokens = self.trained = self.dropped = self.truncated = 0

    def add(self, row: RenderedRow, side: int) -> None:
        self._rows.append((row, side))
        self._held += len(row.ids)
        self.rows += 1
        self.tokens += len(row.ids)
        self.trained += row.trained_tokens
        if self._held >= SHARD_TOKENS:
            self._flush()

    def _arrays(self) -> dict[str, Any]:
        import numpy as np

        lengths = [len(row.ids) for row, _ in self._rows]
        ids = np.fromiter((token for row, _ in self._rows for token in row.ids), np.int32, self._held)
        mask = np.fromiter((flag for row, _ in self._rows for flag in row.completion_mask), np.bool_, self._held)
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        weights = np.where(mask, np.float32(1), np.float32(self._weight)).astype(np.float32)
        weights[offsets[:-1]] = 0  # nothing predicts the first token of a row
        return {
            "ids": ids,
            "labels": np.where(mask, ids, np.int32(IGNORED)).astype(np.int32),
            "weights": weights,
            "positions": (np.arange(self._held) - np.repeat(offsets[:-1], lengths)).astype(np.int32),
            "offsets": offsets,
            "lines": np.array([row.line or 0 for row, _ in self._rows], dtype=np.int64),
            "pieces": np.array([row.piece for row, _ in self._rows], dtype=np.int32),
            "sides": np.array([side for _, side in self._rows], dtype=np.int8),
        }

    def _flush(self) -> None:
        if not self._rows:
            return
        name = f"rows-{len(self._shards):05d}.{self._container}"
        path = self._folder / name
        arrays = self._arrays()
        if self._container == "arrow":
            _write_arrow(path, arrays)
        else:
            _safetensors().save_file(arrays, str(path), metadata={"format": str(FORMAT)})
        self._shards.append({"name": name, "rows": len(self._rows), "sha256": _sha256(path)})
        self._rows, self._held = [], 0

    def finish(self, settings: dict[str, Any]) -> None:
        self._flush()
        manifest = {
            **settings,
            "source_rows": settings["rows"],
            "rows": self.rows,
            "tokens": self.tokens,
            "trained": self.trained,
            "dropped": self.dropped,
            "truncated": self.truncated,
            "shards": self._shards,
        }
        path = self._folder / "manifest.json"
        path.write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as fault:
        raise MissingExtra("local", "safetensors", purpose="prepared rows") from fault
    return safetensors.numpy


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as fault:
        raise MissingExtra("data", "pyarrow", purpose="prepared rows in Arrow") from fault
    return pyarrow


def _write_arrow(path: Path, arrays: dict[str, Any]) -> None:
    pyarrow = _pyarrow()
    offsets = pyarrow.array(arrays["offsets"])
    columns = {name: pyarrow.LargeListArray.from_arrays(offsets, pyarrow.array(arrays[name])) for name in _TOKENS}
    columns |= {name: pyarrow.array(arrays[name]) for name in ("lines", "pieces", "sides")}
    table = pyarrow.table(columns)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _opened(folder: Path, *, made: bool) -> Prepared:
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    if manifest.get("format") != FORMAT:
        raise InvalidData(f"{folder}: prepared in format {manifest.get('format')}, this is {FORMAT}; prepare it again")
    return Prepared(
        path=folder,
        rows=manifest["rows"],
        tokens=manifest["tokens"],
        trained=manifest["trained"],
        dropped=manifest["dropped"],
        truncated=manifest["truncated"],
        shards=tuple(shard["name"] for shard in manifest["shards"]),
        made=made,
    )


def prepared_home() -> Path:
    """Where tokens are kept when no folder is named; local training looks here. It may be deleted at any time."""
    from llmtune.config import home

    return home() / "prepared"


def load_prepared(folder: str | os.PathLike[str]) -> Iterator[PreparedRow]:
    """The rows of a prepared folder, one shard in memory at a time.

    Raises `InvalidData` for a folder that is not whole, before any of that shard's rows is given.
    """
    place = Path(folder)
    _opened(place, made=False)
    for shard in orjson.loads((place / "manifest.json").read_bytes())["shards"]:
        name = shard["name"]
        if not (place / name).is_file() or _sha256(place / name) != shard["sha256"]:
            raise InvalidData(f"{place / name}: not what was prepared", hint=f"delete {place}; it is made again")
        arrays = _read_arrow(place / name) if name.endswith(".arrow") else _safetensors().load_file(str(place / name))
        offsets = arrays["offsets"].tolist()
        for row, (begin, end) in enumerate(pairwise(offsets)):
            yield PreparedRow(
                ids=arrays["ids"][begin:end],
                labels=arrays["labels"][begin:end],
                weights=arrays["weights"][begin:end],
                positions=arrays["positions"][begin:end],
                line=int(arrays["lines"][row]),
                piece=int(arrays["pieces"][row]),
                side=int(arrays["sides"][row]),
            )


def _read_arrow(path: Path) -> dict[str, Any]:
    pyarrow = _pyarrow()
    from pyarrow import ipc

    with pyarrow.memory_map(str(path), "r") as mapped:
        table = ipc.open_file(mapped).read_all().combine_chunks()
        lists = {name: table[name].chunk(0) for name in _TOKENS}
        arrays = {name: column.flatten().to_numpy() for name, column in lists.items()}
        arrays["offsets"] = lists["ids"].offsets.to_numpy()
        arrays |= {name: table[name].to_numpy() for name in ("lines", "pieces", "sides")}
        return {name: array.copy() for name, array in arrays.items()}
