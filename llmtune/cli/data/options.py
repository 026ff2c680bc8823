"""Arguments and options that the `llmtune data` commands share, and how their values are read."""

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
    list[str] | None, typer.Option("--column", help="OURS=THEIRS, such as text=utterance; may be repeated.")
]


LabelOption = Annotated[str | None, typer.Option("--label-column", help="The column that holds the label.")]


OnEmptyOption = Annotated[str, typer.Option("--on-empty", help="Rows with an empty answer: error or drop.")]


SystemOption = Annotated[
    str, typer.Option("--system", help="keep, or fold: a system turn goes to the beginning of the first user turn.")
]


JsonOption = Annotated[bool, typer.Option("--json", help="As one JSON document.")]


TokenizerOption = Annotated[
    str | None, typer.Option("--tokenizer", "-t", help="A model's name or folder, or a tokenizer.json.")
]


ProviderOption = Annotated[str | None, typer.Option("--provider", "-p", help="Add this backend's own rules.")]


MethodOption = Annotated[str | None, typer.Option("--method", help="sft, dpo or classification.")]


ModelOption = Annotated[str | None, typer.Option("--model", help="The base model at that backend.")]


def known_format(name: str) -> str:
    from llmtune.data.io.reading import check_format_name

    if name != "auto":
        check_format_name(name)
    return name


def read_columns(pairs: list[str] | None) -> dict[str, str] | None:
    from llmtune.errors import InvalidJob

    if not pairs:
        return None
    found = {}
    for pair in pairs:
        ours, mark, theirs = pair.partition("=")
        if not mark or not ours or not theirs:
            raise InvalidJob(
                f"--column {pair!r} is not of the form OURS=THEIRS", hint="such as --column text=utterance"
            )
        found[ours] = theirs
    return found


def open_tokenizer(name: str | None) -> Any:
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
    """Examples one by one; the first error ends it."""
    from llmtune.data.findings import Finding, refuse
    from llmtune.data.io.reading import read

    for item in read(
        file,
        known_format(format),
        columns=read_columns(column),
        label_column=label_column,
        on_empty=on_empty,
        system=system,
    ):
        if not isinstance(item, Finding):
            yield item
        elif item.is_error:
            raise refuse([item])
        elif item.severity == "info":
            say_aside(item)


def say_aside(finding: Finding) -> None:
    """What was changed in the rows as the caller asked, beside a command's own output."""
    from llmtune.cli.output import err

    err.print(f"{finding.where}: {finding.message}", soft_wrap=True, markup=False)


def fail(message: str) -> None:
    from llmtune.cli.output import err

    err.print(message, soft_wrap=True)
    raise typer.Exit(2)
