"""`llmtune data split`: a file into train, validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmtune.cli.data.output import say

if TYPE_CHECKING:
    pass
from llmtune.cli.data.options import (
    ColumnsOption,
    FileArgument,
    FormatOption,
    JsonOption,
    LabelOption,
    OnEmptyOption,
    SystemOption,
    known_format,
    read_columns,
)
from llmtune.cli.data.preview import _sound


def split(
    file: FileArgument,
    into: Annotated[Path, typer.Option("--into", "-o", help="The folder the parts are written to.")],
    shares: Annotated[
        str, typer.Option("--split", help="Three shares that sum to 1, or three row counts.")
    ] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(help="Another seed, another cut.")] = 0,
    stratify: Annotated[
        bool | None,
        typer.Option("--stratify/--no-stratify", help="Keep the labels' shares; by default where there are."),
    ] = None,
    group_by: Annotated[str | None, typer.Option(help="Rows with an equal value of this key stay together.")] = None,
    near: Annotated[bool, typer.Option("--near/--no-near", help="Keep nearly equal prompts together, too.")] = True,
    to: Annotated[str | None, typer.Option(help="Row format to write; the file's own by default.")] = None,
    format: FormatOption = "auto",
    column: ColumnsOption = None,
    label_column: LabelOption = None,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Cut a file into train, validation and test by hash: in whatever order the rows come, each falls the same way."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.convert import write
    from llmtune.data.io.reading import Reading
    from llmtune.data.split import split as cut
    from llmtune.errors import LlmtuneError

    reading = Reading(
        file,
        known_format(format),
        columns=read_columns(column),
        label_column=label_column,
        group_by=group_by,
        on_empty=on_empty,
        system=system,
    )
    examples = _sound(reading)
    assert reading.format is not None
    parts = cut(examples, _shares(shares), seed=seed, stratify=stratify, near=near)
    target = to or reading.format.name
    paths = {name: into / f"{name}.jsonl" for name in ("train", "validation", "test")}
    there = [str(path) for path in paths.values() if path.exists()]
    if there and not overwrite:
        raise LlmtuneError(f"{there[0]} is already there", hint="name another folder, or give --overwrite")
    written = {}
    for (name, path), rows in zip(paths.items(), parts[:3], strict=True):
        if rows:
            done = write(rows, path, target)
            written[name] = {"path": done.path, "rows": done.rows, "bytes": done.size, "sha256": done.sha256}
        elif path.exists():
            path.unlink()
    if as_json:
        found = [finding.as_dict() for finding in parts.findings]
        print_json({"schema": 1, "format": target, "parts": written, "findings": found})
        return
    for finding in parts.findings:
        say(finding)
    for name, facts in written.items():
        out.print(f"{name:<11}{facts['rows']:>9,} rows  {facts['path']}", soft_wrap=True)


def _shares(text: str) -> tuple[float, float, float]:
    from llmtune.errors import InvalidJob
    from llmtune.job.spec import DatasetSpec

    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3:
        raise InvalidJob(f"--split {text!r} is not three numbers", hint="such as 0.8,0.1,0.1 or 800,100,100")
    return DatasetSpec(path="-", split=(parts[0], parts[1], parts[2])).split
