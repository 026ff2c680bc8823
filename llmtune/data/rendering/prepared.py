"""Rows as tokens on disk, cached by content: the same rows, tokenizer and options are tokenised once.

A folder `prepared-HASH` holds `manifest.json` and shards. A shard is the concatenation of its sequences, as arrays of
one value per token: `ids`, `labels` (the id, or -100 where nothing is learned), `weights` of the loss (1 on
completions, the prompt's loss weight on other tokens, 0 on the first token, which nothing predicts) and `positions`
(from 0 in every sequence). `offsets` are where sequences begin, with the end of the last one. One value per sequence
have `lines` (in the file of the rows), `pieces` (see `RenderedRow`) and `sides` (an index of `SIDES`).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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

#: The version of the format; folders of another version are refused.
FORMAT = 1
#: The label of tokens that are not learned, as in PyTorch's cross-entropy.
IGNORED = -100
#: The answer of a preference row that a sequence holds; empty for other rows.
SIDES = ("", "preferred", "rejected")
#: Tokens per shard; decides how much memory preparing and reading take (16 bytes per token).
SHARD_TOKENS = 1 << 22
_TOKEN_ARRAYS = ("ids", "labels", "weights", "positions")


class Prepared(NamedTuple):
    """A folder of prepared rows. `rows` counts sequences, `trained` the tokens that are learned."""

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
    """One sequence, as arrays of one value per token."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    weights: NDArray[np.float32]
    positions: NDArray[np.int32]
    line: int
    piece: int
    side: int


@dataclass(frozen=True)
class PrepareOptions:
    """How rows become tokens.

    `limit` is the longest sequence in tokens, and `on_too_long` what becomes of longer ones. `prompt_loss_weight` is
    0..1. `template_options` are extra variables for the chat template, as in training. `mask_empty_thinking` does not
    learn a template's empty `<think></think>`.
    """

    limit: int | None = None
    on_too_long: OnTooLong = "error"
    prompt_loss_weight: float = 0.0
    template_options: Mapping[str, Any] | None = None
    mask_empty_thinking: bool = False


