"""Rows into a vendor's own format, on disk, named by content: the same rows are the same file, whoever asks."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmtune.errors import InvalidData
from llmtune.provider import EncodedDataset, EncodedFile

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.data.formats import RowFormat


def encode_dataset(
    dataset: Dataset, format: str, into: Path, *, validation: bool = True, allow_lossy: bool = False
) -> EncodedDataset:
    """Write the training (and validation) rows in a registered row format to content-named files in `into`.

    Args:
        dataset: the split dataset.
        format: a name registered under `llmtune.formats`.
        into: the folder; made when it is not there.
        validation: whether the vendor takes a validation file.
        allow_lossy: write rows although the format cannot carry all of them; else that raises `InvalidData`.
    """
    from llmtune.data.formats import get_format

    writer = get_format(format)
    lossy: list[str] = []
    files = []
    into.mkdir(parents=True, exist_ok=True)
    roles: list[tuple[Literal["train", "validation"], Sequence[Example]]] = [("train", dataset.train)]
    if validation and dataset.validation:
        roles.append(("validation", dataset.validation))
    for role, rows in roles:
        lost = [str(each) for row in rows for each in writer.problems(row) if each.severity == "error"]
        lossy += lost
        if allow_lossy or not lost:
            files.append(_write(role, rows, writer, format, into))
    if lossy and not allow_lossy:
        things = "one thing" if len(lossy) == 1 else f"{len(lossy)} things"
        raise InvalidData(
            f"the row format {format!r} cannot carry {things}; the first: {lossy[0]}",
            hint="mend those rows, or allow the loss with allow_lossy_data=True (--allow-lossy-data)",
        )
    return EncodedDataset(files=tuple(files), lossy=tuple(lossy))


def _write(
    role: Literal["train", "validation"], rows: Sequence[Example], writer: RowFormat, format: str, into: Path
) -> EncodedFile:
    import orjson

    digest = hashlib.sha256()
    size = 0
    handle, name = tempfile.mkstemp(dir=into, prefix=".encoding-")
    try:
        with os.fdopen(handle, "wb") as file:
            for row in rows:
                line = orjson.dumps(writer.write(row)) + b"\n"
                digest.update(line)
                size += len(line)
                file.write(line)
        path = into / f"{role}-{digest.hexdigest()[:16]}.jsonl"
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return EncodedFile(role=role, path=path, sha256=digest.hexdigest(), rows=len(rows), bytes=size, format=format)
