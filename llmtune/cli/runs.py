"""`llmtune runs`: list, show, follow, reattach to, cancel, clean up and back up runs."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.cli.completion import complete_provider, complete_run, complete_state
from llmtune.cli.help import HelpfulGroup
from llmtune.cli.run_names import RunId, open_run
from llmtune.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmtune.runs.actions import Cleanup
    from llmtune.runs.poller import Update
    from llmtune.runs.run import Run
    from llmtune.runs.store.records import RunRecord

app = typer.Typer(cls=HelpfulGroup, no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="As one JSON document.")]


#: Columns below which name and model together cannot be read in `runs list`.
NAMES_WIDTH = 24


@app.command("list")
def list_(
    state: Annotated[
        list[str] | None,
        typer.Option(help="Only runs in this state; may be repeated.", autocompletion=complete_state),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option("--provider", "-p", help="Only runs at this provider.", autocompletion=complete_provider),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from llmtune.cli.output import out, print_json
    from llmtune.provider.types import RunState
    from llmtune.runs.store.store import open_store

    states = None if not state else [_parse_state(name) for name in state]
    store = open_store()
    records = store.runs(states=states, provider=provider, limit=limit)
    if as_json:
        print_json({"runs": [_summary(record) for record in records]})
        return
    if not records:
        out.print("no run can be read" if store.damaged(states or tuple(RunState)) else "no runs yet")
        return
    from rich.table import Table

    rows = [
        (
            record.id,
            record.name,
            record.provider,
            record.model,
            record.state.value,
            _steps(record).removeprefix("step ").partition(",")[0],
            _when(record.created).rpartition(":")[0],
        )
        for record in records
    ]
    headings = ("run", "name", "provider", "model", "state", "step", "started")
    name_width, model_width = _share_width(out.width, headings, rows)
    if name_width + model_width < NAMES_WIDTH:  # the hour is worth less than the names
        rows = [(*row[:-1], row[-1].partition(" ")[0]) for row in rows]
        name_width, model_width = _share_width(out.width, headings, rows)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        if heading in ("name", "model"):
            table.add_column(heading, overflow="fold", width=name_width if heading == "name" else model_width)
        else:
            table.add_column(heading, no_wrap=True)
    for row in rows:
        cells = [_plain(cell) for cell in row]
        cells[4] = f"[{_COLOURS.get(row[4], 'default')}]{cells[4]}[/]"
        table.add_row(*cells)
    out.print(table)


def _share_width(width: int, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Return the widths of name and model: what the other columns leave, so that only these two are ever folded."""
    from rich.cells import cell_len

    widest = [max(cell_len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    columns_free = max(16, width - sum(widest) + widest[1] + widest[3] - 2 * (len(headings) - 1))
    name = min(widest[1], max(columns_free // 2, columns_free - widest[3]))
    return name, min(widest[3], columns_free - name)


@app.command("show")
def show(run: RunId, as_json: AsJson = False) -> None:
    """Show everything that the run store holds about a run, without asking the vendor."""
    from llmtune.cli.output import out, print_json

    handle = open_run(run, "newest")
    record, transitions = handle.record, handle.transitions()
    if as_json:
        print_json(_full_record(handle))
        return
    out.print(f"[bold]{record.id}[/]  {_plain(record.name)}", soft_wrap=True)
    job = handle.job_ref
    model = handle.model_ref
    facts: list[tuple[str, Any]] = [
        ("state", record.state.value + (f" (the vendor says {record.raw_state!r})" if record.raw_state else "")),
        ("provider", record.provider if record.provider == record.kind else f"{record.provider} ({record.kind})"),
        ("model", record.model),
        ("key", record.key),
        ("job", job.id if job else None),
        ("at", job.url if job else None),
        ("tuned model", model.id if model else None),
        ("progress", _steps(record) or None),
        ("error", record.error),
        ("estimate", _estimate(record)),
        ("billed", _billed(record)),
        ("budget", _describe_spending(record)),
        ("started on", record.host.get("host")),
    ]
    for name, value in facts:
        if value is not None:
            out.print(f"  {name:<12} {_plain(str(value))}", soft_wrap=True)
    for warning in record.warnings:
        out.print(f"  [yellow]warning[/]      {_plain(warning)}", soft_wrap=True)
    for transition in transitions:
        reason = f"  [dim]{_plain(transition.reason)}[/]" if transition.reason else ""
        out.print(f"  {_when(transition.time)}  {transition.state.value:<11}{reason}", soft_wrap=True)


@app.command("attach")
def attach(
    run: RunId,
    timeout: Annotated[float | None, typer.Option(help="Stop waiting (not the run) after this many seconds.")] = None,
    stall_timeout: Annotated[
        float | None, typer.Option(help="Warn when there is no new step or state for this many seconds.")
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(help="Also send the curves to tensorboard:DIR, mlflow:URI or wandb:PROJECT. May be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Reattach to a run: continue whatever its process left undone, follow it, and print its report."""
    from functools import partial

    from llmtune.cli.progress import follow
    from llmtune.cli.tune import follow_to_report
    from llmtune.runs.store.database import keep_trying

    handle = open_run(run, "unfinished")
    if sink:
        keep_trying(lambda: handle.feed(sink), doing=f"trackers of run {handle.id}")
    follow_to_report(handle, partial(follow, timeout=timeout, stall_timeout=stall_timeout), as_json=as_json)


@app.command("watch")
def watch(
    which: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="The runs; none means all unfinished ones.", autocompletion=complete_run),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
) -> None:
    """Follow several runs, with a line for each change, until all have ended. Exits with 1 unless all succeeded."""
    import asyncio

    from llmtune.cli.output import err
    from llmtune.runs.api import list_runs
    from llmtune.runs.store.store import UNFINISHED

    chosen = [open_run(name, "unfinished") for name in which] if which else list_runs(states=UNFINISHED)
    if not chosen:
        err.print("no unfinished runs")
        return
    try:
        failures = asyncio.run(_watch_all(chosen, as_json=as_json))
    except KeyboardInterrupt:
        err.print("the runs continue; follow them again with: llmtune runs watch")
        sys.exit(EXIT_INTERRUPTED)
    if failures:
        sys.exit(1)


async def _watch_all(chosen: list[Run], *, as_json: bool) -> int:
    """Follow the runs to their ends; return how many ended without a model or could not be followed."""
    import asyncio

    from llmtune.cli.output import err
    from llmtune.errors import LlmtuneError
    from llmtune.redaction.secrets import scrub

    async def watch_run(run: Run) -> bool:
        last: Update | None = None
        try:
            async for update in run.updates():
                answered_more = last is not None and update.record.progress.answers != last.record.progress.answers
                if update.moved or update.message or update.last or answered_more:
                    _print_update(update, as_json=as_json)
                last = update
        except LlmtuneError as error:  # the other runs are followed to their ends
            err.print(f"{run.id}: {scrub(error.message)}", markup=False, soft_wrap=True)
            return False
        return last is not None and last.error is None and last.record.state.value == "succeeded"

    successes = await asyncio.gather(*(watch_run(run) for run in chosen))
    return successes.count(False)


def _print_update(update: Update, *, as_json: bool) -> None:
    from llmtune.cli.output import out, print_json_line

    record = update.record
    message = str(update.error) if update.error else update.message
    if as_json:
        print_json_line(_summary(record) | {"message": message, "spending": _dump_spending(record)})
        return
    spending = None if update.error else _describe_spending(record)
    details = "  ".join(_plain(text) for text in (_steps(record), spending or "", message or "") if text)
    out.print(f"{record.id}  {_plain(record.name)}  {record.state.value:<11} {details}".rstrip(), soft_wrap=True)


@app.command("cancel")
def cancel(run: RunId, as_json: AsJson = False) -> None:
    """Request that a run be stopped."""
    from llmtune.cli.output import out, print_json

    handle = open_run(run, "unfinished")
    before = handle.state
    state = handle.cancel()
    if as_json:
        print_json({"run": handle.id, "state": state.value})
    elif before.final:
        out.print(f"run {handle.id} has ended already: {before.value}", soft_wrap=True)
    elif state.final:
        out.print(f"run {handle.id}: {state.value}", soft_wrap=True)
    else:
        out.print(
            f"run {handle.id}: cancellation requested ({state.value}); llmtune runs attach {handle.id} waits until it"
            " has stopped",
            soft_wrap=True,
        )


@app.command("adopt")
def adopt(
    run: RunId,
    job: Annotated[str, typer.Argument(help="The job's id at the vendor.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Name the job at the vendor that belongs to a lost run, so that the run is followed again."""
    from llmtune.cli.output import out, print_json

    handle = open_run(run, None)
    handle.adopt(job)
    if as_json:
        print_json({"run": handle.id, "state": handle.state.value})
        return
    out.print(f"run {handle.id} follows job {_plain(job)} now: llmtune runs attach {handle.id}", soft_wrap=True)


@app.command("resubmit")
def resubmit(
    run: RunId,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Confirm that you have checked: there is no such job at the vendor.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a lost run again. Check the vendor's console first: a job that exists already would be paid for twice."""
    from llmtune.cli.output import confirm, err, out, print_json
    from llmtune.errors import OverBudget

    handle = open_run(run, None)
    if not yes:
        if not (sys.stdin.isatty() and err.is_terminal):
            raise OverBudget(
                "a job that exists already would be paid for twice, and nobody can confirm it here",
                hint="check the vendor's console; then pass --yes, or use llmtune runs adopt",
            )
        confirm("Have you checked the vendor's console, and is there no such job?", abort=True)
    state = handle.resubmit()
    if as_json:
        print_json({"run": handle.id, "state": state.value})
        return
    out.print(f"run {handle.id}: {state.value}; llmtune runs attach {handle.id}", soft_wrap=True)


@app.command("resume")
def resume(run: RunId, as_json: AsJson = False) -> None:
    """Resume a failed or cancelled run on this machine from its last complete checkpoint."""
    from llmtune.cli.output import out, print_json

    handle = open_run(run, None)
    checkpoint = handle.resume()
    if as_json:
        print_json({"run": handle.id, "state": handle.state.value, "from": checkpoint})
        return
    out.print(f"run {handle.id} continues from {checkpoint}: llmtune runs attach {handle.id}", soft_wrap=True)


@app.command("cleanup")
def cleanup(
    which: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN", help="The runs to clean up after; none means all runs.", autocompletion=complete_run
        ),
    ] = None,
    models: Annotated[bool, typer.Option("--models", help="Remove tuned models too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove deployments and uploads (with --models, models too) that llmtune created and no unfinished run uses.

    Exits with 1 when something could not be removed.
    """
    from llmtune.cli.output import print_json
    from llmtune.runs.actions import cleanup as clean
    from llmtune.runs.backend import provider_of
    from llmtune.runs.store.store import open_store

    store = open_store()
    ids = [store.resolve(name) for name in which] if which else None
    done = clean(store, provider_of, run_ids=ids, models=models, dry_run=dry_run)
    if as_json:
        print_json(_cleanup_json(done, dry_run=dry_run))
    else:
        _print_cleanup(done, dry_run=dry_run)
    if done.failed:
        sys.exit(1)


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write (.tar, or .tar.gz); a new file.")],
    local: Annotated[
        bool, typer.Option("--local/--no-local", help="Include what was trained here: adapters, models, checkpoints.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write the run store and its files into one archive that only you can read; runs may continue meanwhile."""
    from llmtune.cli.output import out, print_json
    from llmtune.runs.backup import back_up

    done = back_up(file, local=local)
    if as_json:
        print_json({"file": str(done.file), "runs": done.runs, "files": done.files, "bytes": done.bytes})
        return
    out.print(
        f"wrote {_plain(str(done.file))}: the store with {done.runs} runs, and {done.files} files"
        f" ({done.bytes / 1e6:,.1f} MB); to restore it, unpack it into a folder and set LLMTUNE_HOME to that folder",
        soft_wrap=True,
    )


def _print_cleanup(done: Cleanup, *, dry_run: bool) -> None:
    from llmtune.cli.output import out

    verb = "would remove" if dry_run else "removed"
    for resource in done.removed:
        out.print(f"{verb} {resource.type} {_plain(resource.ref.id)} at {_plain(resource.provider)}", soft_wrap=True)
    for resource, reason in done.kept:
        out.print(f"[dim]kept {resource.type} {_plain(resource.ref.id)}: {_plain(reason)}[/]", soft_wrap=True)
    for resource, reason in done.failed:
        out.print(
            f"[red]could not remove[/] {resource.type} {_plain(resource.ref.id)} at {_plain(resource.provider)}:"
            f" {_plain(reason)}",
            soft_wrap=True,
        )
    if not (done.removed or done.kept or done.failed):
        out.print("no vendor holds anything that llmtune created")


def _cleanup_json(done: Cleanup, *, dry_run: bool) -> dict[str, Any]:
    def entry(resource: Any, reason: str | None = None) -> dict[str, Any]:
        data = {"type": resource.type, "id": resource.ref.id, "provider": resource.provider, "run": resource.run_id}
        return data if reason is None else data | {"reason": reason}

    return {
        "dry_run": dry_run,
        "removed": [entry(resource) for resource in done.removed],
        "kept": [entry(resource, reason) for resource, reason in done.kept],
        "failed": [entry(resource, reason) for resource, reason in done.failed],
    }


# --- formatting of a run ---------------------------------------------------------------------------------------------
_COLOURS = {"succeeded": "green", "failed": "red", "lost": "red", "cancelled": "yellow", "running": "cyan"}


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _parse_state(name: str) -> Any:
    from llmtune.errors import UnknownName
    from llmtune.provider.types import RunState

    try:
        return RunState(name)
    except ValueError:
        raise UnknownName("state", name, [state.value for state in RunState]) from None


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _steps(record: RunRecord) -> str:
    progress = record.progress
    parts = []
    if progress.step is not None:
        parts.append(
            f"step {progress.step}/{progress.total_steps}" if progress.total_steps else f"step {progress.step}"
        )
    if progress.total_answers and not record.state.final:
        parts.append(f"evaluated {progress.answers}/{progress.total_answers} rows")
    return ", ".join(parts)


def _dump_spending(record: RunRecord) -> dict[str, Any] | None:
    from llmtune.runs.spending import measure_spending

    spending = measure_spending(record)
    return None if spending is None else spending.model_dump(mode="json") | {"left": spending.left}


def _describe_spending(record: RunRecord) -> str | None:
    from llmtune.runs.spending import measure_spending

    spending = measure_spending(record)
    return None if spending is None else spending.sentence()


def _estimate(record: RunRecord) -> str | None:
    return record.cost.sentence() if record.hosted and record.receipt else None


def _billed(record: RunRecord) -> str | None:
    billed = record.billed
    if billed is None:
        return "not reported by the vendor" if record.hosted and record.state.final else None
    money = f"{billed.amount:,.2f} {billed.currency}" if billed.amount is not None else None
    tokens = f"{billed.tokens:,} tokens" if billed.tokens is not None else None
    return ", ".join(part for part in (money, tokens) if part)


def _summary(record: RunRecord) -> dict[str, Any]:
    fields = {"id", "key", "name", "provider", "kind", "model", "state", "raw_state", "created", "updated"}
    return record.model_dump(mode="json", include={*fields, "progress", "error", "group"})


def _full_record(run: Run) -> dict[str, Any]:
    from llmtune.runs.store.store import open_store

    record = run.record
    data = record.model_dump(mode="json", exclude={"settings"})
    data["transitions"] = [
        {"time": transition.time, "state": transition.state.value, "reason": transition.reason}
        for transition in run.transitions()
    ]
    data["references"] = open_store().refs(record.id)
    data["events"] = [event.model_dump(mode="json") for _, event in run.events()]
    data["metrics"] = [point.model_dump(mode="json") for point in run.metrics()]
    return data