def fingerprint(tokenizer: Any) -> str:
    """Return a hash of the tokenizer: of its serialised form and its chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    serialised = backend.to_str() if hasattr(backend, "to_str") else repr(tokenizer)
    template = str(getattr(tokenizer, "chat_template", None))
    return hashlib.sha256(f"{serialised}\0{template}".encode()).hexdigest()


def prepare(
    examples: Iterable[Example],
    tokenizer: Any,
    into: str | os.PathLike[str],
    options: PrepareOptions | None = None,
    *,
    container: Literal["safetensors", "arrow"] = "safetensors",
    file: str | None = None,
) -> Prepared:
    """Tokenise rows into a folder below `into`, or return the folder where it exists already.

    Args:
        examples: the rows, which are iterated over twice (a list, or `FileRows`, and no iterator); preference rows give
            two sequences each. Memory does not grow with their number.
        tokenizer: a transformers fast tokenizer with a chat template.
        into: the folder that holds the prepared folders; it is created.
        file: the path of the rows, for errors.

    Raises `InvalidData` with file and line for a row that cannot be rendered or is too long; then nothing is written.
    """
    options = options or PrepareOptions()
    rows, pairs = _hash_rows(examples)
    settings = {
        "format": FORMAT,
        "tokenizer": fingerprint(tokenizer),
        "limit": options.limit,
        "on_too_long": options.on_too_long if options.limit is not None else None,
        "prompt_loss_weight": options.prompt_loss_weight,
        "template_options": dict(options.template_options or {}),
        "container": container,
        "rows": rows,
    }
    if options.mask_empty_thinking:  # only where it is set: folders of earlier versions have no such key
        settings["mask_empty_thinking"] = True
    key = hashlib.sha256(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)).hexdigest()
    folder = Path(into) / f"prepared-{key[:16]}"
    if (folder / "manifest.json").is_file():
        return _open(folder, created=False)
    make_private_folder(folder.parent)
    working = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".preparing-"))
    try:
        writer = _ShardWriter(working, container, options.prompt_loss_weight)
        renderer = Renderer(
            tokenizer,
            file=file,
            template_options=options.template_options,
            mask_empty_thinking=options.mask_empty_thinking,
        )
        for row, side in _render(examples, renderer, options, writer, pairs=pairs):
            writer.add(row, side)
        writer.finish(settings)
        try:
            working.rename(folder)
        except OSError:
            if not (folder / "manifest.json").is_file():  # else another process prepared the same rows first
                raise
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return _open(folder, created=True)


def _hash_rows(examples: Iterable[Example]) -> tuple[str, bool]:
    """Return a hash of the rows, and whether there is a preference row among them."""
    digest = hashlib.sha256()
    pairs = False
    for example in examples:
        pairs = pairs or example.preference is not None
        digest.update(orjson.dumps(example._replace(group=None), default=_as_json, option=orjson.OPT_NON_STR_KEYS))
    return digest.hexdigest(), pairs


def _as_json(value: Any) -> Any:
    if isinstance(value, Message):
        return list(value.key_fields)
    return list(value) if isinstance(value, tuple) else repr(value)


def _render(
    examples: Iterable[Example], renderer: Renderer, options: PrepareOptions, writer: _ShardWriter, *, pairs: bool
) -> Iterator[tuple[RenderedRow, int]]:
    """Yield sequences within the limit, each with the index of its side; the writer counts those dropped or cut.

    Of a preference row both sequences are dropped where one is too long.
    """

    def fit(row: RenderedRow) -> RenderedRow | None:
        if options.limit is None:
            return row
        cut = renderer.fit(row, options.limit, options.on_too_long)
        writer.dropped += cut is None
        writer.truncated += cut is not None and cut is not row
        return cut

    if not pairs:
        for pieces in renderer.render_all(examples):
            for row in pieces:
                cut = fit(row)
                if cut is not None:
                    yield cut, 0
        return
    for example in examples:
        pair = renderer.render_pair(example)
        sides = fit(pair.preferred), fit(pair.rejected)
        if sides[0] is not None and sides[1] is not None:
            yield sides[0], 1
            yield sides[1], 2


class _ShardWriter:
    """Collects sequences and writes them as shards of `SHARD_TOKENS` tokens, and the manifest at the end."""

    def __init__(self, folder: Path, container: str, prompt_loss_weight: float) -> None:
        self._folder = folder
        self._container = container
        self._weight = prompt_loss_weight
        self._clear()
        self._shards: list[dict[str, Any]] = []
        self.rows = self.tokens = self.trained = self.dropped = self.truncated = 0

    def _clear(self) -> None:
        self._ids, self._completion = array("i"), bytearray()
        self._lengths, self._lines, self._pieces, self._sides = array("q"), array("q"), array("i"), array("b")

    def add(self, row: RenderedRow, side: int) -> None:
        self._ids.extend(row.ids)
        self._completion.extend(row.completion_mask)
        self._lengths.append(len(row.ids))
        self._lines.append(row.line or 0)
        self._pieces.append(row.piece)
        self._sides.append(side)
        self.rows += 1
        self.tokens += len(row.ids)
        self.trained += row.trained_tokens
        if len(self._ids) >= SHARD_TOKENS:
            self._flush()

    def _make_arrays(self) -> dict[str, Any]:
        import numpy as np

        lengths = np.frombuffer(self._lengths, np.int64)
        ids = np.frombuffer(self._ids, np.int32)
        mask = np.frombuffer(self._completion, np.bool_)
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        weights = np.where(mask, np.float32(1), np.float32(self._weight)).astype(np.float32)
        weights[offsets[:-1]] = 0  # nothing predicts the first token of a sequence
        return {
            "ids": ids,
            "labels": np.where(mask, ids, np.int32(IGNORED)).astype(np.int32),
            "weights": weights,
            "positions": (np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)).astype(np.int32),
            "offsets": offsets,
            "lines": np.frombuffer(self._lines, np.int64),
            "pieces": np.frombuffer(self._pieces, np.int32),
            "sides": np.frombuffer(self._sides, np.int8),
        }

    def _flush(self) -> None:
        if not self._lengths:
            return
        name = f"rows-{len(self._shards):05d}.{self._container}"
        path = self._folder / name
        arrays = self._make_arrays()
        if self._container == "arrow":
            _write_arrow(path, arrays)
        else:
            _import_safetensors().save_file(arrays, str(path), metadata={"format": str(FORMAT)})
        self._shards.append({"name": name, "rows": len(self._lengths), "sha256": _hash_file(path)})
        self._clear()

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


def _import_safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as fault:
        raise MissingExtra("local", "safetensors", purpose="prepared rows") from fault
    return safetensors.numpy


def _import_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as fault:
        raise MissingExtra("data", "pyarrow", purpose="prepared rows in Arrow") from fault
    return pyarrow


def _write_arrow(path: Path, arrays: dict[str, Any]) -> None:
    pyarrow = _import_pyarrow()
    offsets = pyarrow.array(arrays["offsets"])
    columns = {name: pyarrow.LargeListArray.from_arrays(offsets, pyarrow.array(arrays[name])) for name in _TOKEN_ARRAYS}
    columns |= {name: pyarrow.array(arrays[name]) for name in ("lines", "pieces", "sides")}
    table = pyarrow.table(columns)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _open(folder: Path, *, created: bool) -> Prepared:
    """Read the manifest of a prepared folder. Raises `InvalidData` for another version of the format."""
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
        made=created,
    )


def prepared_home() -> Path:
    """Return the default folder of prepared rows, which local training uses too; it may be deleted at any time."""
    from llmtune.config import home

    return home() / "prepared"


def load_prepared(folder: str | os.PathLike[str]) -> Iterator[PreparedRow]:
    """Yield the sequences of a prepared folder, with one shard in memory at a time.

    Raises `InvalidData` for a shard that is missing or damaged, before any of its sequences is yielded.
    """
    for path in _check_shards(Path(folder)):
        arrays = _read_arrow(path) if path.suffix == ".arrow" else _import_safetensors().load_file(str(path))
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


def _check_shards(root: Path) -> Iterator[Path]:
    """Yield the shards of a prepared folder. Raises `InvalidData` for one that is missing or damaged."""
    _open(root, created=False)
    for shard in orjson.loads((root / "manifest.json").read_bytes())["shards"]:
        path = root / shard["name"]
        if not path.is_file() or _hash_file(path) != shard["sha256"]:
            raise InvalidData(f"{path}: not what was prepared", hint=f"delete {root}; it is made again")
        yield path


class MappedShard:
    """The arrays of a shard in safetensors, which the system reads from the disk where they are looked at.

    `offsets`, `lines`, `pieces` and `sides` have one value per sequence (`offsets` one more), `ids` and `labels` one
    per token. The arrays cannot be written.
    """

    _TYPES = {"I32": "int32", "I64": "int64", "I8": "int8"}

    def __init__(self, path: Path) -> None:
        import numpy as np

        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size = int.from_bytes(self._map[:8], "little")
        header = orjson.loads(self._map[8 : 8 + size])

        def view(name: str) -> NDArray[Any]:
            begin, end = header[name]["data_offsets"]
            kind = np.dtype(self._TYPES[header[name]["dtype"]])
            return np.frombuffer(self._map, kind, (end - begin) // kind.itemsize, 8 + size + begin)

        self.ids, self.labels, self.offsets = view("ids"), view("labels"), view("offsets")
        self.lines, self.pieces, self.sides = view("lines"), view("pieces"), view("sides")

    def release(self) -> None:
        """Return the memory of what was looked at, where the system can: it is read again from its file cache."""
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)


def map_prepared(folder: str | os.PathLike[str]) -> list[MappedShard]:
    """Return the shards of a folder that was prepared in safetensors. Raises `InvalidData` for a damaged one."""
    return [MappedShard(path) for path in _check_shards(Path(folder))]


def _read_arrow(path: Path) -> dict[str, Any]:
    pyarrow = _import_pyarrow()
    from pyarrow import ipc

    with pyarrow.memory_map(str(path), "r") as mapped:
        table = ipc.open_file(mapped).read_all().combine_chunks()
        lists = {name: table[name].chunk(0) for name in _TOKEN_ARRAYS}
        arrays = {name: column.flatten().to_numpy() for name, column in lists.items()}
        arrays["offsets"] = lists["ids"].offsets.to_numpy()
        arrays |= {name: table[name].to_numpy() for name in ("lines", "pieces", "sides")}
        return {name: array.copy() for name, array in arrays.items()}
