"""`llmtune report`, `evaluate`, `gate`, `diff` and `chat`: what a run is worth, and the model in conversation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmtune.cli.saved_results import Kept
    from llmtune.data.example import Message
    from llmtune.provider.generation import Generation
    from llmtune.report.schema import Report
    from llmtune.runs.tuned_model import TunedModel

RunOrFile = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run (id, its beginning, or name), or a report.json.", show_default=False),
]


class Format(StrEnum):
    """How a result is shown."""

    TERMINAL = "terminal"
    JSON = "json"
    MARKDOWN = "markdown"


class ReportFormat(StrEnum):
    """How a report is shown: it has a page too."""

    TERMINAL = "terminal"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


AsFormat = Annotated[Format, typer.Option("--format", "-f", help="How it is shown.")]
AsJson = Annotated[bool, typer.Option("--json", help="As one JSON document.")]


def mount(app: typer.Typer) -> None:
    """Put the commands of this file into the command line."""
    app.command("report")(report)
    app.command("evaluate")(evaluate)
    app.command("gate")(gate)
    app.command("diff")(diff)
    app.command("chat")(chat)


def report(
    run: RunOrFile,
    shape: Annotated[
        ReportFormat | None, typer.Option("--format", "-f", help="How it is shown; html is one file, whole.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to a file (.html, .json, .md or .txt) instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the report of a finished run; also a board or a rescue that was written to a file."""
    from llmtune.cli import saved_results
    from llmtune.cli.output import err, out, write_text

    found = saved_results.find(run)
    by_name = {".json": ReportFormat.JSON, ".md": ReportFormat.MARKDOWN, ".html": ReportFormat.HTML}
    named = ReportFormat.JSON if as_json else shape
    if named is None and output is not None:
        named = by_name.get(output.suffix.lower())
    wanted = named or ReportFormat.TERMINAL
    if wanted is ReportFormat.TERMINAL and output is None:
        found.show(out)
        return
    if wanted is ReportFormat.TERMINAL:
        text = _plain(found)
    elif wanted is ReportFormat.JSON:
        text = found.to_json().rstrip("\n") + "\n"
    else:
        text = found.to_markdown() if wanted is ReportFormat.MARKDOWN else found.to_html()
    if output is None:
        write_text(text)
        return
    output.write_text(text, encoding="utf-8")
    err.print(f"wrote {output}", markup=False, soft_wrap=True)


