"""`llmtune data convert`: write a file in another row format."""

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
    MethodOption,
    ModelOption,
    OnEmptyOption,
    SystemOption,
    check_format,
    fail,
    read_columns,
)
from llmtune.cli.data.output import SHOWN, print_findings


def convert(
    file: FileArgument,
    target: Annotated[Path, typer.Argument(help="The file to write: .jsonl .json .csv .tsv .parquet, also .gz .zst.")],
    to: Annotated[str, typer.Option("--to", help="A row format, or a provider for the format it takes.")],
    method: MethodOption = None,
    model: ModelOption = None,
    allow_lossy_data: Annotated[
        bool, typer.Option("--allow-lossy-data", help="Leave out content that the row format cannot hold.")
    ] = False,
    format: FormatOption = "auto",
    column: ColumnsOption = None,
    label_column: LabelOption = None,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a file in another row format; content that does not fit it is listed by row, and refused unless allowed."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.convert import convert as run
    from llmtune.errors import InvalidData

    try:
        done = run(
            file,
            target,
            to,
            format=check_format(format),
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
            fail("nothing was written" + (": --allow-lossy-data leaves out what does not fit" if lost else ""))
        raise
    if as_json:
        findings = [finding.as_dict() for finding in done.findings]
        print_json({"schema": 1, "ok": True, **done._asdict(), "findings": findings})
        return
    print_findings(done.findings, {}, SHOWN)
    out.print(f"{done.rows:,} rows as {done.format}: {done.path}", soft_wrap=True)
