"""`llmtune data check`: report every problem of a dataset."""

from __future__ import annotations

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
    ProviderOption,
    SystemOption,
    TokenizerOption,
    check_format,
    open_tokenizer,
    read_columns,
)
from llmtune.cli.data.output import SHOWN, print_report


def check(
    file: FileArgument,
    validation: Annotated[str | None, typer.Option(help="The validation file.")] = None,
    test: Annotated[str | None, typer.Option(help="The test file.")] = None,
    format: FormatOption = "auto",
    column: ColumnsOption = None,
    label_column: LabelOption = None,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    provider: ProviderOption = None,
    method: MethodOption = None,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest row allowed, in tokens.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this check only; may be repeated.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave this check out; may be repeated.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes for large files.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 on warnings, too.")] = False,
    show: Annotated[int, typer.Option(help="Findings printed of each code; 0 prints all.")] = SHOWN,
    as_json: JsonOption = False,
) -> None:
    """Report every problem of a dataset, row by row. Exits with 2 on errors, 0 on warnings."""
    from llmtune.cli.output import print_json
    from llmtune.data.checks.block_worker import CHECKS
    from llmtune.data.checks.check import check as run
    from llmtune.errors import UnknownName

    for name in [*(only or []), *(skip or [])]:
        if name not in CHECKS:
            raise UnknownName("check", name, CHECKS)
    report = run(
        file,
        validation,
        test,
        format=check_format(format),
        columns=read_columns(column),
        label_column=label_column,
        on_empty=on_empty,
        system=system,
        provider=provider,
        method=method,
        model=model,
        tokenizer=open_tokenizer(tokenizer),
        max_tokens=max_tokens,
        checks=[name for name in only or CHECKS if name not in (skip or [])],
        jobs=jobs,
        keep=None if show == 0 else max(show, 1000 if as_json else show),
    )
    if as_json:
        print_json(report.as_dict())
    else:
        print_report(report, show)
    if report.errors or (strict and report.warnings):
        raise typer.Exit(2)
