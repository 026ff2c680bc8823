"""`llmtune data prepare`: write rows as tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmtune.cli.data.options import (
    ColumnsOption,
    FileArgument,
    FormatOption,
    JsonOption,
    LabelOption,
    OnEmptyOption,
    SystemOption,
    open_rows,
    open_tokenizer,
)


def prepare(
    file: FileArgument,
    tokenizer: Annotated[str, typer.Option("--tokenizer", "-t", help="A model's name or folder.")],
    into: Annotated[
        Path | None,
        typer.Option("--into", "-o", help="Folder to write below; by default the one where training looks."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest sequence, in tokens.", min=2)] = None,
    on_too_long: Annotated[str, typer.Option(help="Rows that are too long: error, truncate or drop.")] = "error",
    prompt_loss_weight: Annotated[float, typer.Option(help="Weight of prompt tokens, 0..1.", min=0, max=1)] = 0.0,
    container: Annotated[str, typer.Option(help="Format of the file: safetensors or arrow.")] = "safetensors",
    format: FormatOption = "auto",
    column: ColumnsOption = None,
    label_column: LabelOption = None,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    as_json: JsonOption = False,
) -> None:
    """Write rows as tokens, weights and positions, named by their content, so that equal rows are prepared once."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.rendering.prepared import PrepareOptions, prepared_home
    from llmtune.data.rendering.prepared import prepare as run
    from llmtune.errors import UnknownName

    if on_too_long not in ("error", "truncate", "drop"):
        raise UnknownName("choice for --on-too-long", on_too_long, ["error", "truncate", "drop"])
    if container not in ("safetensors", "arrow"):
        raise UnknownName("container", container, ["safetensors", "arrow"])
    examples = list(open_rows(file, format, column, label_column, on_empty, system))
    done = run(
        examples,
        open_tokenizer(tokenizer),
        into or prepared_home(),
        PrepareOptions(
            limit=max_tokens,
            on_too_long=on_too_long,  # type: ignore[arg-type]
            prompt_loss_weight=prompt_loss_weight,
        ),
        container=container,  # type: ignore[arg-type]
        file=file,
    )
    if as_json:
        print_json({"schema": 1, **done._asdict(), "path": str(done.path)})
        return
    reused = "" if done.made else " (already prepared)"
    out.print(
        f"{done.rows:,} sequences, {done.tokens:,} tokens, {done.trained:,} trained on: {done.path}{reused}",
        soft_wrap=True,
    )
    if done.dropped or done.truncated:
        out.print(f"{done.dropped:,} dropped and {done.truncated:,} truncated: longer than {max_tokens:,} tokens")
