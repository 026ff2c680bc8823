"""`llmtune rescue`: a tuned model whose vendor is closing, brought to another backend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from llmtune.rescues.results import Rescue


def rescue(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL_OR_RUN", help="A tuned model's id, its job's id, or a run.", show_default=False),
    ],
    to: Annotated[str, typer.Option("--to", help="The backend to train it again at.")] = "local",
    base: Annotated[str | None, typer.Option("--model", help="The new base model.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Where the old model is; by default everybody is asked.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder; rescue-NAME by default.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts for the golden set, instead of the held-out rows.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Your own training file, when the vendor has none any more.")
    ] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="The most prompts the old model is asked.")] = 200,
    snapshot_only: Annotated[bool, typer.Option("--snapshot-only", help="Stop before training.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    budget: Annotated[
        float | None, typer.Option(help="Refuse above this many USD, answers and training together.")
    ] = None,
    allow_unknown_cost: Annotated[bool, typer.Option(help="Run although the cost is not known.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Fetch a tuned model's job and data, record its answers, train it elsewhere, and compare."""
    from rich.markup import escape

    from llmtune.cli.output import err, print_json
    from llmtune.cli.output import out as stdout
    from llmtune.cli.progress import follow
    from llmtune.cli.tune import confirm
    from llmtune.rescues.rescue import rescue as go

    try:
        found = go(
            model,
            to,
            model=base,
            source_provider=source,
            out=out,
            prompts=prompts,
            data=data,
            max_rows=max_rows,
            snapshot_only=snapshot_only,
            yes=yes,
            budget=budget,
            allow_unknown_cost=allow_unknown_cost,
            confirm=_confirm_answers,
            confirm_run=confirm,
            follow=follow,
            say=lambda text: err.print(escape(text), soft_wrap=True),
        )
    except KeyboardInterrupt:
        err.print("\nwhat was fetched and answered is kept; the same command goes on from there", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _show(found, stdout)


def _confirm_answers(cost: float | None, formula: str, sampling: dict[str, Any]) -> None:
    from llmtune.cli.output import confirm, err
    from llmtune.errors import OverBudget

    price = "an unknown amount" if cost is None else f"at most {cost:,.2f} USD"
    if not (err.is_terminal and sys.stdin.isatty()):
        raise OverBudget(
            f"the old model's answers cost {price} ({formula}); nobody can confirm here",
            hint="pass --budget USD or --yes",
        )
    asked = ", ".join(f"{name} {value}" for name, value in sampling.items())
    err.print(f"{formula}; asked with {asked}", markup=False, soft_wrap=True)
    if not confirm(f"Ask the old model for {price}?"):
        raise OverBudget("not confirmed; the old model was not asked", hint="what was fetched is in the folder")


def _show(found: Rescue, out: Any) -> None:
    from rich.markup import escape

    from llmtune.rescues.text import verdict

    if found.report is not None:
        out.print(f"[bold]{escape(verdict(found.report))}[/]", soft_wrap=True)
    for note in found.notes:
        out.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    page = "report.md, " if found.report is not None else ""
    out.print(f"{found.folder}: {page}job.yaml, data/, golden.jsonl, receipt.json", markup=False, soft_wrap=True)
