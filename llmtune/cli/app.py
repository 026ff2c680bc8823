"""The command tree. Every `llmtune --help` pays for the imports here: keep them light."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import typer

from llmtune._version import __version__
from llmtune.cli import (
    compare,
    costs,
    doctor,
    evaluate,
    export,
    grade,
    import_job,
    info,
    init,
    keys,
    plan,
    prices,
    rescue,
    runs,
    serve,
    sweep,
    tune,
    ui,
    verify,
)
from llmtune.cli.data.app import app as data_app
from llmtune.cli.help import HelpfulGroup, use_help

TRAIN, DATA, RESULTS, MODEL, SET_UP = "Train", "Data", "Results", "The tuned model", "Set up"


class PlainErrors(HelpfulGroup):
    """The root command. Usage errors quote the argument, so secrets and control characters are removed from them."""

    headings: ClassVar[tuple[str, ...]] = (TRAIN, DATA, RESULTS, MODEL, SET_UP)

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Parse the arguments of `llmtune` itself."""
        with _clean_usage_errors():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Parse the command's own arguments and run it."""
        with _clean_usage_errors():
            return super().invoke(ctx)


@contextmanager
def _clean_usage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # raised again in any case; a usage error without keys and control characters
        if hasattr(error, "format_message"):  # a usage error, from whichever package typer has it
            from llmtune.redaction.control_chars import escape_controls
            from llmtune.redaction.secrets import scrub

            error.message = escape_controls(scrub(str(getattr(error, "message", ""))))  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=PlainErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One typed fine-tuning job, any backend, one report.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 3 refused by a rule or a budget, 4 something is not installed"
    " or not set up, 5 judged and not passed, 6 undecidable, 130 interrupted."
    " Under --json the last line of standard error says why.",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"llmtune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One typed fine-tuning job, any backend, one report."""


app.command("init", rich_help_panel=TRAIN)(init.init)
app.command("plan", rich_help_panel=TRAIN)(plan.plan)
app.command("tune", rich_help_panel=TRAIN)(tune.tune)
app.command("compare", rich_help_panel=TRAIN)(compare.compare)
app.add_typer(sweep.app, name="sweep", rich_help_panel=TRAIN)
app.command("rescue", rich_help_panel=TRAIN)(rescue.rescue)
app.add_typer(
    runs.app,
    name="runs",
    help="List, follow, reattach to, cancel, clean up and back up runs.",
    rich_help_panel=RESULTS,
)
evaluate.mount(app, RESULTS, MODEL)
app.command("costs", rich_help_panel=RESULTS)(costs.costs)
app.command("ui", rich_help_panel=RESULTS)(ui.ui)
app.command("serve", rich_help_panel=MODEL)(serve.serve)
app.add_typer(
    keys.app,
    name="keys",
    help="Make, list and remove the keys of a tuning endpoint's members.",
    rich_help_panel=MODEL,
)
app.command("export", rich_help_panel=MODEL)(export.export)
app.command("verify", rich_help_panel=MODEL)(verify.verify)
app.command("grade", rich_help_panel=DATA)(grade.grade)
app.add_typer(data_app, name="data", help="Check, split, convert and look at datasets.", rich_help_panel=DATA)
app.command("import", rich_help_panel=SET_UP)(import_job.import_)
app.command("providers", rich_help_panel=SET_UP)(info.providers)
app.command("prices", rich_help_panel=SET_UP)(prices.prices)
app.command("doctor", rich_help_panel=SET_UP)(doctor.doctor)
app.add_typer(
    info.config,
    name="config",
    help="Show llmtune's settings and where they come from.",
    rich_help_panel=SET_UP,
)
app.command("schema", rich_help_panel=SET_UP)(info.schema)
use_help(app)
