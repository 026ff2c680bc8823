"""`llmtune export`: a tuned model as a folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Weights(StrEnum):
    """What is written."""

    ADAPTER = "adapter"
    MERGED = "merged"


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run: id, its beginning, or name.", show_default=False)],
    shape: Annotated[
        Weights, typer.Option("--format", "-f", help="The adapter alone, or one model with it merged in.")
    ] = Weights.ADAPTER,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder; by default RUN-FORMAT here.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Write the tuned model of a run to a folder, with its tokenizer, and say how it is served."""
    from llmtune.cli.output import err, print_json
    from llmtune.cli.output import out as console
    from llmtune.runs.api import attach

    found = attach(run)
    folder = out if out is not None else Path(f"{found.record.name}-{shape.value}")
    notes = found.export(shape.value, folder)
    if as_json:
        print_json({"run": found.record.id, "format": shape.value, "folder": str(folder.absolute()), "notes": notes})
        return
    err.print(f"wrote {folder}", markup=False, soft_wrap=True)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
