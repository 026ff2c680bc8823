"""`llmtune rescue`: move a tuned model from a closing vendor to another backend."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from llmtune.rescues.results import AccountRescue, Rescue


def rescue(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL_OR_RUN]", help="A tuned model's id, its job's id, or a run.", show_default=False
        ),
    ] = None,
    to: Annotated[str, typer.Option("--to", help="The backend to train it again at.")] = "local",
    base: Annotated[str | None, typer.Option("--model", help="The new base model.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Where the old model is; by default every backend is asked.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder; rescue-NAME by default.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts for the golden set, instead of the held-out rows.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Your own training file, when the vendor has none any more.")
    ] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="Send the old model at most this many prompts.")] = 200,
    all_models: Annotated[
        bool, typer.Option("--all", help="Every tuned model of the account that --from names.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="With --all: only models made on or after this day.")
    ] = None,
    old_base: Annotated[
        str | None, typer.Option("--base", help="With --all: only models tuned from this base (a pattern: 'gpt-4.1*').")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="With --all: only models whose id fits this pattern ('*router*').")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --all: only the newest N.")] = None,
    deploy: Annotated[
        bool,
        typer.Option(
            "--deploy", help="Deploy an old model that answers only from a deployment; removed right afterwards."
        ),
    ] = False,
    snapshot_only: Annotated[bool, typer.Option("--snapshot-only", help="Stop before training.")] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Train nothing: verify that this server of chat completions answers as the old model did.",
            show_default=False,
        ),
    ] = None,
    served_model: Annotated[
        str | None, typer.Option("--served-model", help="With --endpoint: the name to ask for.", show_default=False)
    ] = None,
    key_from: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE", help="With --endpoint: environment variable with its key.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    budget: Annotated[
        float | None, typer.Option(help="Refuse above this many USD, answers and training together.")
    ] = None,
    allow_unknown_cost: Annotated[bool, typer.Option(help="Run although the cost is not known.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Fetch a tuned model's job and data, record its answers, train it elsewhere, and compare.

    With --all, do so for every tuned model of an account; exits with 1 if any part of one could not be fetched. With
    --endpoint, exits with 0 if the server answers as the old model did, 5 if not, 6 if that is unclear.
    """
    from rich.markup import escape

    from llmtune.cli.output import err, print_json
    from llmtune.cli.output import out as stdout
    from llmtune.cli.progress import follow
    from llmtune.cli.tune import confirm
    from llmtune.cli.verify import print_verification
    from llmtune.rescues.account import Filters, rescue_all
    from llmtune.rescues.rescue import rescue as rescue_one

    only = {"--since": since, "--base": old_base, "--name": name, "--limit": limit}
    single = {"--prompts": prompts, "--data": data, "--endpoint": endpoint}
    _check_usage(model, source, all_models, only, single)
    if endpoint is None and (served_model is not None or key_from is not None):
        raise typer.BadParameter("they are about the server of --endpoint", param_hint="--served-model / --key-from")
    common: dict[str, Any] = {
        "model": base,
        "out": out,
        "max_rows": max_rows,
        "snapshot_only": snapshot_only,
        "deploy": deploy,
        "yes": yes,
        "budget": budget,
        "allow_unknown_cost": allow_unknown_cost,
        "confirm": _confirm_answers,
        "confirm_run": confirm,
        "follow": follow,
        "say": lambda text: err.print(escape(text), soft_wrap=True),
    }
    try:
        if all_models:
            filters = Filters(since=_parse_date(since), base=old_base, name=name, limit=limit)
            account = rescue_all(str(source), to, filters=filters, **common)
            if as_json:
                print_json(account.model_dump(mode="json"))
            else:
                _show_account(account, stdout)
            if account.failed:
                raise typer.Exit(1)
            return
        rescued = rescue_one(
            str(model),
            to,
            source_provider=source,
            prompts=prompts,
            data=data,
            endpoint=endpoint,
            served_model=served_model,
            key_from=key_from,
            **common,
        )
    except KeyboardInterrupt:
        err.print("\nfetched files and answers are kept; the same command continues from there", soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)
    if as_json:
        print_json(rescued.model_dump(mode="json"))
    else:
        _show(rescued, stdout)
    if endpoint is not None and rescued.verification is not None:
        if not as_json:
            print_verification(rescued.verification, stdout)
        raise typer.Exit(rescued.verification.exit_code)


def _check_usage(
    model: str | None, source: str | None, all_models: bool, only: dict[str, Any], single: dict[str, Any]
) -> None:
    """Raise `typer.BadParameter` for options that cannot be combined."""
    if not all_models and model is None:
        raise typer.BadParameter("name a model or a run, or pass --all --from PROVIDER", param_hint="MODEL_OR_RUN")
    if all_models and model is not None:
        raise typer.BadParameter(f"--all takes every model: leave {model} out, or --all", param_hint="--all")
    if all_models and source is None:
        raise typer.BadParameter("say whose account: --from PROVIDER", param_hint="--all")
    for option, value in (single if all_models else only).items():
        if value is not None:
            rule = "is for one model, not for --all" if all_models else "needs --all"
            raise typer.BadParameter(f"it {rule}", param_hint=option)


def _parse_date(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date: write it as 2026-01-31", param_hint="--since") from None


def _confirm_answers(cost: float | None, formula: str, sampling: dict[str, Any]) -> None:
    from llmtune.cli.output import confirm, err
    from llmtune.errors import OverBudget
    from llmtune.rescues.golden_set import format_upper_bound

    price = "an unknown amount" if cost is None else f"{format_upper_bound(cost)} USD"
    if not (err.is_terminal and sys.stdin.isatty()):
        raise OverBudget(
            f"the old model's answers cost {price} ({formula}); nobody can confirm here",
            hint="pass --budget USD or --yes",
        )
    settings = ", ".join(f"{name} {value}" for name, value in sampling.items())
    err.print(f"{formula}; asked with {settings}", markup=False, soft_wrap=True)
    if not confirm(f"Ask the old model for {price}?"):
        raise OverBudget("not confirmed; the old model was not asked", hint="what was fetched is in the folder")


def _show_account(account: AccountRescue, out: Any) -> None:
    from rich.markup import escape

    from llmtune.rescues.text import describe_account, list_account_notes

    out.print(f"[bold]{escape(describe_account(account))}[/]", soft_wrap=True)
    for line in list_account_notes(account):
        out.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
    out.print(f"{account.folder}: summary.md, and a folder for each model", markup=False, soft_wrap=True)
    if account.failed:
        out.print("run the same command again to retry what is missing", soft_wrap=True)


def _show(rescued: Rescue, out: Any) -> None:
    from rich.markup import escape

    from llmtune.rescues.text import verdict

    if rescued.report is not None:
        out.print(f"[bold]{escape(verdict(rescued.report))}[/]", soft_wrap=True)
    for note in rescued.notes:
        out.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    names = [
        name
        for name in ("report.md", "job.yaml", "data", "golden.jsonl", "receipt.json")
        if _was_written(rescued, name)
    ]
    out.print(f"{rescued.folder}: {', '.join(names)}", markup=False, soft_wrap=True)


def _was_written(rescued: Rescue, name: str) -> bool:
    return (Path(rescued.folder) / name).exists()
