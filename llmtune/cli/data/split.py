"""`llmtune data split`: split a file into train, validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmtune.cli.data.options import (
    ColumnsOption,
    FileArgument,
    FormatOption,
    JsonOption,
    LabelOption,
    OnEmptyOption,
    SystemOption,
    check_format,
    read_columns,
)
from llmtune.cli.data.output import print_finding
from llmtune.cli.data.preview import collect_examples


def split(
    file: FileArgument,
    into: Annotated[Path, typer.Option("--into", "-o", help="Folder to write the parts to.")],
    shares: Annotated[
        str, typer.Option("--split", help="Three fractions that sum to 1, three row counts, or 80/10/10.")
    ] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    stratify: Annotated[
        bool | None,
        typer.Option(
            "--stratify/--no-stratify", help="Keep the proportions of labels; by default when rows have labels."
        ),
    ] = None,
    group_by: Annotated[str | None, typer.Option(help="Rows with an equal value of this key stay together.")] = None,
    near_duplicates: Annotated[
        bool, typer.Option("--near/--no-near", help="Keep near-duplicate prompts in the same part, too.")
    ] = True,
    to: Annotated[str | None, typer.Option(help="Row format to write; by default the file's own.")] = None,
    format: FormatOption = "auto",
    column: ColumnsOption = None,
    label_column: LabelOption = None,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Split a file into train, validation and test by hash, so that a row's part does not depend on the row order."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.convert import write
    from llmtune.data.io.reading import Reading
    from llmtune.data.split import split as split_rows
    from llmtune.errors import LlmtuneError

    reading = Reading(
        file,
        check_format(format),
        columns=read_columns(column),
        label_column=label_column,
        group_by=group_by,
        on_empty=on_empty,
        system=system,
    )
    examples = collect_examples(reading)
    assert reading.format is not None
    parts = split_rows(examples, _parse_shares(shares), seed=seed, stratify=stratify, keep_similar=near_duplicates)
    target = to or reading.format.name
    paths = {name: into / f"{name}.jsonl" for name in ("train", "validation", "test")}
    existing = [str(path) for path in paths.values() if path.exists()]
    if existing and not overwrite:
        raise LlmtuneError(f"{existing[0]} already exists", hint="name another folder, or pass --overwrite")
    written = {}
    for (name, path), rows in zip(paths.items(), parts[:3], strict=True):
        if rows:
            part = write(rows, path, target)
            written[name] = {"path": part.path, "rows": part.rows, "bytes": part.size, "sha256": part.sha256}
        elif path.exists():
            path.unlink()
    if as_json:
        findings = [finding.as_dict() for finding in parts.findings]
        print_json({"schema": 1, "format": target, "parts": written, "findings": findings})
        return
    for finding in parts.findings:
        print_finding(finding)
    for name, summary in written.items():
        out.print(f"{name:<11}{summary['rows']:>9,} rows  {summary['path']}", soft_wrap=True)


def _parse_shares(text: str) -> tuple[float, float, float]:
    from llmtune.errors import InvalidJob
    from llmtune.job.spec import DatasetSpec

    if "/" in text:
        return DatasetSpec.model_validate({"path": "-", "split": text}).split
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3:
        raise InvalidJob(f"--split {text!r} is not three numbers", hint="such as 0.8,0.1,0.1 or 800,100,100")
    return DatasetSpec(path="-", split=(parts[0], parts[1], parts[2])).split
