"""`llmtune data`: check, count, split, convert, look at and prepare datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.cli.data_output import SHOWN, print_findings, print_report, print_stats, say

if TYPE_CHECKING:
    from llmtune.data.example import Example
    from llmtune.data.rendering.preview import Peek

app = typer.Typer(no_args_is_help=True)

_File = Annotated[str, typer.Argument(help="A file, a dataset folder, or hf://owner/name.", show_default=False)]
_Format = Annotated[str, typer.Option("--format", "-f", help="Row format or container; see `llmtune data formats`.")]
_Columns = Annotated[
    list[str] | None, typer.Option("--column", help="OURS=THEIRS, such as text=utterance; may be repeated.")
]
_Label = Annotated[str | None, typer.Option("--label-column", help="The column that holds the label.")]
_Json = Annotated[bool, typer.Option("--json", help="As one JSON document.")]
_Tokenizer = Annotated[
    str | None, typer.Option("--tokenizer", "-t", help="A model's name or folder, or a tokenizer.json.")
]
_Provider = Annotated[str | None, typer.Option("--provider", "-p", help="Add this backend's own rules.")]
_Method = Annotated[str | None, typer.Option("--method", help="sft, dpo or classification.")]
_Model = Annotated[str | None, typer.Option("--model", help="The base model at that backend.")]


@app.command()
def check(
    file: _File,
    validation: Annotated[str | None, typer.Option(help="The validation file.")] = None,
    test: Annotated[str | None, typer.Option(help="The test file.")] = None,
    format: _Format = "auto",
    column: _Columns = None,
    label_column: _Label = None,
    provider: _Provider = None,
    method: _Method = None,
    model: _Model = None,
    tokenizer: _Tokenizer = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest row allowed, in tokens.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this check only; may be repeated.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave this check out; may be repeated.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes for large files.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Leave with 2 on warnings, too.")] = False,
    show: Annotated[int, typer.Option(help="Findings printed of each code; 0 prints all.")] = SHOWN,
    as_json: _Json = False,
) -> None:
    """Say what is wrong with a dataset, row by row. Leaves with 2 on errors, 0 on warnings."""
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
        format=_known_format(format),
        columns=_columns(column),
        label_column=label_column,
        provider=provider,
        method=method,
        model=model,
        tokenizer=_tokenizer(tokenizer),
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


@app.command()
def stats(
    file: _File,
    format: _Format = "auto",
    column: _Columns = None,
    label_column: _Label = None,
    provider: _Provider = None,
    epochs: Annotated[int, typer.Option(help="Passes over the rows, for what is billed.", min=1)] = 1,
    tokenizer: _Tokenizer = None,
    jobs: Annotated[int | None, typer.Option(help="Processes for large files.")] = None,
    as_json: _Json = False,
) -> None:
    """Count rows, turns, tokens by role, lengths and labels; and the tokens each backend would bill. Leaves with 2 on
    rows that cannot be read."""
    from llmtune.cli.output import print_json
    from llmtune.data.checks.billing import billable
    from llmtune.data.checks.check import check as run

    report = run(
        file,
        format=_known_format(format),
        columns=_columns(column),
        label_column=label_column,
        tokenizer=_tokenizer(tokenizer),
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


@app.command()
def split(
    file: _File,
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
    format: _Format = "auto",
    column: _Columns = None,
    label_column: _Label = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: _Json = False,
) -> None:
    """Cut a file into train, validation and test by hash: in whatever order the rows come, each falls the same way."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.convert import write
    from llmtune.data.io.reading import Reading
    from llmtune.data.split import split as cut
    from llmtune.errors import LlmtuneError

    reading = Reading(
        file, _known_format(format), columns=_columns(column), label_column=label_column, group_by=group_by
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


@app.command()
def convert(
    file: _File,
    target: Annotated[Path, typer.Argument(help="The file to write: .jsonl .json .csv .tsv .parquet, also .gz .zst.")],
    to: Annotated[str, typer.Option("--to", help="A row format, or a provider for the one it takes.")],
    method: Annotated[str, typer.Option(help="sft, dpo or classification; for a provider's format.")] = "sft",
    model: _Model = None,
    allow_lossy_data: Annotated[
        bool, typer.Option("--allow-lossy-data", help="Leave out what the row format cannot carry.")
    ] = False,
    format: _Format = "auto",
    column: _Columns = None,
    label_column: _Label = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: _Json = False,
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
            format=_known_format(format),
            columns=_columns(column),
            label_column=label_column,
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
            _fail("nothing was written" + (": --allow-lossy-data leaves out what cannot be carried" if lost else ""))
        raise
    if as_json:
        found = [finding.as_dict() for finding in done.findings]
        print_json({"schema": 1, "ok": True, **done._asdict(), "findings": found})
        return
    print_findings(done.findings, {}, SHOWN)
    out.print(f"{done.rows:,} rows as {done.format}: {done.path}", soft_wrap=True)


@app.command()
def peek(
    file: _File,
    tokenizer: Annotated[str, typer.Option("--tokenizer", "-t", help="A model's name or folder.")],
    rows: Annotated[str, typer.Option(help="Lines to show, such as 1,5-7.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", help="Rows shown when none are named.", min=1)] = 3,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page instead.")] = None,
    beside: Annotated[str, typer.Option("--beside", help="A backend that shows its own view of the rows.")] = "",
    model: Annotated[str, typer.Option("--model", help="Its base model; else the tokenizer's name.")] = "",
    format: _Format = "auto",
    column: _Columns = None,
    label_column: _Label = None,
    as_json: _Json = False,
) -> None:
    """Show exactly which tokens of a row are learned from, and which are only given."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.rendering.preview import as_html, as_text
    from llmtune.data.rendering.preview import peek as run

    wanted = _lines(rows)
    chosen: list[Example] = []
    for example in _stream(file, format, column, label_column):
        if not wanted or example.line in wanted:
            chosen.append(example)
        if len(chosen) == (len(wanted) or limit):
            break
    missing = sorted(wanted - {example.line for example in chosen if example.line is not None})
    if missing:
        from llmtune.errors import InvalidData

        raise InvalidData(f"{file}: there is no sound row in line {missing[0]}")
    shown = list(run(chosen, _tokenizer(tokenizer), file=file))
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
            out.print(f"[bold]line {each.line}{name}{part}[/]  {each.total:,} tokens, {each.trained:,} learned")
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


@app.command()
def prepare(
    file: _File,
    tokenizer: Annotated[str, typer.Option("--tokenizer", "-t", help="A model's name or folder.")],
    into: Annotated[
        Path | None, typer.Option("--into", "-o", help="The folder it is written below; else where training looks.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest sequence, in tokens.", min=2)] = None,
    on_too_long: Annotated[str, typer.Option(help="error, truncate or drop.")] = "error",
    prompt_loss_weight: Annotated[float, typer.Option(help="Weight of prompt tokens, 0..1.", min=0, max=1)] = 0.0,
    container: Annotated[str, typer.Option(help="safetensors or arrow.")] = "safetensors",
    format: _Format = "auto",
    column: _Columns = None,
    label_column: _Label = None,
    as_json: _Json = False,
) -> None:
    """Write rows as tokens, weights and positions, named by their content; made once, then found again."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.rendering.prepared import prepare as run
    from llmtune.data.rendering.prepared import prepared_home
    from llmtune.errors import UnknownName

    if on_too_long not in ("error", "truncate", "drop"):
        raise UnknownName("choice for --on-too-long", on_too_long, ["error", "truncate", "drop"])
    if container not in ("safetensors", "arrow"):
        raise UnknownName("container", container, ["safetensors", "arrow"])
    examples = list(_stream(file, format, column, label_column))
    done = run(
        examples,
        _tokenizer(tokenizer),
        into or prepared_home(),
        limit=max_tokens,
        on_too_long=on_too_long,  # type: ignore[arg-type]
        prompt_loss_weight=prompt_loss_weight,
        container=container,  # type: ignore[arg-type]
        file=file,
    )
    if as_json:
        print_json({"schema": 1, **done._asdict(), "path": str(done.path)})
        return
    made = "" if done.made else " (was there already)"
    out.print(
        f"{done.rows:,} sequences, {done.tokens:,} tokens, {done.trained:,} learned: {done.path}{made}", soft_wrap=True
    )
    if done.dropped or done.truncated:
        out.print(f"{done.dropped:,} dropped and {done.truncated:,} cut, being longer than {max_tokens:,} tokens")


@app.command("formats")
def list_formats(as_json: _Json = False) -> None:
    """List the row formats, and which each provider takes."""
    from rich.markup import escape

    from llmtune.cli.output import out, print_json
    from llmtune.data.formats.registry import all_formats, vendors
    from llmtune.data.io.base import CONTAINERS

    known = all_formats()
    if as_json:
        print_json(
            {
                "schema": 1,
                "formats": {name: fmt.title for name, fmt in known.items()},
                "containers": list(CONTAINERS),
                "providers": {name: dict(rows.defaults) for name, rows in vendors().items()},
            }
        )
        return
    for name, fmt in known.items():
        out.print(f"[bold]{name:<22}[/]{escape(fmt.title)}", soft_wrap=True)
    out.print(f"\ncontainers: {', '.join(CONTAINERS)}; also compressed (gzip, bzip2, xz, zstd)", soft_wrap=True)
    for name, rows in vendors().items():
        takes = ", ".join(f"{method}: {fmt}" for method, fmt in rows.defaults.items())
        out.print(f"{name:<11}{takes}", soft_wrap=True)


def _known_format(name: str) -> str:
    from llmtune.data.io.reading import check_format_name

    if name != "auto":
        check_format_name(name)
    return name


def _columns(pairs: list[str] | None) -> dict[str, str] | None:
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


def _lines(text: str) -> set[int]:
    from llmtune.errors import InvalidJob

    found: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, mark, last = part.partition("-")
        if not first.isdigit() or (mark and not last.isdigit()):
            raise InvalidJob(f"--rows {text!r} is no list of lines", hint="such as 1,5-7")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from llmtune.data.rendering.token_count import load_tokenizer

    return load_tokenizer(name)


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
    if any(finding.is_error for finding in findings):
        print_findings(findings, {}, SHOWN)
        raise refuse(findings)
    return examples


def _stream(file: str, format: str, column: list[str] | None, label_column: str | None) -> Any:
    """Examples one by one; the first error ends it."""
    from llmtune.data.findings import Finding, refuse
    from llmtune.data.io.reading import read

    for item in read(file, _known_format(format), columns=_columns(column), label_column=label_column):
        if not isinstance(item, Finding):
            yield item
        elif item.is_error:
            raise refuse([item])


def _fail(message: str) -> None:
    from llmtune.cli.output import err

    err.print(message, soft_wrap=True)
    raise typer.Exit(2)
