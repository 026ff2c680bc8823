"""`llmtune export`: write a tuned model to a folder."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmtune.cli.run_names import RunId, open_run

if TYPE_CHECKING:
    from llmtune.provider.abilities import Precision
    from llmtune.runs.run import Run


class ExportFormat(StrEnum):
    """Formats in which a tuned model can be exported."""

    ADAPTER = "adapter"
    MERGED = "merged"
    GGUF = "gguf"
    GGUF_ADAPTER = "gguf-adapter"
    OLLAMA = "ollama"
    VLLM = "vllm"


class WeightPrecision(StrEnum):
    """Precisions of GGUF files."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"


def export(
    run: RunId,
    format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            "-f",
            help="The adapter alone, or one model with it merged in; gguf: a file for llama.cpp (gguf-adapter: base and"
            " adapter as two); ollama, vllm: a folder for each.",
        ),
    ] = ExportFormat.ADAPTER,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder; by default RUN-FORMAT here.", show_default=False)
    ] = None,
    precision: Annotated[
        WeightPrecision | None,
        typer.Option("--precision", help="Of the matrices in GGUF files; by default f16.", show_default=False),
    ] = None,
    check_rows: Annotated[
        int,
        typer.Option(
            "--check-rows",
            min=0,
            help="Held-out rows on which the exported model is verified against the tuned one, where what serves it can"
            " be run here; 0: none.",
        ),
    ] = 60,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="PROVIDER",
            help="Import the merged weights into this provider's account, which costs money while they stand there;"
            " again: how the import stands.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --to: do not ask about the cost.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Write the tuned model of a run to a folder, and print how to serve it, and what would be answered differently."""
    from llmtune.cli.output import err, print_json
    from llmtune.cli.output import out as console

    tuned = open_run(run, "succeeded")
    if to is not None:
        _import_weights(
            tuned, to, out if out is not None else Path(f"{tuned.record.name}-merged"), yes=yes, as_json=as_json
        )
        return
    folder = out if out is not None else Path(f"{tuned.record.name}-{format.value}")
    chosen: Precision | None = precision.value if precision is not None else None
    notes = tuned.export(
        format.value,
        folder,
        precision=chosen,
        check_rows=check_rows,
        on_progress=lambda text: err.print(text, markup=False, soft_wrap=True),
    )
    if as_json:
        print_json({"run": tuned.record.id, "format": format.value, "folder": str(folder.absolute()), "notes": notes})
        return
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)


def _import_weights(run: Run, name: str, folder: Path, *, yes: bool, as_json: bool) -> None:
    """Start the import of a run's weights, or report how it stands."""
    from llmtune.cli.output import err, print_json
    from llmtune.cli.output import out as console
    from llmtune.errors import OverBudget
    from llmtune.provider.registry import get_provider
    from llmtune.runs.weight_import import require_importer

    provider = get_provider(name)
    current = run.find_import(provider)
    if current is None or current.state == "failed":
        if current is not None:
            err.print(f"the last import failed: {current.error or 'no reason is given'}", markup=False, soft_wrap=True)
        err.print(require_importer(provider).import_cost(), markup=False, soft_wrap=True)
        if not yes:
            if not sys.stdin.isatty():
                raise OverBudget("an import costs money, by an amount that is not known", hint="pass --yes to start it")
            typer.confirm(f"import the weights of {run.record.name} into {name}?", abort=True, err=True)
        current = run.import_into(provider, folder)
    if as_json:
        print_json({"run": run.record.id, "provider": name, **current.model_dump(mode="json")})
        return
    console.print(f"{current.id}: {current.raw_state}", markup=False, soft_wrap=True)
    if current.error:
        console.print(current.error, markup=False, soft_wrap=True)
    if current.state == "running":
        console.print(f"ask again: llmtune export {run.record.id} --to {name}", markup=False, soft_wrap=True)
    for note in current.notes:
        console.print(note, markup=False, soft_wrap=True)
