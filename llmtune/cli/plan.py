"""`llmtune plan` and `llmtune init`: what would happen, and a job file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmtune.errors import LlmtuneError
    from llmtune.provider.receipt import FieldReceipt, Receipt

#: Shown for every field; the rest only when they say something about what was asked.
_QUIET = ("inherent", "default", "not_applicable")


def plan(
    job: Annotated[Path, typer.Argument(help="The job file (YAML or JSON).", show_default=False)],
    provider: Annotated[
        str | None, typer.Option("--provider", "-p", help="Names, separated by commas; all listed ones by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
    every_field: Annotated[bool, typer.Option("--all", help="Also the fields that were not set.")] = False,
    request: Annotated[bool, typer.Option("--request", help="Also the exact request bodies.")] = False,
) -> None:
    """Show what each backend would do with a job, and what it would cost. Sends nothing."""
    from llmtune.cli.output import out, print_json
    from llmtune.job.spec import TuningJob
    from llmtune.planning.plan import to_json
    from llmtune.provider.registry import get_provider, known_kinds
    from llmtune.runs.plans import plan_all

    loaded = TuningJob.load(job)
    if provider:
        names = split_names(provider)
    elif isinstance(loaded.model, dict):
        names = list(loaded.model)
    else:
        names = [kind for kind in known_kinds() if get_provider(kind).listed]
    for name in names:
        get_provider(name)  # an unknown name is the user's slip, not that backend's answer
    answers = plan_all(loaded, names)
    if as_json:
        print_json(to_json(answers))
        return
    aside = "nothing is sent by a plan"
    print_plans(out, loaded.name, answers, every_field=every_field, request=request, aside=aside)


def split_names(text: str) -> list[str]:
    """Names separated by commas, without blanks and repetitions."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def print_plans(
    console: Any,
    title: str,
    answers: dict[str, Receipt | LlmtuneError],
    *,
    every_field: bool,
    request: bool,
    aside: str = "",
) -> None:
    """One table over all backends: a line a field, a column a backend; then what each of them has to say."""
    from rich.markup import escape
    from rich.table import Table

    from llmtune.provider.receipt import Receipt

    receipts = {name: answer for name, answer in answers.items() if isinstance(answer, Receipt)}
    console.print(f"[bold]{escape(title)}[/]{f'  {aside}' if aside else ''}\n")
    common = _common_findings(list(receipts.values()))
    for line in common:
        console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
    if common:
        console.print()
    fields = _fields_worth_showing(list(receipts.values()), every_field)
    for chunk in _chunks(list(receipts), max(1, (console.width - 24) // 14)):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        table.add_column("field", no_wrap=True)
        for name in chunk:
            table.add_column(escape(name), overflow="fold", max_width=22)
        for field in fields:
            table.add_row(field, *(_cell(receipts[name][field]) for name in chunk))
        console.print(table)
        console.print()
    for name, answer in answers.items():
        if isinstance(answer, Receipt):
            _print_verdict(console, name, answer, common, request=request)
        else:
            console.print(f"[bold]{escape(name)}[/]  [red]{escape(answer.message)}[/]", soft_wrap=True)
            if answer.hint:
                console.print(f"  [dim]{escape(answer.hint)}[/]", soft_wrap=True)


def _common_findings(receipts: list[Receipt]) -> list[str]:
    """What every backend says of the dataset, told once."""
    if not receipts:
        return []
    first, *others = receipts
    return [line for line in first.data.findings if all(line in other.data.findings for other in others)]


def _fields_worth_showing(receipts: list[Receipt], every_field: bool) -> list[str]:
    from llmtune.provider.declarations import DECLARED_FIELDS

    def says_something(field: str) -> bool:
        rows = [receipt[field] for receipt in receipts]
        return any(row.asked and row.support not in _QUIET for row in rows) or any(
            row.asked and row.support in ("inherent", "not_applicable") for row in rows
        )

    return [field for field in DECLARED_FIELDS if every_field or says_something(field)]


def _cell(row: FieldReceipt) -> str:
    from rich.markup import escape

    styles = {"unsupported": "yellow", "invalid": "red", "converted": "cyan", "sent": "green"}
    if row.support in ("sent", "converted"):
        text = _short(row.effective)
    elif row.support == "inherent":
        text = f"always {_short(row.effective)}"
    elif row.support == "default":
        text = f"({_short(row.effective)})" if row.effective is not None else "(default)"
    elif row.support == "unsupported":
        text = "not used" if row.asked else "no knob"
    else:
        text = row.support.replace("_", " ")
    style = styles.get(row.support, "dim") if row.asked else "dim"
    return f"[{style}]{escape(text)}[/]"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 20 else f"{text[:19]}…"


def _print_verdict(console: Any, name: str, receipt: Receipt, common: list[str], *, request: bool) -> None:  # noqa: C901
    from rich.markup import escape

    from llmtune.provider.receipt import PLACEHOLDER

    def say(label: str, text: str, style: str = "") -> None:
        body = escape(text)
        console.print(f"  {label:<9} {f'[{style}]{body}[/]' if style else body}", soft_wrap=True)

    obstacles = receipt.obstacles()
    mark = "[red]✗[/]" if obstacles else "[green]✓[/]"
    console.print(f"{mark} [bold]{escape(name)}[/]  {escape(receipt.target.model)} [dim]{escape(receipt.family)}[/]")
    for text in receipt.refusals:
        say("refused", text, "red")
    if receipt.target.model == PLACEHOLDER:
        say("model", f"{PLACEHOLDER} stands for a model that is not named yet: write its id into the job file", "red")
    say("service", receipt.lifecycle.sentence, "" if receipt.lifecycle.open else "red")
    if receipt.lifecycle.note:
        say("", receipt.lifecycle.note, "dim")
    if not receipt.lifecycle.open and receipt.lifecycle.alternatives:
        say("instead", ", ".join(receipt.lifecycle.alternatives))
    for row in receipt.fields:
        if row.asked and row.support == "converted":
            say("converted", f"{row.field}: {row.rule}", "cyan")
        if row.asked and row.support == "unsupported":
            say("not used", f"{row.field}={row.requested!r}: {row.reason}", "yellow")
    _print_data(say, receipt, common)
    cost = receipt.cost
    dated = f" [{cost.source}, {cost.checked}]" if cost.checked else ""
    say("cost", f"{cost.sentence()}{f' = {cost.formula}' if cost.formula and cost.total else ''}{dated}")
    if receipt.memory is not None:
        say("memory", receipt.memory.sentence(), "red" if receipt.memory.fits is False else "")
        tight = receipt.memory.fits is False or (receipt.memory.room or 0) < 2 * (receipt.memory.peak or 0)
        for text in receipt.memory.advice if tight else ():
            say("", f"smaller by {text}", "dim")
    ready = receipt.ready
    missing = f"; settings missing: {', '.join(ready.missing_settings)}" if ready.missing_settings else ""
    lacking = ready.extra == "missing" or ready.credentials == "not found" or bool(ready.missing_settings)
    say("ready", f"extra {ready.extra}, credentials {ready.credentials}{missing}", "red" if lacking else "")
    if ready.hint:
        say("", ready.hint, "dim")
    for text in receipt.warnings:
        say("note", text, "yellow")
    if request and receipt.request:
        from llmtune.redaction.documents import dump_json

        say("request", receipt.request.operation)
        console.print(escape(dump_json(receipt.request.body)), soft_wrap=True)


def _print_data(say: Any, receipt: Receipt, common: list[str]) -> None:
    data = receipt.data
    if data.checked:
        rows = ", ".join(f"{count:,} {role}" for role, count in data.rows.items())
        about = "about " if data.tokens_estimated else ""
        tokens = f", {about}{data.tokens:,} training tokens" if data.tokens is not None else ""
        say("data", f"{rows} rows{tokens}, sent as {data.format}")
        if data.evaluated:
            from llmtune.report.verdicts import held_out_power

            say("test", held_out_power(data.evaluated))
    if data.errors or data.warnings:
        from llmtune.report.format import count as amount

        faults = f"{amount(data.errors, 'error')}, {amount(data.warnings, 'warning')}"
        say("", f"{faults} (llmtune data check shows all)", "yellow")
    for line in [line for line in data.findings if line not in common][:3]:
        say("", line, "red" if data.errors else "yellow")
    for line in data.lossy[:3]:
        say("lossy", line, "yellow")


def _chunks(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


def init(
    data: Annotated[Path, typer.Argument(help="The dataset: any format llmtune reads.", show_default=False)],
    out_file: Annotated[Path, typer.Option("--out", "-o", help="Where to write the job file.")] = Path("job.yaml"),
    provider: Annotated[str | None, typer.Option("--provider", "-p", help="The backend you mean to use.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="The base model.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take the suggestions.")] = False,
) -> None:
    """Write a commented job file from a dataset and a question or two."""
    from llmtune.cli.output import err
    from llmtune.errors import InvalidJob
    from llmtune.planning.job_template import starter_job, suggest
    from llmtune.provider.receipt import PLACEHOLDER

    if out_file.exists():
        raise InvalidJob(f"{out_file} is there already", hint="choose another name with --out")
    found = suggest(data)
    err.print(found.summary, soft_wrap=True)
    ask = not yes and err.is_terminal
    provider = provider or (typer.prompt("Backend", default="local", err=True) if ask else "local")
    default_model = "tiny" if provider == "local" else PLACEHOLDER
    model = model or (typer.prompt("Base model", default=default_model, err=True) if ask else default_model)
    text = starter_job(found, provider=provider, model=model, relative_to=out_file.parent)
    out_file.write_text(text, encoding="utf-8")
    err.print(f"wrote {out_file}; next: llmtune plan {out_file} --provider {provider}", soft_wrap=True)
