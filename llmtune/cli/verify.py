"""`llmtune verify`: ask a server the held-out rows of a run, and say whether it answers as the run's model does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.cli.completion import complete_run
from llmtune.cli.run_names import RUN, find_run_id

if TYPE_CHECKING:
    from llmtune.verifications.results import Verification

Endpoint = Annotated[
    str,
    typer.Argument(
        metavar="ENDPOINT", help="The server's address: http://host:port, or one that ends in /v1.", show_default=False
    ),
]
ServedModel = Annotated[
    str | None, typer.Option("--model", help="The name to ask for; by default the server's only model.")
]
ServerKeyVariable = Annotated[
    str | None,
    typer.Option(metavar="VARIABLE", help="Environment variable with the key of the server.", show_default=False),
]


def verify(
    endpoint: Endpoint,
    run: Annotated[str, typer.Option("--run", help=RUN, show_default=False, autocompletion=complete_run)],
    rows: Annotated[int, typer.Option(min=1, help="Held-out rows that are asked, at most.")] = 60,
    margin: Annotated[
        float,
        typer.Option(min=0.0, help="How much worse it may be: percentage points, or the metric's own unit."),
    ] = 5.0,
    model: ServedModel = None,
    key_from: ServerKeyVariable = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Verify that a server answers as the tuned model of a run does: prompts, answers, stops, tool calls, streams.

    The rows are sent as chat completions. Every difference is named by its kind. Exits with 0 if the answers are the
    same, 5 if they are not, 6 if that is unclear.
    """
    from llmtune.cli.output import err, out, print_json
    from llmtune.runs.verify_run import verify as verify_run

    result = verify_run(
        endpoint,
        find_run_id(run, "succeeded"),
        rows=rows,
        margin=margin,
        model=model,
        key_from=key_from,
        on_progress=lambda text: err.print(text, markup=False, soft_wrap=True),
    )
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        print_verification(result, out)
    raise typer.Exit(result.exit_code)


def print_verification(result: Verification, console: Any) -> None:
    """Print a verification: the verdict, each difference by its kind, what was compared, and what was not."""
    from llmtune.report.verification import VERDICTS, difference_lines, figure_lines

    colour = {"same": "green", "drift": "red"}.get(result.verdict, "yellow")
    console.print(VERDICTS[result.verdict], style=f"bold {colour}", markup=False)
    console.print(result.reason, markup=False, soft_wrap=True)
    for line in difference_lines(result):
        console.print(f"- {line}", markup=False, soft_wrap=True)
    for line in figure_lines(result):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    for note in result.notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True)
