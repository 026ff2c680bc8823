"""`llmtune runs`: list, look at, follow, come back to, cancel, clean up and back up runs."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from llmtune.runs.actions import Cleanup
    from llmtune.runs.poller import Update
    from llmtune.runs.run import Run
    from llmtune.runs.store.records import RunRecord

app = typer.Typer(no_args_is_help=True)

RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's id, its beginning, its key, or its name.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="As one JSON document.")]


@app.command("list")
def list_(
    state: Annotated[list[str] | None, typer.Option(help="Only runs in this state (may be given again).")] = None,
    provider: Annotated[str | None, typer.Option("--provider", "-p", help="Only runs at this provider.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from llmtune.cli.output import out, print_json
    from llmtune.provider.types import RunState
    from llmtune.runs.store.store import open_store

    states = None if not state else [_state(each) for each in state]
    store = open_store()
    records = store.runs(states=states, provider=provider, limit=limit)
    if as_json:
        print_json({"runs": [_summary(record) for record in records]})
        return
    if not records:
        out.print("no run can be read" if store.damaged(states or tuple(RunState)) else "no runs yet")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("run", "name", "provider", "model", "state", "step", "started"):
        table.add_column(column, overflow="fold")
    for record in records:
        table.add_row(
            record.id,
            _plain(record.name),
            _plain(record.provider),
            _plain(record.model),
            f"[{_COLOURS.get(record.state.value, 'default')}]{record.state.value}[/]",
            _steps(record),
            _when(record.created),
        )
    out.print(table)


@app.command("show")
def show(run: RunId, as_json: AsJson = False) -> None:
    """Show everything that is known of a run, without asking the vendor."""
    from llmtune.cli.output import out, print_json
    from llmtune.runs.api import attach

    found = attach(run)
    record, transitions = found.record, found.transitions()
    if as_json:
        print_json(_whole(found))
        return
    out.print(f"[bold]{record.id}[/]  {_plain(record.name)}", soft_wrap=True)
    job = found.job_ref
    model = found.model_ref
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
        ("started on", record.host.get("host")),
    ]
    for name, value in facts:
        if value is not None:
            out.print(f"  {name:<12} {_plain(str(value))}", soft_wrap=True)
    for warning in record.warnings:
        out.print(f"  [yellow]warning[/]      {_plain(warning)}", soft_wrap=True)
    for each in transitions:
        reason = f"  [dim]{_plain(each.reason)}[/]" if each.reason else ""
        out.print(f"  {_when(each.time)}  {each.state.value:<11}{reason}", soft_wrap=True)


@app.command("attach")
def attach(
    run: RunId,
    timeout: Annotated[float | None, typer.Option(help="Stop waiting (not the run) after so many seconds.")] = None,
    stall_timeout: Annotated[
        float | None, typer.Option(help="Say so when no new step or state comes for so many seconds.")
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(help="Send the curves there too: tensorboard:DIR, mlflow:URI, wandb:PROJECT. May be given again."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Come back to a run: go on with whatever its process left undone, follow it, and print its report."""
    from functools import partial

    from llmtune.cli.progress import follow
    from llmtune.cli.tune import show as show_report
    from llmtune.runs.api import attach as find

    found = find(run)
    found.feed(sink or ())
    show_report(found, partial(follow, timeout=timeout, stall_timeout=stall_timeout), as_json=as_json)


