"""Rows into a vendor's own format, on disk, named by content: the same rows are the same file, whoever asks."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmtune.provider.types import EncodedDataset, EncodedFile

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.data.formats.base import RowFormat


def encode_dataset(dataset: Dataset, format: str, into: Path, *, validation: bool = True) -> EncodedDataset:
    """Write the training (and validation) rows in a registered row format to content-named files in `into`.

    What the format cannot carry is left out and listed in `lossy`, row by row: whether that is allowed is for the
    caller to decide, and a run refuses it unless it was asked to go on.

    Args:
        dataset: the split dataset.
        format: a name registered under `llmtune.formats`.
        into: the folder; made when it is not there.
        validation: whether the vendor takes a validation file.

    Raises:
        InvalidData: a row of another kind, which the format cannot hold at all.
    """
    from llmtune.data.convert import refuses
    from llmtune.data.findings import refuse
    from llmtune.data.formats.registry import get_writer

    writer = get_writer(format)
    into.mkdir(parents=True, exist_ok=True)
    parts: list[tuple[Literal["train", "validation"], Sequence[Example]]] = [("train", dataset.train)]
    if validation and dataset.validation:
        parts.append(("validation", dataset.validation))
    lost = [each.at(dataset.source, row.line) for _, rows in parts for row in rows for each in writer.problems(row)]
    lost = [each for each in lost if each.is_error]
    impossible = [each for each in lost if refuses(each, allow_lossy=True)]
    if impossible:
        raise refuse(impossible)  # nothing would be left of such a row: no permission to lose things covers that
    lossy = tuple(str(each) for each in lost)
    files = tuple(_write(role, rows, writer, format, into) for role, rows in parts)
    return EncodedDataset(files=files, lossy=lossy)


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
