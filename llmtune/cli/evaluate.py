"""`llmtune report`, `evaluate`, `gate`, `diff` and `chat`: the results of a run, and a conversation with its model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from llmtune.cli.completion import complete_run
from llmtune.cli.run_names import RUN, RunId, open_run

if TYPE_CHECKING:
    from llmtune.data.example import Message
    from llmtune.metrics.decisions import Decision
    from llmtune.provider.generation import Generation
    from llmtune.report.gate import GateResult
    from llmtune.report.panel_gate import PanelGateResult
    from llmtune.report.promise_gate import PromiseGateResult
    from llmtune.report.schema import Report
    from llmtune.runs.tuned_model import TunedModel

RunOrFile = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help=f"{RUN[:-1]}; or a report.json.", show_default=False, autocompletion=complete_run
    ),
]


class Format(StrEnum):
    """Output formats of a result."""

    TERMINAL = "terminal"
    JSON = "json"
    MARKDOWN = "markdown"


class ReportFormat(StrEnum):
    """Output formats of a report, which can also be an HTML page."""

    TERMINAL = "terminal"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


AsFormat = Annotated[Format, typer.Option("--format", "-f", help="Output format.")]
AsJson = Annotated[bool, typer.Option("--json", help="As one JSON document.")]


def mount(app: typer.Typer, results: str | None = None, model: str | None = None) -> None:
    """Add the commands of this file to the command line, under these headings of its help."""
    app.command("report", rich_help_panel=results)(report)
    app.command("evaluate", rich_help_panel=results)(evaluate)
    app.command("gate", rich_help_panel=results)(gate)
    app.command("diff", rich_help_panel=results)(diff)
    app.command("chat", rich_help_panel=model)(chat)


def report(
    run: RunOrFile,
    shape: Annotated[
        ReportFormat | None, typer.Option("--format", "-f", help="Output format; html is one self-contained file.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to a file (.html, .json, .md or .txt) instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the report of a finished run; also a leaderboard or a rescue that was written to a file."""
    from llmtune.cli import saved_results
    from llmtune.cli.output import check_ending, err, out, write_text
    from llmtune.report.terminal import print_report

    if not as_json and shape is None:  # a named format is written whatever the file is called
        check_ending(output, ".html", ".json", ".md", ".txt")
    result = saved_results.find(run)
    by_name = {".json": ReportFormat.JSON, ".md": ReportFormat.MARKDOWN, ".html": ReportFormat.HTML}
    requested = ReportFormat.JSON if as_json else shape
    if requested is None and output is not None:
        requested = by_name.get(output.suffix.lower())
    shown_as = requested or ReportFormat.TERMINAL
    if shown_as is ReportFormat.TERMINAL and output is None:
        print_report(result, out)
        return
    if shown_as is ReportFormat.TERMINAL:
        text = str(result.render("text"))
    elif shown_as is ReportFormat.JSON:
        text = result.to_json().rstrip("\n") + "\n"
    else:
        text = result.to_markdown() if shown_as is ReportFormat.MARKDOWN else result.to_html()
    if output is None:
        write_text(text)
        return
    output.write_text(text, encoding="utf-8")
    err.print(f"wrote {output}", markup=False, soft_wrap=True)


