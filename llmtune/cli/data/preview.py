"""`llmtune data peek`: rows as the trainer sees them, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.cli.data.output import SHOWN, print_findings

if TYPE_CHECKING:
    from llmtune.data.example import Example
    from llmtune.data.rendering.preview import Peek
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
    say_aside,
)


def peek(
    file: FileArgument,
    tokenizer: Annotated[str, typer.Option("--tokenizer", "-t", help="A model's name or folder.")],
    rows: Annotated[str, typer.Option(help="Lines to show, such as 1,5-7.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", help="Rows shown when none are named.", min=1)] = 3,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page instead.")] = None,
    beside: Annotated[str, typer.Option("--beside", help="A backend that shows its own view of the rows.")] = "",
    model: Annotated[str, typer.Option("--model", help="Its base model; else the tokenizer's name.")] = "",
    format: FormatOption = "auto",
    column: ColumnsOption = None,
    label_column: LabelOption = None,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    mask_empty_thinking: Annotated[
        bool, typer.Option("--mask-empty-thinking", help="Show rows as the option of the local backend trains them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show exactly which tokens of a row are learned from, and which are only given."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.rendering.preview import as_html, as_text
    from llmtune.data.rendering.preview import peek as run

    wanted = _lines(rows)
    chosen: list[Example] = []
    for example in open_rows(file, format, column, label_column, on_empty, system):
        if not wanted or example.line in wanted:
            chosen.append(example)
        if len(chosen) == (len(wanted) or limit):
            break
    missing = sorted(wanted - {example.line for example in chosen if example.line is not None})
    if missing:
        from llmtune.errors import InvalidData

        raise InvalidData(f"{file}: there is no sound row in line {missing[0]}")
    shown = list(run(chosen, open_tokenizer(tokenizer), file=file, mask_empty_thinking=mask_empty_thinking))
    if beside:
        shown = _with_theirs(shown, beside, model or tokenizer, chosen)
    if as_json:
        print_json({"schema": 1, "tokenizer": tokenizer, "rows": [each.as_dict() for each in shown]})
    elif page is not None:
        page.write_text(as_html(shown, f"{Path(file).name} as {tokenizer} sees it"), encoding="utf-8")
        out.print(f"{len(shown)} rows: {page}", soft_wrap=True)
    else:
        for each in shown:
            name = f" {each.name}" if each.name else ""
            part = f" piece {each.piece + 1}" if each.piece else ""
            out.print(f"[bold]line {each.line}{name}{part}[/]  {each.counts}")
            out.print(as_text(each), soft_wrap=True)
            out.print()


def _with_theirs(ours: list[Peek], name: str, model: str, rows: list[Example]) -> list[Peek]:
    """Each row as we see it, followed by how the backend sees it."""
    from llmtune.errors import InvalidJob
    from llmtune.provider.abilities import Peeking
    from llmtune.provider.registry import get_provider

    backend = get_provider(name)
    if not isinstance(backend, Peeking):
        raise InvalidJob(f"{name} does not show which tokens it trains on")
    theirs = backend.peek(model, rows)
    return sorted([*ours, *theirs], key=lambda each: each.line or 0)


def _lines(text: str) -> set[int]:
    from llmtune.errors import InvalidJob

    found: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, mark, last = part.partition("-")
        if not first.isdigit() or (mark and not last.isdigit()):
            raise InvalidJob(f"--rows {text!r} is no list of lines", hint="such as 1,5-7")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _sound(items: Any) -> list[Example]:
    """All examples, or `InvalidData` with every finding."""
    from llmtune.data.findings import Finding, refuse

    examples: list[Example] = []
    findings: list[Finding] = []
    for item in items:
        if isinstance(item, Finding):
            findings.append(item)
        else:
            examples.append(item)
    for finding in findings:
        if finding.severity == "info":
            say_aside(finding)
    if any(finding.is_error for finding in findings):
        print_findings(findings, {}, SHOWN)
        raise refuse(findings)
    return examples
