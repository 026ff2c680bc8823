"""The argument that names a run, and which run it is: of several with one name, the one that the command is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmtune.cli.completion import complete_run

if TYPE_CHECKING:
    from llmtune.runs.run import Run
    from llmtune.runs.store.run_names import Preference

RUN = "The run's id, its beginning, its key, or its name; NAME/PROVIDER and NAME@2 (the second of that name) too."

RunId = Annotated[str, typer.Argument(metavar="RUN", help=RUN, show_default=False, autocompletion=complete_run)]


def find_run_id(name: str, prefer: Preference) -> str:
    """Return the id of the run that `name` means to a command, and say on standard error which of several it is.

    Raises `AmbiguousRun` where `prefer` does not decide, `RunNotFound` where there is none.
    """
    from llmtune.cli.output import err
    from llmtune.runs.store.database import keep_trying
    from llmtune.runs.store.store import open_store

    match = keep_trying(
        lambda: open_store().find_run(name, prefer), doing=f"looking for run {name}", even_deleted=False
    )
    if match.note is not None:
        err.print(match.note, markup=False, soft_wrap=True)
    return match.id


def open_run(name: str, prefer: Preference) -> Run:
    """Return the run that `name` means to a command; see `find_run_id`."""
    from llmtune.runs.api import attach

    return attach(find_run_id(name, prefer))
