"""`llmtune keys`: the keys of the members of a tuning endpoint (`llmtune serve --tuning --keys FILE`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.cli.help import HelpfulGroup

if TYPE_CHECKING:
    from llmtune.server.tuning.keys import Key

app = typer.Typer(cls=HelpfulGroup, no_args_is_help=True)

KeyPath = Annotated[Path, typer.Option("--keys", help="The key file.")]
Name = Annotated[str, typer.Argument(help="Name of the key: a member, or a program of theirs.", show_default=False)]
_DEFAULT_FILE = Path("keys.yaml")


@app.command("add")
def add(
    name: Name,
    keys: KeyPath = _DEFAULT_FILE,
    rights: Annotated[str, typer.Option(help="What it may do, with commas: tune, ask, read.")] = "tune,ask,read",
    budget: Annotated[
        float | None, typer.Option(min=0, help="USD that its jobs may cost in all.", show_default=False)
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(help="Name of the key whose files, jobs and models it works with.", show_default="its own"),
    ] = None,
    max_unfinished_jobs: Annotated[
        int | None, typer.Option(min=0, help="Unfinished jobs at one time.", show_default="20")
    ] = None,
    max_stored_gb: Annotated[float | None, typer.Option(min=0, help="Gigabytes of files.", show_default="20")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Requests per minute.", show_default="600")
    ] = None,
) -> None:
    """Make a key and print it, this once. The file holds its hash, its rights and its limits."""
    from llmtune.cli.output import err, write_text
    from llmtune.server.tuning.keys import add_key

    key = add_key(
        keys,
        name,
        rights=_parse_rights(rights),
        owner=owner,
        budget=budget,
        max_unfinished_jobs=max_unfinished_jobs,
        max_stored_gb=max_stored_gb,
        requests_per_minute=requests_per_minute,
    )
    err.print(f"{name} may {', '.join(_parse_rights(rights))}; its key is not stored and not shown again:")
    write_text(f"{key}\n")  # not masked: a new key has to reach its member


@app.command("list")
def list_(
    keys: KeyPath = _DEFAULT_FILE,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """List the keys: rights, limits, and what their jobs come to. No key is shown: none is stored."""
    from rich.table import Table

    from llmtune.cli.output import out, print_json
    from llmtune.server.tuning.keys import read_keys

    rows = _summarize(read_keys(keys))
    if as_json:
        print_json({"keys": rows})
        return
    if not rows:
        out.print("no keys yet")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("name", "owner", "rights", "budget", "spent", "unfinished jobs"):
        table.add_column(
            heading, overflow="fold", justify="left" if heading in ("name", "owner", "rights") else "right"
        )
    for row in rows:
        limit = row["max_unfinished_jobs"]
        table.add_row(
            row["name"],
            "" if row["owner"] == row["name"] else row["owner"],
            ", ".join(row["rights"]),
            "none" if row["budget"] is None else f"{row['budget']:,.2f}",
            f"{row['spent']:,.2f}",
            f"{row['unfinished_jobs']}" + ("" if limit is None else f" of {limit}"),
        )
    out.print(table)


@app.command("remove")
def remove(name: Name, keys: KeyPath = _DEFAULT_FILE) -> None:
    """Remove a key. A running endpoint refuses it from its next request on; jobs under way go on."""
    from llmtune.cli.output import err
    from llmtune.server.tuning.keys import remove_key

    remove_key(keys, name)
    err.print(f"{name} is removed from {keys}")


def _parse_rights(text: str) -> list[str]:
    from llmtune.errors import UnknownName
    from llmtune.server.tuning.keys import RIGHTS

    rights = [right.strip() for right in text.split(",") if right.strip()]
    for right in rights:
        if right not in RIGHTS:
            raise UnknownName("right", right, RIGHTS, where="--rights")
    return [right for right in RIGHTS if right in rights]


def _summarize(keys: dict[str, Key]) -> list[dict[str, Any]]:
    """Return each key with the costs and the number of unfinished jobs of its owner, as this home has them."""
    from llmtune.config import home
    from llmtune.runs.store.store import open_store
    from llmtune.server.tuning.quotas import Budgets
    from llmtune.server.tuning.state import JobRecord, read_records

    jobs = read_records(home() / "tuning" / "jobs", JobRecord)
    owned = {key.owner: [job for job in jobs if job.owner == key.owner] for key in keys.values()}
    budgets = Budgets(lambda owner: owned[owner], open_store())
    spent = {owner: round(budgets.spent(owner), 2) for owner in owned}
    return [
        key.model_dump(mode="json", exclude={"sha256"})
        | {"spent": spent[key.owner], "unfinished_jobs": sum(not job.settled for job in owned[key.owner])}
        for key in keys.values()
    ]