def _plain(found: Kept) -> str:
    """As it stands on a terminal, without colours."""
    import io

    from llmtune.cli.output import PlainConsole

    buffer = io.StringIO()
    found.show(PlainConsole(file=buffer, width=80, no_color=True, force_terminal=False))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run (id, its beginning, or name).")],
    dataset: Annotated[
        Path | None,
        typer.Option(help="Ask the rows of this file instead of the job's own test rows.", show_default=False),
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows asked at most, instead of the job's evaluation.max_rows.")
    ] = None,
    deploy: Annotated[
        bool | None,
        typer.Option("--deploy/--no-deploy", help="Allow a deployment that costs money while the evaluation lasts."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a finished run, for the first time or again: base against tuned model, on held-out rows.

    Answers that were given before are not asked, or paid for, again. The report keeps the earlier evaluation's record.
    """
    from llmtune.cli.output import err, out, print_json
    from llmtune.report.terminal import print_report
    from llmtune.runs.api import attach

    found = attach(run).evaluate(
        dataset,
        max_rows=max_rows,
        deploy=deploy,
        on_progress=lambda text: err.print(text, markup=False, soft_wrap=True),
    )
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_report(found, out)


def gate(
    run: RunOrFile,
    baseline: Annotated[str, typer.Option(help="The run (or report.json) to beat.", show_default=False)],
    better: Annotated[bool, typer.Option("--better", help="Pass only if it is better, and not by chance.")] = False,
    not_worse: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="MARGIN",
            help="Pass only if it is surely not worse by more than this: points for a metric in per cent, its own unit"
            " otherwise.",
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Which metric; by default the run's first.")] = None,
    comment: Annotated[
        Path | None, typer.Option(help="Also write the Markdown comment to this file (for a pull request).")
    ] = None,
    shape: AsFormat = Format.TERMINAL,
    as_json: AsJson = False,
) -> None:
    """Let a run pass (exit 0) or not (5) against another one, by one of two tests; 6 where it cannot be judged."""
    from llmtune.cli.output import out, print_json, write_text
    from llmtune.report.gate import gate as decide

    if better == (not_worse is not None):
        raise typer.BadParameter("name one test: --better, or --not-worse MARGIN", param_hint="--better / --not-worse")
    result = decide(_report(run), _report(baseline), not_worse=not_worse, metric=metric)
    if comment is not None:
        comment.write_text(result.to_markdown(), encoding="utf-8")
    if as_json or shape is Format.JSON:
        print_json(result.model_dump(mode="json"))
    elif shape is Format.MARKDOWN:
        write_text(result.to_markdown())
    else:
        mark, colour = ("passed", "green") if result.passed else ("not passed", "red")
        out.print(mark, style=f"bold {colour}", markup=False)
        for line in (result.reason, *result.notes):
            out.print(line, markup=False, soft_wrap=True)
    raise typer.Exit(result.exit_code)


def diff(run_a: RunOrFile, run_b: RunOrFile, shape: AsFormat = Format.TERMINAL, as_json: AsJson = False) -> None:
    """Show in what the second run differs from the first: settings, data, time, results."""
    from llmtune.cli.output import out, print_json, write_text
    from llmtune.report.diff_text import render, to_markdown
    from llmtune.report.gate import diff as compare

    result = compare(_report(run_a), _report(run_b))
    if as_json or shape is Format.JSON:
        print_json(result.model_dump(mode="json"))
    elif shape is Format.MARKDOWN:
        write_text(to_markdown(result))
    else:
        for part in render(result):
            out.print(part)


def chat(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run (id, its beginning, or name).")],
    question: Annotated[str | None, typer.Argument(help="Ask this and leave; else a conversation begins.")] = None,
    system: Annotated[str | None, typer.Option(help="A system turn in front of every question.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    checkpoint: Annotated[str | None, typer.Option(help="A checkpoint instead of the final model.")] = None,
    deploy: Annotated[
        bool | None,
        typer.Option("--deploy/--no-deploy", help="Allow a deployment that costs money while the chat lasts."),
    ] = None,
) -> None:
    """Talk to the tuned model. /new begins anew, /quit or Ctrl-D leaves; from a pipe, each line is a question."""
    from llmtune.runs.api import attach

    with attach(run).model(checkpoint=checkpoint, deploy=deploy) as model:
        talk = _Conversation(model, system, temperature=temperature, max_tokens=max_tokens)
        if question is not None:
            _say(talk.ask(question))
        elif sys.stdin.isatty():
            _converse(talk)
        else:
            for line in sys.stdin:
                if line.strip():
                    talk.begin_anew()
                    _say(talk.ask(line.strip()))


class _Conversation:
    """The turns so far, and what answers them."""

    def __init__(self, model: TunedModel, system: str | None, **settings: Any) -> None:
        self._model = model
        self._system = system
        self._settings = settings
        self._turns: list[Message] = []
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was said."""
        from llmtune.data.example import Message

        self._turns = [Message("system", self._system)] if self._system else []

    def ask(self, question: str) -> Generation:
        """One more question; it and its answer are remembered once there is one."""
        from llmtune.data.example import Message

        asked = [*self._turns, Message("user", question)]
        answer = self._model.generate(asked, **self._settings)
        self._turns = [*asked, Message("assistant", answer.text)]
        return answer


def _converse(talk: _Conversation) -> None:
    from llmtune.cli.output import err
    from llmtune.errors import TransientError
    from llmtune.redaction.secrets import scrub

    err.print("/new begins anew, /quit leaves", style="dim", markup=False)
    read = _reader()
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            err.print()
            return
        if line in ("/quit", "/exit"):
            return
        if line == "/new":
            talk.begin_anew()
        elif line:
            try:
                _say(talk.ask(line))
            except TransientError as error:
                err.print(f"{scrub(error.message)}; ask again in a while", markup=False, soft_wrap=True)


def _reader() -> Callable[[str], str]:
    """`input`, with line editing and history where the platform has them."""
    with suppress(ImportError):
        import readline  # noqa: F401
    return input


def _say(answer: Generation) -> None:
    from llmtune.cli.output import err, out
    from llmtune.report.format import seen

    out.print(seen(answer.text), markup=False, soft_wrap=True)
    if answer.finish_reason == "length":
        err.print("(cut off at --max-tokens)", style="dim", markup=False)


def _report(run: str) -> Report:
    """The report of a run, or from a file."""
    from llmtune.cli import saved_results

    return saved_results.report_of(run)
