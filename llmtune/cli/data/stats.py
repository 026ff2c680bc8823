"""`llmtune data stats`: count a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from llmtune.cli.data.options import (
    ColumnsOption,
    FileArgument,
    FormatOption,
    JsonOption,
    LabelOption,
    OnEmptyOption,
    ProviderOption,
    SystemOption,
    TokenizerOption,
    check_format,
    open_tokenizer,
    read_columns,
)
from llmtune.cli.data.output import SHOWN, print_findings, print_stats


def stats(
    file: FileArgument,
    format: FormatOption = "auto",
    column: ColumnsOption = None,
    label_column: LabelOption = None,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    provider: ProviderOption = None,
    epochs: Annotated[int, typer.Option(help="Passes over the rows, for the billed tokens.", min=1)] = 1,
    tokenizer: TokenizerOption = None,
    jobs: Annotated[int | None, typer.Option(help="Processes for large files.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Count rows, turns, tokens by role, lengths and labels, and the tokens that each backend would bill.

    Exits with 2 when rows cannot be read.
    """
    from llmtune.cli.output import print_json
    from llmtune.data.checks.billing import billable
    from llmtune.data.checks.check import check as run

    report = run(
        file,
        format=check_format(format),
        columns=read_columns(column),
        label_column=label_column,
        on_empty=on_empty,
        system=system,
        tokenizer=open_tokenizer(tokenizer),
        checks=("tokens",),
        jobs=jobs,
    )
    counted = report.files[0]
    bills = billable(counted.stats, epochs, [provider] if provider else None)
    if as_json:
        print_json({"schema": 1, **counted.as_dict(), "billable": bills, "errors": report.errors})
    else:
        print_findings(report.findings, report.counts, SHOWN)
        print_stats(counted.as_dict(), bills, epochs)
    if report.errors:
        raise typer.Exit(2)
