"""Arguments and options that the `llmtune data` commands share, and functions that read their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmtune.data.findings import Finding


FileArgument = Annotated[str, typer.Argument(help="A file, a dataset folder, or hf://owner/name.", show_default=False)]


FormatOption = Annotated[
    str, typer.Option("--format", "-f", help="Row format or container; see `llmtune data formats`.")
]


ColumnsOption = Annotated[
    list[str] | None, typer.Option("--column", help="FIELD=COLUMN, such as text=utterance; may be repeated.")
]


LabelOption = Annotated[str | None, typer.Option("--label-column", help="The column that holds the label.")]


OnEmptyOption = Annotated[str, typer.Option("--on-empty", help="Rows with an empty answer: error or drop.")]


SystemOption = Annotated[
    str,
    typer.Option("--system", help="System messages: keep, or fold them into the first user message."),
]


JsonOption = Annotated[bool, typer.Option("--json", help="As one JSON document.")]


TokenizerOption = Annotated[
    str | None, typer.Option("--tokenizer", "-t", help="A model's name or folder, or a tokenizer.json.")
]


ProviderOption = Annotated[str | None, typer.Option("--provider", "-p", help="Also apply this backend's rules.")]


MethodOption = Annotated[
    str | None, typer.Option("--method", help="The method that the rows are for: sft, dpo or classification.")
]


ModelOption = Annotated[str | None, typer.Option("--model", help="The base model at that backend.")]


def check_format(name: str) -> str:
    """Return the name of a format or container, or "auto". Raises `UnknownName` for any other."""
    from llmtune.data.io.reading import check_format_name

    if name != "auto":
        check_format_name(name)
    return name


def read_columns(pairs: list[str] | None) -> dict[str, str] | None:
    """Read the --column options as field names and columns. Raises `InvalidJob`."""
    from llmtune.errors import InvalidJob

    if not pairs:
        return None
    columns = {}
    for pair in pairs:
        field, mark, column = pair.partition("=")
        if not mark or not field or not column:
            raise InvalidJob(
                f"--column {pair!r} is not of the form FIELD=COLUMN", hint="such as --column text=utterance"
            )
        columns[field] = column
    return columns


def open_tokenizer(name: str | None) -> Any:
    """Load the tokenizer of --tokenizer; None without the option."""
    if name is None:
        return None
    from llmtune.data.rendering.token_count import load_tokenizer

    return load_tokenizer(name)


def open_rows(
    file: str,
    format: str,
    column: list[str] | None,
    label_column: str | None,
    on_empty: str = "error",
    system: str = "keep",
) -> Any:
    """Yield examples one by one. Raises `InvalidData` at the first error."""
    from llmtune.data.findings import Finding, invalid_data
    from llmtune.data.io.reading import read

    for row in read(
        file,
        check_format(format),
        columns=read_columns(column),
        label_column=label_column,
        on_empty=on_empty,
        system=system,
    ):
        if not isinstance(row, Finding):
            yield row
        elif row.is_error:
            raise invalid_data([row])
        elif row.severity == "info":
            print_note(row)


def print_note(finding: Finding) -> None:
    """Print to standard error a change made to the rows at the user's request."""
    from llmtune.cli.output import err

    err.print(f"{finding.where}: {finding.message}", soft_wrap=True, markup=False)


def fail(message: str) -> None:
    """Print the message to standard error and exit with 2."""
    from llmtune.cli.output import err

    err.print(message, soft_wrap=True)
    raise typer.Exit(2)
