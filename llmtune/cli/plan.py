"""`llmtune plan`: what a job would do and cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.cli.completion import complete_provider
from llmtune.cli.job_options import BaseModelName, JobFile, JobName, JobOptions, LimitRows, Seed, SetFields

if TYPE_CHECKING:
    from llmtune.errors import LlmtuneError
    from llmtune.planning.total_cost import TotalCost, Traffic
    from llmtune.provider.receipt import FieldReceipt, Receipt


def plan(
    job: JobFile,
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider",
            "-p",
            autocompletion=complete_provider,
            help="Names, separated by commas; all listed ones by default.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
    every_field: Annotated[bool, typer.Option("--all", help="Also the fields that were not set.")] = False,
    request: Annotated[bool, typer.Option("--request", help="Also the exact request bodies.")] = False,
    fields: SetFields = None,
    model: BaseModelName = None,
    name: JobName = None,
    seed: Seed = None,
    limit_rows: LimitRows = None,
    traffic: Annotated[
        str | None, typer.Option(help="Also the cost in use: answers in a time, such as 100k/month or 500/day.")
    ] = None,
    prompt_tokens: Annotated[
        float | None, typer.Option(min=0, help="With --traffic: tokens of a prompt; by default the dataset's.")
    ] = None,
    answer_tokens: Annotated[
        float | None, typer.Option(min=0, help="With --traffic: tokens of an answer; by default the dataset's.")
    ] = None,
    months: Annotated[float, typer.Option(min=0.1, help="With --traffic: for how many months.")] = 12.0,
    hourly: Annotated[
        float | None, typer.Option(min=0, help="With --traffic: also a rented machine, at so many USD an hour.")
    ] = None,
    hourly_region: Annotated[
        str | None, typer.Option(help="With --hourly: the region in which the rented machine stands.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Only backends that train in this region, or anywhere in eu or us.")
    ] = None,
) -> None:
    """Show what each backend would do with a job, and what it would cost. Sends nothing."""
    from llmtune.cli.output import out, print_json
    from llmtune.errors import InvalidJob, LlmtuneError
    from llmtune.planning.plan import to_json
    from llmtune.planning.regions import check_region, keep_in_region
    from llmtune.planning.total_cost import parse_traffic
    from llmtune.planning.usage import print_total_costs
    from llmtune.provider.registry import get_provider, known_kinds
    from llmtune.runs.plans import plan_all

    loaded, changes = JobOptions(fields, name, seed, limit_rows, model).load(
        job, "plan", provider, None if as_json else out
    )
    if provider:
        names = split_names(provider)
    elif isinstance(loaded.model, dict):
        names = list(loaded.model)
    else:
        names = [kind for kind in known_kinds() if get_provider(kind).listed]
    for name in names:
        get_provider(name)  # an unknown name is the user's mistake, not that backend's answer
    if traffic is None and any(value is not None for value in (prompt_tokens, answer_tokens, hourly, hourly_region)):
        raise InvalidJob(
            "--prompt-tokens, --answer-tokens and --hourly are of a traffic, and none is given",
            where="--traffic",
            hint="add it: --traffic 100k/month",
        )
    if hourly is None and hourly_region is not None:
        raise InvalidJob("no machine is rented", where="--hourly-region", hint="add its price: --hourly USD")
    allowed_region = None if region is None else check_region(region)
    plans = plan_all(loaded, names)
    if allowed_region is not None:
        plans = keep_in_region(plans, allowed_region)
    totals = {}
    if traffic is not None:
        usage = _Usage(parse_traffic(traffic), (prompt_tokens, answer_tokens), months, allowed_region)
        totals = _compute_totals(plans, usage)
        if hourly is not None:
            rented = None if hourly_region is None else check_region(hourly_region)
            totals |= _compute_rented(plans, usage, hourly, rented)
    if as_json:
        changed = {change.path: {"before": change.before, "after": change.after} for change in changes}
        document = to_json(plans) | ({"changed": changed} if changed else {})
        if traffic is not None:
            document["totals"] = {name: total.model_dump(mode="json") for name, total in totals.items()}
        print_json(document)
    else:
        aside = "a plan sends nothing"
        print_plans(out, loaded.name, plans, every_field=every_field, request=request, aside=aside)
        print_total_costs(out, list(totals.values()))
    errors = [answer for answer in plans.values() if isinstance(answer, LlmtuneError)]
    if errors and len(errors) == len(plans):  # no backend could plan it
        raise typer.Exit(errors[0].exit_code)


@dataclass(frozen=True)
class _Usage:
    """The use that `--traffic` and its options describe; `region` is the one that is allowed_region."""

    answers_per_month: float
    tokens: tuple[float | None, float | None]
    months: float
    region: str | None

    def traffic(self, receipt: Receipt) -> Traffic:
        """Return the traffic of a plan."""
        from llmtune.planning.usage import build_traffic

        prompt, answer = self.tokens
        return build_traffic(
            receipt, self.answers_per_month, prompt_tokens=prompt, answer_tokens=answer, months=self.months
        )


def _compute_totals(plans: dict[str, Receipt | LlmtuneError], usage: _Usage) -> dict[str, TotalCost]:
    """Return the cost in use by backend; those that cannot plan the job are left out."""
    from llmtune.planning.usage import compute_total_cost
    from llmtune.provider.receipt import Receipt

    return {
        name: compute_total_cost(receipt, usage.traffic(receipt), region=usage.region)
        for name, receipt in plans.items()
        if isinstance(receipt, Receipt)
    }


def _compute_rented(
    plans: dict[str, Receipt | LlmtuneError], usage: _Usage, hourly: float, hourly_region: str | None
) -> dict[str, TotalCost]:
    """Return the cost in use on a rented machine, for the first plan of a backend that runs on this one.

    Raises `InvalidJob` where no backend runs here, or only one region is allowed and
    the machine is not known to be in it.
    """
    from llmtune.errors import InvalidJob
    from llmtune.planning.regions import select_regions
    from llmtune.planning.usage import RENTED, compute_rented_cost
    from llmtune.provider.receipt import Receipt
    from llmtune.provider.registry import get_provider

    if usage.region is not None and not select_regions(usage.region, (hourly_region or "",)):
        stated = f"stands in {hourly_region}" if hourly_region else "is in no stated region"
        raise InvalidJob(
            f"the rented machine {stated}, and the plan is for {usage.region}",
            where="--hourly",
            hint="state where it stands with --hourly-region, or leave --hourly out",
        )
    for receipt in plans.values():
        if isinstance(receipt, Receipt) and not get_provider(receipt.target.provider).hosted:
            return {RENTED: compute_rented_cost(receipt, usage.traffic(receipt), hourly)}
    raise InvalidJob(
        "--hourly rents a machine for the local trainer, which is not among the backends",
        where="--hourly",
        hint="add it: --provider local, and a model for it in the job file",
    )


def split_names(text: str) -> list[str]:
    """Split names at commas, without blanks and repetitions."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def print_plans(
    console: Any,
    title: str,
    plans: dict[str, Receipt | LlmtuneError],
    *,
    every_field: bool,
    request: bool,
    aside: str = "",
) -> None:
    """Print a table with one row per field and one column per backend, then each backend's notes."""
    from rich.markup import escape
    from rich.table import Table

    from llmtune.provider.receipt import Receipt

    receipts = {name: answer for name, answer in plans.items() if isinstance(answer, Receipt)}
    console.print(f"[bold]{escape(title)}[/]{f'  {aside}' if aside else ''}\n")
    common = _common_findings(list(receipts.values()))
    for line in common:
        console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
    if common:
        console.print()
    fields = _select_fields(list(receipts.values()), every_field)
    for chunk in _split_into_chunks(list(receipts), max(1, (console.width - 24) // 14)):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        table.add_column("field", no_wrap=True)
        for name in chunk:
            table.add_column(escape(name), overflow="fold", max_width=22)
        for field in fields:
            table.add_row(field, *(_format_cell(receipts[name][field]) for name in chunk))
        console.print(table)
        console.print()
    for name, answer in plans.items():
        if isinstance(answer, Receipt):
            _ReceiptPrinter(console, answer).print(name, common, request=request)
        else:
            console.print(f"[bold]{escape(name)}[/]  [red]{escape(answer.message)}[/]", soft_wrap=True)
            if answer.hint:
                console.print(f"  [dim]{escape(answer.hint)}[/]", soft_wrap=True)


def _common_findings(receipts: list[Receipt]) -> list[str]:
    """Return the findings in the dataset that every backend reports; they are printed once."""
    if not receipts:
        return []
    first = receipts[0]
    return [line for line in first.data.findings if all(line in receipt.data.findings for receipt in receipts[1:])]


def _select_fields(receipts: list[Receipt], every_field: bool) -> list[str]:
    """Select the fields that were set, unless every backend uses its default for them; or every field."""
    from llmtune.provider.declarations import DECLARED_FIELDS

    def is_shown(field: str) -> bool:
        rows = [receipt[field] for receipt in receipts]
        return any(row.is_set and row.support != "default" for row in rows)

    return [field for field in DECLARED_FIELDS if every_field or is_shown(field)]


def _format_cell(row: FieldReceipt) -> str:
    from rich.markup import escape

    styles = {"unsupported": "yellow", "invalid": "red", "converted": "cyan", "sent": "green"}
    if row.support in ("sent", "converted"):
        text = _shorten(row.effective)
    elif row.support == "inherent":
        text = f"always {_shorten(row.effective)}"
    elif row.support == "default":
        text = f"({_shorten(row.effective)})" if row.effective is not None else "(default)"
    elif row.support == "unsupported":
        text = "not used" if row.is_set else "unsupported"
    else:
        text = row.support.replace("_", " ")
    style = styles.get(row.support, "dim") if row.is_set else "dim"
    return f"[{style}]{escape(text)}[/]"


def _shorten(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 20 else f"{text[:19]}…"


class _ReceiptPrinter:
    """Prints what one backend would do with a job: one labelled line per fact."""

    def __init__(self, console: Any, receipt: Receipt) -> None:
        self._console, self._receipt = console, receipt

    def print(self, name: str, common: list[str], *, request: bool) -> None:
        """Print everything but the findings in `common`; with `request`, the request body too."""
        from rich.markup import escape

        receipt = self._receipt
        mark = "[red]✗[/]" if receipt.obstacles() else "[green]✓[/]"
        model, family = escape(receipt.target.model), escape(receipt.family)
        self._console.print(f"{mark} [bold]{escape(name)}[/]  {model} [dim]{family}[/]")
        for text in receipt.refusals:
            self._print_line("refused", text, "red")
        self._print_service()
        self._print_fields()
        self._print_data(common)
        self._print_cost()
        if receipt.duration is not None:
            self._print_line("time", receipt.duration.sentence())
        self._print_memory()
        self._print_readiness()
        for text in receipt.warnings:
            self._print_line("note", text, "yellow")
        if request and receipt.request:
            from llmtune.redaction.documents import dump_json

            self._print_line("request", receipt.request.operation)
            self._console.print(escape(dump_json(receipt.request.body)), soft_wrap=True)

    def _print_cost(self) -> None:
        cost = self._receipt.cost
        dated = f" [{cost.source}, {cost.checked}]" if cost.checked else ""
        formula = f" = {cost.formula}" if cost.formula and cost.total else ""
        if len(cost.lines) < 2 or not formula:
            self._print_line("cost", f"{cost.sentence()}{formula}{dated}")
            return
        self._print_line("cost", f"{cost.sentence()}{dated}")
        for line in cost.lines:
            self._print_line("", line.formula or f"{line.name}: not known: {line.unknown}", "dim")

    def _print_line(self, label: str, text: str, style: str = "") -> None:
        from rich.markup import escape

        body = escape(text)
        self._console.print(f"  {label:<9} {f'[{style}]{body}[/]' if style else body}", soft_wrap=True)

    def _print_service(self) -> None:
        from llmtune.provider.receipt import PLACEHOLDER

        lifecycle = self._receipt.lifecycle
        if self._receipt.target.model == PLACEHOLDER:
            text = f"{PLACEHOLDER} stands for a model that is not named yet: write its id into the job file"
            self._print_line("model", text, "red")
        self._print_line("service", lifecycle.sentence, "" if lifecycle.open else "red")
        if lifecycle.note:
            self._print_line("", lifecycle.note, "dim")
        if not lifecycle.open and lifecycle.alternatives:
            self._print_line("instead", ", ".join(lifecycle.alternatives))

    def _print_fields(self) -> None:
        for row in self._receipt.fields:
            if row.is_set and row.support == "converted":
                self._print_line("converted", f"{row.field}: {row.rule}", "cyan")
            if row.is_set and row.support == "unsupported":
                self._print_line("not used", f"{row.field}={row.requested!r}: {row.reason}", "yellow")
        if chosen := [row for row in self._receipt.fields if row.support == "default" and row.rule]:
            adapter = [f"adapter {self._receipt.target.adapter}"] * (self._receipt["adapter"].support == "default")
            values = ", ".join([*adapter, *(self._format_default(row) for row in chosen)])
            self._print_line("defaults", f"{values} (for {chosen[0].rule})")

    def _format_default(self, row: FieldReceipt) -> str:
        stops = row.field == "epochs" and self._receipt.effective("early_stopping_patience") is not None
        return f"at most {_shorten(row.effective)} epochs" if stops else f"{row.field} {_shorten(row.effective)}"

    def _print_data(self, common: list[str]) -> None:
        data = self._receipt.data
        if data.checked:
            rows = ", ".join(f"{count:,} {role}" for role, count in data.rows.items())
            about = "about " if data.tokens_estimated else ""
            tokens = f", {about}{data.tokens:,} training tokens" if data.tokens is not None else ""
            self._print_line("data", f"{rows} rows{tokens}, sent as {data.format}")
            if data.evaluated:
                from llmtune.report.verdicts import held_out_power

                self._print_line("test", held_out_power(data.evaluated))
        if (panel := self._receipt.panel) is not None:
            text = f"{panel.questions:,} questions of {panel.name!r} are asked of base and tuned model"
            self._print_line("panel", f"{text}, about {panel.prompt_tokens:,} tokens a model")
        if (judge := self._receipt.judge) is not None:
            about = "" if judge.prompt_tokens is None else f", about {judge.prompt_tokens:,} tokens"
            text = f"{judge.model} is asked for {judge.replies:,} verdicts ({judge.mode}){about}"
            self._print_line("judge", text)
            if judge.obstacle is not None:
                self._print_line("", judge.obstacle, "red")
        if data.errors or data.warnings:
            from llmtune.report.format import count as amount

            totals = f"{amount(data.errors, 'error')}, {amount(data.warnings, 'warning')}"
            self._print_line("", f"{totals} (llmtune data check shows all)", "yellow")
        for line in [line for line in data.findings if line not in common][:3]:
            self._print_line("", line, "red" if data.errors else "yellow")
        for line in data.lossy[:3]:
            self._print_line("lossy", line, "yellow")

    def _print_memory(self) -> None:
        memory = self._receipt.memory
        if memory is None:
            return
        self._print_line("memory", memory.sentence(), "red" if memory.fits is False else "")
        tight = memory.fits is False or (memory.room or 0) < 2 * (memory.peak or 0)
        for text in memory.advice if tight else ():
            self._print_line("", f"smaller by {text}", "dim")

    def _print_readiness(self) -> None:
        ready = self._receipt.ready
        missing = f"; settings missing: {', '.join(ready.missing_settings)}" if ready.missing_settings else ""
        lacking = ready.extra == "missing" or ready.credentials == "not found" or bool(ready.missing_settings)
        text = f"extra {ready.extra}, credentials {ready.credentials}{missing}"
        self._print_line("ready", text, "red" if lacking else "")
        if ready.hint:
            self._print_line("", ready.hint, "dim")


def _split_into_chunks(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]
