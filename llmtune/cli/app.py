"""The commands, put together. Imports here are paid by every `llmtune --help`: keep them light."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmtune._version import __version__
from llmtune.cli import compare, doctor, evaluate, export, import_job, info, plan, rescue, runs, serve, sweep, tune, ui
from llmtune.cli.data.app import app as data_app


class PlainErrors(TyperGroup):
    """The root of the commands: what it says of a wrong argument repeats the argument, so it is cleaned as well."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Read the arguments of `llmtune` itself."""
        with _clean_usage_errors():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, its own arguments included."""
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
    " or not set up, 5 judged and not passed, 6 could not be judged, 130 interrupted."
    " Under --json the last line of standard error tells why.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llmtune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """One typed fine-tuning job, any backend, one report."""


app.command("tune")(tune.tune)
app.command("compare")(compare.compare)
app.add_typer(sweep.app, name="sweep")
app.command("plan")(plan.plan)
app.command("init")(plan.init)
evaluate.mount(app)
app.add_typer(runs.app, name="runs", help="List, follow, come back to, cancel, clean up and back up runs.")
app.add_typer(data_app, name="data", help="Check, split, convert and look at datasets.")
app.command("ui")(ui.ui)
app.command("serve")(serve.serve)
app.command("export")(export.export)
app.command("providers")(info.providers)
app.command("doctor")(doctor.doctor)
app.command("rescue")(rescue.rescue)
app.command("import")(import_job.import_)
app.add_typer(info.config, name="config", help="What llmtune's settings are and where they come from.")
app.command("schema")(info.schema)
