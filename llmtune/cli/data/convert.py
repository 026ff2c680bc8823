"""`llmtune data convert`: a file in another row format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmtune.cli.data.output import SHOWN, print_findings

if TYPE_CHECKING:
    pass
from llmtune.cli.data.options import (
    ColumnsOption,
    FileArgument,
    FormatOption,
    JsonOption,
    LabelOption,
    MethodOption,
    ModelOption,
    OnEmptyOption,
    SystemOption,
    fail,
    known_format,
    read_columns,
)


def convert(
    file: FileArgument,
    target: Annotated[Path, typer.Argument(help="The file to write: .jsonl .json .csv .tsv .parquet, also .gz .zst.")],
    to: Annotated[str, typer.Option("--to", help="A row format, or a provider for the one it takes.")],
    method: MethodOption = None,
    model: ModelOption = None,
    allow_lossy_data: Annotated[
        bool, typer.Option("--allow-lossy-data", help="Leave out what the row format cannot carry.")
    ] = False,
    format: FormatOption = "auto",
    column: ColumnsOption = None,
    label_column: LabelOption = None,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a file in another row format; what that cannot carry is listed by row and refused unless allowed."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.convert import convert as run
    from llmtune.errors import InvalidData

    try:
        done = run(
            file,
            target,
            to,
            format=known_format(format),
            columns=read_columns(column),
            label_column=label_column,
            on_empty=on_empty,
            system=system,
            allow_lossy=allow_lossy_data,
            overwrite=overwrite,
            method=method,
            model=model,
        )
    except InvalidData as fault:
        if as_json:
            print_json({"schema": 1, "ok": False, "findings": [finding.as_dict() for finding in fault.findings]})
        else:
            print_findings(fault.findings, {}, SHOWN)
        if fault.findings:
            lost = any(finding.code.startswith("lost-") for finding in fault.findings)
            fail("nothing was written" + (": --allow-lossy-data leaves out what cannot be carried" if lost else ""))
        raise
    if as_json:
        found = [finding.as_dict() for finding in done.findings]
        print_json({"schema": 1, "ok": True, **done._asdict(), "findings": found})
        return
    print_findings(done.findings, {}, SHOWN)
    out.print(f"{done.rows:,} rows as {done.format}: {done.path}", soft_wrap=True)