@app.command("watch")
def watch(
    which: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="The runs; none means all unfinished ones.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """Follow many runs at once, a line for each change, until all have ended. Exits with 1 unless all succeeded."""
    import asyncio

    from llmtune.cli.output import err
    from llmtune.runs.api import attach as find
    from llmtune.runs.api import runs
    from llmtune.runs.store.store import UNFINISHED

    chosen = [find(each) for each in which] if which else runs(states=UNFINISHED)
    if not chosen:
        err.print("no unfinished runs")
        return
    try:
        failures = asyncio.run(_watch_all(chosen, as_json=as_json))
    except KeyboardInterrupt:
        err.print("the runs go on; come back with: llmtune runs watch")
        sys.exit(EXIT_INTERRUPTED)
    if failures:
        sys.exit(1)


async def _watch_all(chosen: list[Run], *, as_json: bool) -> int:
    """Follow the runs to their ends; returns how many ended without a model or could not be followed."""
    import asyncio

    from llmtune.cli.output import err
    from llmtune.errors import LlmtuneError
    from llmtune.redaction.secrets import scrub

    async def one(run: Run) -> bool:
        last: Update | None = None
        try:
            async for update in run.updates():
                if update.moved or update.message or update.last:
                    _say(update, as_json=as_json)
                last = update
        except LlmtuneError as error:  # the other runs are followed to their ends
            err.print(f"{run.id}: {scrub(error.message)}", markup=False, soft_wrap=True)
            return False
        return last is not None and last.error is None and last.record.state.value == "succeeded"

    ended = await asyncio.gather(*(one(run) for run in chosen))
    return ended.count(False)


def _say(update: Update, *, as_json: bool) -> None:
    from llmtune.cli.output import out, print_json_line

    record = update.record
    message = str(update.error) if update.error else update.message
    if as_json:
        print_json_line(_summary(record) | {"message": message})
        return
    said = "  ".join(_plain(each) for each in (_steps(record), message or "") if each)
    out.print(f"{record.id}  {record.state.value:<11} {said}".rstrip(), soft_wrap=True)


@app.command("cancel")
def cancel(run: RunId, as_json: AsJson = False) -> None:
    """Ask for a run to be stopped."""
    from llmtune.cli.output import out, print_json
    from llmtune.runs.api import attach as find

    found = find(run)
    before = found.state
    state = found.cancel()
    if as_json:
        print_json({"run": found.id, "state": state.value})
    elif before.final:
        out.print(f"run {found.id} has ended already: {before.value}", soft_wrap=True)
    elif state.final:
        out.print(f"run {found.id}: {state.value}", soft_wrap=True)
    else:
        out.print(
            f"run {found.id}: cancellation asked for ({state.value}); llmtune runs attach {found.id} tells when it has"
            " stopped",
            soft_wrap=True,
        )


@app.command("adopt")
def adopt(
    run: RunId,
    job: Annotated[str, typer.Argument(help="The job's id at the vendor.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Say which job at the vendor is a lost run's, so that it is followed again."""
    from llmtune.cli.output import out, print_json
    from llmtune.runs.api import attach as find

    found = find(run)
    found.adopt(job)
    if as_json:
        print_json({"run": found.id, "state": found.state.value})
        return
    out.print(f"run {found.id} follows job {_plain(job)} now: llmtune runs attach {found.id}", soft_wrap=True)


@app.command("resubmit")
def resubmit(
    run: RunId,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="I have looked: there is no such job at the vendor.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a lost run once more. Look at the vendor's console first: a job that is there would be paid for twice."""
    from llmtune.cli.output import confirm, err, out, print_json
    from llmtune.errors import OverBudget
    from llmtune.runs.api import attach as find

    found = find(run)
    if not yes:
        if not (sys.stdin.isatty() and err.is_terminal):
            raise OverBudget(
                "a job that is already there would be paid for twice, and nobody can confirm it here",
                hint="look at the vendor's console; then pass --yes, or use llmtune runs adopt",
            )
        confirm("Have you looked at the vendor's console, and is there no such job?", abort=True)
    state = found.resubmit()
    if as_json:
        print_json({"run": found.id, "state": state.value})
        return
    out.print(f"run {found.id}: {state.value}; llmtune runs attach {found.id}", soft_wrap=True)


@app.command("resume")
def resume(run: RunId, as_json: AsJson = False) -> None:
    """Let a failed or cancelled run on this machine go on from its last checkpoint that is whole."""
    from llmtune.cli.output import out, print_json
    from llmtune.runs.api import attach as find

    found = find(run)
    where = found.resume()
    if as_json:
        print_json({"run": found.id, "state": found.state.value, "from": where})
        return
    out.print(f"run {found.id} goes on from {where}: llmtune runs attach {found.id}", soft_wrap=True)


@app.command("cleanup")
def cleanup(
    which: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="What these runs made; none means all runs.")
    ] = None,
    models: Annotated[bool, typer.Option("--models", help="Remove tuned models too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what llmtune made at vendors and no unfinished run uses: deployments, uploads, and models if asked.

    Exits with 1 when something could not be removed.
    """
    from llmtune.cli.output import print_json
    from llmtune.runs.actions import cleanup as clean
    from llmtune.runs.run import provider_of
    from llmtune.runs.store.store import open_store

    store = open_store()
    ids = [store.resolve(each) for each in which] if which else None
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
        bool, typer.Option("--local/--no-local", help="With what was trained here: adapters, models, checkpoints.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write the run store and the files it needs into one archive, readable by you alone; runs may go on meanwhile."""
    from llmtune.cli.output import out, print_json
    from llmtune.runs.backup import back_up

    done = back_up(file, local=local)
    if as_json:
        print_json({"file": str(done.file), "runs": done.runs, "files": done.files, "bytes": done.bytes})
        return
    out.print(
        f"wrote {_plain(str(done.file))}: the store with {done.runs} runs, and {done.files} files"
        f" ({done.bytes / 1e6:,.1f} MB); to use it, unpack it into a folder and name that by LLMTUNE_HOME",
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
        out.print("there is nothing of ours at any vendor")


def _cleanup_json(done: Cleanup, *, dry_run: bool) -> dict[str, Any]:
    def entry(resource: Any, reason: str | None = None) -> dict[str, Any]:
        data = {"type": resource.type, "id": resource.ref.id, "provider": resource.provider, "run": resource.run_id}
        return data if reason is None else data | {"reason": reason}

    return {
        "dry_run": dry_run,
        "removed": [entry(each) for each in done.removed],
        "kept": [entry(each, reason) for each, reason in done.kept],
        "failed": [entry(each, reason) for each, reason in done.failed],
    }


# --- how a run is written --------------------------------------------------------------------------------------------
_COLOURS = {"succeeded": "green", "failed": "red", "lost": "red", "cancelled": "yellow", "running": "cyan"}


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _state(word: str) -> Any:
    from llmtune.errors import UnknownName
    from llmtune.provider.types import RunState

    try:
        return RunState(word)
    except ValueError:
        raise UnknownName("state", word, [each.value for each in RunState]) from None


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _steps(record: RunRecord) -> str:
    step, total = record.progress.step, record.progress.total_steps
    if step is None:
        return ""
    return f"step {step}/{total}" if total else f"step {step}"


def _estimate(record: RunRecord) -> str | None:
    return record.cost.sentence() if record.hosted and record.receipt else None


def _billed(record: RunRecord) -> str | None:
    billed = record.billed
    if billed is None:
        return "the vendor has not told" if record.hosted and record.state.final else None
    money = f"{billed.amount:,.2f} {billed.currency}" if billed.amount is not None else None
    tokens = f"{billed.tokens:,} tokens" if billed.tokens is not None else None
    return ", ".join(each for each in (money, tokens) if each)


def _summary(record: RunRecord) -> dict[str, Any]:
    wanted = {"id", "key", "name", "provider", "kind", "model", "state", "raw_state", "created", "updated"}
    return record.model_dump(mode="json", include={*wanted, "progress", "error", "group"})


def _whole(run: Run) -> dict[str, Any]:
    from llmtune.runs.store.store import open_store

    record = run.record
    data = record.model_dump(mode="json", exclude={"settings"})
    data["transitions"] = [
        {"time": each.time, "state": each.state.value, "reason": each.reason} for each in run.transitions()
    ]
    data["references"] = open_store().refs(record.id)
    data["events"] = [event.model_dump(mode="json") for _, event in run.events()]
    data["metrics"] = [point.model_dump(mode="json") for point in run.metrics()]
    return data
