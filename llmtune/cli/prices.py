"""`llmtune prices`: what vendors charge, as far as it is known."""

from __future__ import annotations

from typing import Annotated

import typer


def prices(
    provider: Annotated[str | None, typer.Argument(help="A provider; all of them by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """List the prices of every model that can be tuned, with page and date, and what is not known. Sends nothing."""
    from llmtune.cli.output import out, print_json
    from llmtune.planning.prices import list_prices, print_prices, to_json

    rows = list_prices(None if provider is None else [provider])
    if as_json:
        print_json(to_json(rows))
    else:
        print_prices(out, rows)
