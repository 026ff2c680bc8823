"""Rows into a vendor's own format, on disk, named by content: the same rows are the same file, whoever asks."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmtune.provider.types import EncodedDataset, EncodedFile

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.data.findings import Finding
    from llmtune.data.formats.base import RowFormat
    from llmtune.provider.types import Target


def encode_dataset(
    dataset: Dataset, format: str, into: Path, *, validation: bool = True, target: Target | None = None
) -> EncodedDataset:
    """Write the training (and validation) rows in a registered row format to content-named files in `into`.

    What the format cannot carry is left out and listed in `lossy`, row by row: whether that is allowed is for the
    caller to decide, and a run refuses it unless it was asked to go on.

    Args:
        dataset: the split dataset.
        format: a name registered under `llmtune.formats`.
        into: the folder; made when it is not there.
        validation: whether the vendor takes a validation file.
        target: the backend, model and method whose own rules for rows and files are demanded, as `data check` does.

    Raises:
        InvalidData: a row of another kind, which the format cannot hold at all, or one that the backend refuses.
    """
    from llmtune.data.checks.vendor_rules import PartSummary, find_file_problems, find_row_problems, summarize_part
    from llmtune.data.convert import is_fatal
    from llmtune.data.findings import invalid_data
    from llmtune.data.formats.registry import get_writer, vendors

    source = dataset.source
    writer = get_writer(format)
    into.mkdir(parents=True, exist_ok=True)
    parts: list[tuple[Literal["train", "validation"], Sequence[Example]]] = [("train", dataset.train)]
    if validation and dataset.validation:
        parts.append(("validation", dataset.validation))
    lost = [
        finding.at(dataset.source, row.line)
        for _, rows in parts
        for row in rows
        for finding in writer.problems(row)
        if finding.is_error
    ]
    impossible = [finding for finding in lost if is_fatal(finding, allow_lossy=True)]
    if impossible:
        raise invalid_data(impossible)  # nothing would be left of such a row: no permission to lose things covers that
    rules = vendors().get(target.kind) if target is not None else None
    if rules is not None and target is not None:
        _refuse(
            finding
            for _, rows in parts
            for finding in find_row_problems(rules, rows, source, target.method, target.model)
        )
        summaries: dict[str, PartSummary] = {role: summarize_part(rows) for role, rows in parts}
        _refuse(find_file_problems(rules, summaries, source, target.method, target.model))
    lossy = tuple(str(finding) for finding in lost)
    files = tuple(_write(role, rows, writer, format, into) for role, rows in parts)
    if rules is not None and target is not None:
        sizes: dict[str, int] = {file.role: file.bytes for file in files}
        _refuse(find_file_problems(rules, summaries, source, target.method, target.model, sizes))
    return EncodedDataset(files=files, lossy=lossy)


def _refuse(findings: Iterable[Finding]) -> None:
    """Raise `InvalidData` where there is an error among the findings."""
    from llmtune.data.findings import invalid_data

    errors = [finding for finding in findings if finding.is_error]
    if errors:
        raise invalid_data(errors)


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