def evaluate(
    run: RunId,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Evaluate on the rows of this file instead of the job's own test rows.", show_default=False),
    ] = None,
    max_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Evaluate at most this many rows, instead of the job's evaluation.max_rows."),
    ] = None,
    panel: Annotated[
        str | None,
        typer.Option(
            help="Ask base and tuned model the questions of this panel too: general, or a file.", show_default=False
        ),
    ] = None,
    deploy: Annotated[
        bool | None,
        typer.Option("--deploy/--no-deploy", help="Allow a deployment that costs money while the evaluation lasts."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a finished run, for the first time or again: base against tuned model, on held-out rows.

    Answers from before are reused, not paid for again. The report keeps a record of the earlier evaluation.
    """
    from llmtune.cli.output import err, out, print_json
    from llmtune.report.terminal import print_report

    updated = open_run(run, "succeeded").evaluate(
        dataset,
        max_rows=max_rows,
        panel=panel,
        deploy=deploy,
        on_progress=lambda text: err.print(text, markup=False, soft_wrap=True),
    )
    if as_json:
        print_json(updated.model_dump(mode="json"))
    else:
        print_report(updated, out)


def gate(
    run: RunOrFile,
    baseline: Annotated[str | None, typer.Option(help="The run (or report.json) to beat.", show_default=False)] = None,
    better: Annotated[bool, typer.Option("--better", help="Pass only if it is significantly better.")] = False,
    not_worse: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="MARGIN",
            help="Pass only if the interval rules out being worse by more than this: percentage points, or the metric's"
            " own unit.",
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Which metric; by default the run's first.")] = None,
    abstain_error: Annotated[
        float | None,
        typer.Option(
            help="Without a baseline: pass only if enough rows are answered when at most this share of answers may be"
            " wrong, such as 0.02.",
            show_default=False,
        ),
    ] = None,
    min_coverage: Annotated[
        float | None,
        typer.Option(help="With --abstain-error: the share of rows that must be answered.", show_default=False),
    ] = None,
    panel_margin: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="MARGIN",
            help="Without a baseline: pass only if the panel rules out that the tuned model is worse than its base by"
            " more than this: percentage points of accuracy, or nats per token with --metric log_likelihood.",
            show_default=False,
        ),
    ] = None,
    comment: Annotated[
        Path | None, typer.Option(help="Also write the Markdown comment to this file (for a pull request).")
    ] = None,
    shape: AsFormat = Format.TERMINAL,
    as_json: AsJson = False,
) -> None:
    """Test a run against a baseline, a promise or its panel: exits with 0 if it passes, 5 if not, 6 if unclear."""
    from llmtune.report.gate import gate as decide

    if panel_margin is not None:
        if baseline is not None or better or not_worse is not None:
            raise typer.BadParameter("the panel is tested without a baseline", param_hint="--panel-margin")
        if abstain_error is not None or min_coverage is not None:
            raise typer.BadParameter("test a promise by another command", param_hint="--panel-margin")
        from llmtune.report.panel_gate import gate_panel

        on_panel = gate_panel(_load_report(run), margin=panel_margin, metric=metric or "accuracy")
        _print_verdict(on_panel, (on_panel.reason, *on_panel.notes), comment, Format.JSON if as_json else shape)
    if abstain_error is not None or min_coverage is not None:
        if abstain_error is None or min_coverage is None:
            raise typer.BadParameter("a promise takes both", param_hint="--abstain-error / --min-coverage")
        if baseline is not None or better or not_worse is not None or metric is not None:
            raise typer.BadParameter("a promise is tested without a baseline", param_hint="--abstain-error")
        from llmtune.report.promise_gate import gate_promise

        promised = gate_promise(_load_report(run), error=abstain_error, min_coverage=min_coverage)
        _print_verdict(promised, promised.reasons, comment, Format.JSON if as_json else shape)
    if baseline is None:
        raise typer.BadParameter("name the run to beat", param_hint="--baseline")
    if better == (not_worse is not None):
        raise typer.BadParameter("name one test: --better, or --not-worse MARGIN", param_hint="--better / --not-worse")
    result = decide(_load_report(run), _load_report(baseline), not_worse=not_worse, metric=metric)
    _print_verdict(result, (result.reason, *result.notes), comment, Format.JSON if as_json else shape)


def _print_verdict(
    result: GateResult | PromiseGateResult | PanelGateResult,
    sentences: Sequence[str],
    comment: Path | None,
    shape: Format,
) -> NoReturn:
    """Print whether a run passes, write the comment where one is wanted, and exit by the verdict."""
    from llmtune.cli.output import out, print_json, write_text

    if comment is not None:
        comment.write_text(result.to_markdown(), encoding="utf-8")
    if shape is Format.JSON:
        print_json(result.model_dump(mode="json"))
    elif shape is Format.MARKDOWN:
        write_text(result.to_markdown())
    else:
        marks = {0: ("passed", "green"), 5: ("not passed", "red")}
        mark, colour = marks.get(result.exit_code, ("undecided", "yellow"))
        out.print(mark, style=f"bold {colour}", markup=False)
        for line in sentences:
            out.print(line, markup=False, soft_wrap=True)
    raise typer.Exit(result.exit_code)


def diff(run_a: RunOrFile, run_b: RunOrFile, shape: AsFormat = Format.TERMINAL, as_json: AsJson = False) -> None:
    """Show how the second run differs from the first: settings, data, time, results."""
    from llmtune.cli.output import out, print_json, write_text
    from llmtune.report import markdown
    from llmtune.report.diff_document import document
    from llmtune.report.gate import diff as compare
    from llmtune.report.terminal import DocumentView

    result = compare(_load_report(run_a), _load_report(run_b))
    if as_json or shape is Format.JSON:
        print_json(result.model_dump(mode="json"))
    elif shape is Format.MARKDOWN:
        write_text(markdown.render(document(result)))
    else:
        out.print(DocumentView(document(result)), crop=False)


def chat(
    run: RunId,
    question: Annotated[
        str | None, typer.Argument(help="Ask this one question and exit; without it, a conversation begins.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message before every question.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    checkpoint: Annotated[str | None, typer.Option(help="A checkpoint instead of the final model.")] = None,
    deploy: Annotated[
        bool | None,
        typer.Option("--deploy/--no-deploy", help="Allow a deployment that costs money while the chat lasts."),
    ] = None,
) -> None:
    """Talk to the tuned model. /new starts over, /quit or Ctrl-D exits; from a pipe, each line is a question."""
    with open_run(run, "succeeded").model(checkpoint=checkpoint, deploy=deploy) as model:
        conversation = _Conversation(model, system, temperature=temperature, max_tokens=max_tokens)
        if question is not None:
            _print_answer(conversation.ask(question), conversation.decisions)
        elif sys.stdin.isatty():
            _converse(conversation)
        else:
            for line in sys.stdin:
                if line.strip():
                    conversation.reset()
                    _print_answer(conversation.ask(line.strip()), conversation.decisions)


class _Conversation:
    """The turns so far, and the model that answers them."""

    def __init__(self, model: TunedModel, system: str | None, **settings: Any) -> None:
        self._model = model
        self._system = system
        self._settings = settings
        self._turns: list[Message] = []
        self.decisions: dict[str, Decision] = {}
        """How sure the model is of its last answer; empty where its labels were not calibrated."""

        self.reset()

    def reset(self) -> None:
        """Forget all turns but the system message."""
        from llmtune.data.example import Message

        self._turns = [Message("system", self._system)] if self._system else []

    def ask(self, question: str) -> Generation:
        """Ask one more question; it is remembered together with its answer, or not at all."""
        from llmtune.data.example import Message

        messages = [*self._turns, Message("user", question)]
        answer = self._model.generate(messages, **self._settings)
        self.decisions = self._model.decide(messages) if self._model.rules is not None else {}
        self._turns = [*messages, Message("assistant", answer.text)]
        return answer


def _converse(conversation: _Conversation) -> None:
    from llmtune.cli.output import err
    from llmtune.errors import TransientError
    from llmtune.redaction.secrets import scrub

    err.print("/new starts over, /quit exits", style="dim", markup=False)
    read = _make_line_reader()
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            err.print()
            return
        if line in ("/quit", "/exit"):
            return
        if line == "/new":
            conversation.reset()
        elif line:
            try:
                _print_answer(conversation.ask(line), conversation.decisions)
            except TransientError as error:
                err.print(f"{scrub(error.message)}; ask again later", markup=False, soft_wrap=True)


def _make_line_reader() -> Callable[[str], str]:
    """Return `input`, with line editing and history where the platform has them."""
    with suppress(ImportError):
        import readline  # noqa: F401
    return input


def _print_answer(answer: Generation, decisions: Mapping[str, Decision]) -> None:
    from llmtune.cli.output import err, out
    from llmtune.report.format import escape_control_chars

    out.print(escape_control_chars(answer.text), markup=False, soft_wrap=True)
    if answer.finish_reason == "length":
        err.print("(cut off at --max-tokens)", style="dim", markup=False)
    for name, decision in decisions.items():
        err.print(escape_control_chars(_describe_decision(name, decision)), style="dim", markup=False, soft_wrap=True)


def _describe_decision(name: str, decision: Decision) -> str:
    """Return how sure the model is, and whether a promise would withhold the answer: "(billing: 93.1% sure)"."""
    from llmtune.metrics.decisions import SINGLE
    from llmtune.report.format import number

    asked = "" if name == SINGLE else f"{name}: "
    withheld = ", too little for the promise: ask a person" if decision.abstained else ""
    return f"({asked}{decision.answer} {number(decision.confidence, 'share')} sure{withheld})"


def _load_report(run: str) -> Report:
    """Load the report of a run, or of a file."""
    from llmtune.cli import saved_results

    return saved_results.load_report(run)
