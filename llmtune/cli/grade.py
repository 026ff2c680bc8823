"""`llmtune grade`: try a grader on rows before a job learns from it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmtune.graders.trial import Trial
    from llmtune.job.graders import Grader
    from llmtune.runs.judge import CountingJudge, ReplyCount


def grade(
    grader: Annotated[
        Path, typer.Argument(metavar="GRADER", help="The grader: a YAML or JSON file.", show_default=False)
    ],
    rows: Annotated[
        Path,
        typer.Argument(
            metavar="ROWS",
            help="Rows with their right answers, in JSON lines, CSV or another container.",
            show_default=False,
        ),
    ],
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers",
            help="Also a model's answers: a JSON line for each row, with answer, or answers for several samples.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of rows.")] = 0,
    source_for: Annotated[
        str | None,
        typer.Option(
            "--source-for",
            metavar="PROVIDER",
            help="Also write the Python source by which this backend scores, into the file of --output.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file for --source-for.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="For a judge: the most that its replies may cost, in USD.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="For a judge: spend without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Try a grader on right, empty, foreign and other answers, and show what it pays for.

    Sends nothing, but to the endpoint or function that a grader of kind http or lambda names, and to the model that one
    of kind judge asks. Exits with 0 if a job could learn from it, 5 if not; then no source is written.
    """
    from llmtune.cli.output import out, print_json
    from llmtune.errors import EXIT_NOT_PASSED, InvalidJob, InvalidSettings
    from llmtune.graders.rows import read_answers, read_rows
    from llmtune.graders.trial import try_grader
    from llmtune.job.graders import list_judges, load_grader

    if (source_for is None) != (output is None):
        raise InvalidSettings("--source-for and --output go together: name a backend and a file")
    loaded = load_grader(grader)
    source = None if source_for is None else _write_source(loaded, source_for)
    read = read_rows(rows)
    samples = None if answers is None else read_answers(answers, len(read))
    if not list_judges(loaded) and (budget is not None or yes):
        option = "--yes" if budget is None else "--budget"
        raise InvalidJob(f"only a judge costs money, and the grader is of kind {loaded.kind}", where=option)
    total: ReplyCount | None = None
    if list_judges(loaded):
        from llmtune.runs.judge import CountingJudge, GraderJudge

        counting = CountingJudge()
        try_grader(loaded, read, samples=samples, seed=seed, judge=counting)
        _confirm_judges(counting, budget=budget, yes=yes)
        with GraderJudge(budget) as judge:
            trial = try_grader(loaded, read, samples=samples, seed=seed, judge=judge)
        total = judge.total
    else:
        trial = try_grader(loaded, read, samples=samples, seed=seed)
    if as_json:
        print_json({"grader": loaded.kind, **trial.as_dict()} | ({} if total is None else {"judge": asdict(total)}))
    else:
        _print_trial(out, loaded.kind, trial)
        if total is not None:
            out.print(f"judge: {total.describe()}", markup=False, soft_wrap=True)
    if not trial.fit:
        raise typer.Exit(EXIT_NOT_PASSED)
    if source is not None and output is not None:
        output.write_text(source, encoding="utf-8")
        if not as_json:
            out.print(f"wrote {output}: the source by which {source_for} scores", markup=False, highlight=False)


def _write_source(grader: Grader, name: str) -> str:
    """Return the source of a grader at a backend; refuse a backend that has none, and a grader without one."""
    from llmtune.errors import InvalidJob
    from llmtune.graders.source import find_obstacle
    from llmtune.provider.abilities import WritesGraders
    from llmtune.provider.registry import get_provider

    provider = get_provider(name)
    if not isinstance(provider, WritesGraders):
        raise InvalidJob(f"{name} runs no grader whose source llmtune writes (docs/reinforcement.md)")
    if obstacle := find_obstacle(grader):
        raise InvalidJob(obstacle)
    return provider.write_grader_source(grader)


def _confirm_judges(counting: CountingJudge, *, budget: float | None, yes: bool) -> None:
    """Say who is asked and what it may cost, and ask whether to go on where it costs money.

    Raises:
        OverBudget: it may cost more than the budget, or a price is not known under one; it was not confirmed.
    """
    from llmtune.cli.output import confirm, err
    from llmtune.errors import OverBudget
    from llmtune.runs.budget import CONFIRM, CostTotal, check_budget

    total = counting.total
    for model, host in counting.hosts.items():
        sent = "the rows are sent to" if host.leaves_machine else "asked:"
        err.print(f"judge: {sent} {model} at {host.location}", markup=False, soft_wrap=True)
    about = f"at most {total.describe()}"
    err.print(f"judge: {about}", markup=False, soft_wrap=True)
    if total.amount == 0.0:
        return
    if budget is None and not yes and err.is_terminal and sys.stdin.isatty():
        yes = confirm(f"Ask for {about}?")

    def bill(most: float) -> CostTotal:
        over = OverBudget(f"the judge may cost {total.amount or 0.0:,.4f} USD, over the budget of {most:,.2f} USD")
        unknown = OverBudget(
            "what the judge bills is not known, which counts as over the budget",
            hint="give the grader its price: {input: USD, output: USD}, per million tokens",
        )
        return CostTotal(total.amount or 0.0, over, unknown if total.amount is None else None)

    check_budget(
        bill,
        budget=budget,
        confirmed=yes,
        allow_unknown_cost=False,
        unconfirmed=OverBudget(f"the judge bills ({about}) and it was not confirmed", hint=CONFIRM),
    )


def _print_trial(console: Any, kind: str, trial: Trial) -> None:
    from rich.table import Table

    from llmtune.cli.data.output import print_finding
    from llmtune.graders.trial import DESCRIPTIONS
    from llmtune.report.format import count

    console.print(f"{kind}, {trial.low:g} to {trial.high:g}, on {count(trial.rows, 'row')}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("answer")
    for name in ("answers", "mean score", "lowest", "highest"):
        table.add_column(name, justify="right")
    for scores in trial.scores:
        figures = (scores.mean, scores.lowest, scores.highest)
        cells = ["" if figure is None else f"{figure:.3f}" for figure in figures]
        table.add_row(DESCRIPTIONS[scores.kind], f"{scores.answers:,}", *cells)
    console.print(table)
    for finding in trial.findings:
        print_finding(finding)
    verdict = (
        "[green]fit: a job can learn from it[/]" if trial.fit else "[red]not fit: a job would learn the wrong thing[/]"
    )
    console.print(verdict)
