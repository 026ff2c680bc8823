"""`llmtune import`: write a job file from another trainer's configuration, or from a job at a vendor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmtune.importers.keys import Imported


def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="A configuration file, LitGPT's command line in quotes, or a job's id at a vendor.", show_default=False
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option("--from", help="Origin: axolotl, llamafactory, litgpt, trl, or a backend; recognised by default."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The job file to write.")] = Path("job.yaml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Job and receipt as JSON; writes no job file.")] = False,
) -> None:
    """Convert another trainer's configuration, or a vendor's job, to a job file, and list every key left out."""
    from llmtune.cli.output import print_json
    from llmtune.importers import import_job
    from llmtune.importers.keys import refuse_existing

    def check_output() -> None:
        refuse_existing(out, overwrite, instead="name another file with --out")

    if not as_json:
        check_output()
    imported = import_job(source, kind, data=out.parent / "data", overwrite=overwrite)
    if as_json:
        print_json({"schema": 1, "job": imported.job.to_dict(), "source": imported.source, "lines": _plain(imported)})
        return
    job = imported.job
    # The tools read paths from the working folder, a job file from its own.
    paths = {role: path for role, path in job.dataset.paths.items() if "://" not in path}
    moved = {role: os.path.relpath(path, out.parent) for role, path in paths.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    check_output()  # again: another import may have written it while this one was fetching
    job.model_copy(update={"dataset": job.dataset.model_copy(update=moved)}).save(out)
    _show(imported, out)


def _plain(imported: Imported) -> list[dict[str, object]]:
    return [line.model_dump(mode="json") for line in imported.lines]


def _show(imported: Imported, path: Path) -> None:
    from rich.markup import escape

    from llmtune.cli.output import out

    colours = {"mapped": "green", "converted": "cyan", "default": "dim", "left out": "yellow"}
    for line in imported.lines:
        value = "" if line.value is None else f" = {_short(line.value)}"
        field = f" -> {line.field}" if line.field else ""
        note = f": {line.says}" if line.says else ""
        outcome = f"[{colours[line.word]}]{line.word:9}[/]"
        out.print(f"{outcome} {escape(f'{line.key}{value}{field}{note}')}", soft_wrap=True)
    dropped = len(imported.left_out)
    out.print(
        f"{path}: a job from {imported.source}; {dropped} key{'' if dropped == 1 else 's'} left out",
        markup=False,
        soft_wrap=True,
    )
    names = "local" if isinstance(imported.job.model, str) else ",".join(imported.job.model)
    out.print(f"look at it with: llmtune plan {path} --provider {names}", markup=False, soft_wrap=True)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
