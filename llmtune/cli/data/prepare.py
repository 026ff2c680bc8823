"""`llmtune data prepare`: rows as tokens on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass
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
        Path | None, typer.Option("--into", "-o", help="The folder it is written below; else where training looks.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest sequence, in tokens.", min=2)] = None,
    on_too_long: Annotated[str, typer.Option(help="error, truncate or drop.")] = "error",
    prompt_loss_weight: Annotated[float, typer.Option(help="Weight of prompt tokens, 0..1.", min=0, max=1)] = 0.0,
    container: Annotated[str, typer.Option(help="safetensors or arrow.")] = "safetensors",
    format: FormatOption = "auto",
    column: ColumnsOption = None,
    label_column: LabelOption = None,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    as_json: JsonOption = False,
) -> None:
    """Write rows as tokens, weights and positions, named by their content; made once, then found again."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.rendering.prepared import prepare as run
    from llmtune.data.rendering.prepared import prepared_home
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
        limit=max_tokens,
        on_too_long=on_too_long,  # type: ignore[arg-type]
        prompt_loss_weight=prompt_loss_weight,
        container=container,  # type: ignore[arg-type]
        file=file,
    )
    if as_json:
        print_json({"schema": 1, **done._asdict(), "path": str(done.path)})
        return
    made = "" if done.made else " (was there already)"
    out.print(
        f"{done.rows:,} sequences, {done.tokens:,} tokens, {done.trained:,} learned: {done.path}{made}", soft_wrap=True
    )
    if done.dropped or done.truncated:
        out.print(f"{done.dropped:,} dropped and {done.truncated:,} cut, being longer than {max_tokens:,} tokens")
