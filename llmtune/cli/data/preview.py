"""`llmtune data peek`: show rows as the trainer sees them, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.cli.data.output import SHOWN, print_findings

if TYPE_CHECKING:
    from llmtune.data.example import Example
    from llmtune.data.rendering.preview import TokenPreview
from llmtune.cli.data.options import (
    ColumnsOption,
    FileArgument,
    FormatOption,
    JsonOption,
    LabelOption,
    OnEmptyOption,
    SystemOption,
    open_rows,
    open_tokenizer,
    print_note,
)


def peek(
    file: FileArgument,
    tokenizer: Annotated[str, typer.Option("--tokenizer", "-t", help="A model's name or folder.")],
    rows: Annotated[str, typer.Option(help="Line numbers to show, such as 1,5-7.")] = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="Number of rows to show when --rows is not given.", min=1)
    ] = 3,
    page: Annotated[Path | None, typer.Option("--html", help="Write an HTML page to this file instead.")] = None,
    backend: Annotated[str, typer.Option("--beside", help="A backend whose own view of the rows is shown too.")] = "",
    model: Annotated[
        str, typer.Option("--model", help="Base model at that backend; by default the tokenizer's name.")
    ] = "",
    format: FormatOption = "auto",
    column: ColumnsOption = None,
    label_column: LabelOption = None,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    mask_empty_thinking: Annotated[
        bool,
        typer.Option("--mask-empty-thinking", help="Show rows as the local backend's option of this name trains them."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which tokens of a row are trained on, and which are context only."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.rendering.preview import as_html, as_text
    from llmtune.data.rendering.preview import preview as run

    lines = _parse_lines(rows)
    chosen: list[Example] = []
    for example in open_rows(file, format, column, label_column, on_empty, system):
        if not lines or example.line in lines:
            chosen.append(example)
        if len(chosen) == (len(lines) or limit):
            break
    missing = sorted(lines - {example.line for example in chosen if example.line is not None})
    if missing:
        from llmtune.errors import InvalidData

        raise InvalidData(f"{file}: there is no valid row in line {missing[0]}")
    previews = list(run(chosen, open_tokenizer(tokenizer), file=file, mask_empty_thinking=mask_empty_thinking))
    if backend:
        previews = _add_backend_previews(previews, backend, model or tokenizer, chosen)
    if as_json:
        print_json({"schema": 1, "tokenizer": tokenizer, "rows": [preview.as_dict() for preview in previews]})
    elif page is not None:
        page.write_text(as_html(previews, f"{Path(file).name} as {tokenizer} sees it"), encoding="utf-8")
        out.print(f"{len(previews)} rows: {page}", soft_wrap=True)
    else:
        for preview in previews:
            name = f" {preview.name}" if preview.name else ""
            part = f" piece {preview.piece + 1}" if preview.piece else ""
            out.print(f"[bold]line {preview.line}{name}{part}[/]  {preview.counts}")
            out.print(as_text(preview), soft_wrap=True)
            out.print()


def _add_backend_previews(
    previews: list[TokenPreview], name: str, model: str, rows: list[Example]
) -> list[TokenPreview]:
    """Return the previews, each followed by the backend's own of the same row."""
    from llmtune.errors import InvalidJob
    from llmtune.provider.abilities import SupportsTokenPreview
    from llmtune.provider.registry import get_provider

    backend = get_provider(name)
    if not isinstance(backend, SupportsTokenPreview):
        raise InvalidJob(f"{name} does not show which tokens it trains on")
    backend_previews = backend.preview_tokens(model, rows)
    return sorted([*previews, *backend_previews], key=lambda preview: preview.line or 0)


def _parse_lines(text: str) -> set[int]:
    from llmtune.errors import InvalidJob

    lines: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, mark, last = part.partition("-")
        if not first.isdigit() or (mark and not last.isdigit()):
            raise InvalidJob(f"--rows {text!r} is not a list of line numbers", hint="such as 1,5-7")
        lines.update(range(int(first), int(last or first) + 1))
    return lines


def collect_examples(rows: Any) -> list[Example]:
    """Return all examples. Raises `InvalidData` with every finding when any row is invalid."""
    from llmtune.data.findings import Finding, invalid_data

    examples: list[Example] = []
    findings: list[Finding] = []
    for row in rows:
        if isinstance(row, Finding):
            findings.append(row)
        else:
            examples.append(row)
    for finding in findings:
        if finding.severity == "info":
            print_note(finding)
    if any(finding.is_error for finding in findings):
        print_findings(findings, {}, SHOWN)
        raise invalid_data(findings)
    return examples
