"""The command tree of `llmtune data`."""

from __future__ import annotations

import typer

from llmtune.cli.data.check import check
from llmtune.cli.data.convert import convert
from llmtune.cli.data.formats import list_formats
from llmtune.cli.data.mix import mix
from llmtune.cli.data.prepare import prepare
from llmtune.cli.data.preview import peek
from llmtune.cli.data.split import split
from llmtune.cli.data.stats import stats
from llmtune.cli.help import HelpfulGroup

app = typer.Typer(cls=HelpfulGroup, no_args_is_help=True)
for command in (check, stats, split, mix, convert, peek, prepare):
    app.command()(command)
app.command("formats")(list_formats)
