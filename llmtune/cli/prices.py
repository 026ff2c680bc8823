"""`llmtune prices`: what vendors charge, as far as it is known."""

from __future__ import annotations

from typing import Annotated

import typer


def prices(
    provider: Annotated[str | None, typer.Argument(help="A provider; all of them by default.")] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="First ask the provider's service what it charges today, and keep the answer."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """List the prices of every model that can be tuned, with page and date, and what is not known.

    Sends nothing without --live.
    """
    from llmtune.cli.output import err, out, print_json
    from llmtune.errors import InvalidJob
    from llmtune.planning.prices import ask_live_prices, list_prices, print_live_prices, print_prices, to_json

    if live:
        if provider is None:
            raise InvalidJob("--live asks one service", where="--live", hint="name it: llmtune prices together --live")
        print_live_prices(err, ask_live_prices(provider))
    rows = list_prices(None if provider is None else [provider])
    if as_json:
        print_json(to_json(rows))
    else:
        print_prices(out, rows)
