"""`llmtune ui`: show the store's runs as web pages on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 picks a free one.")] = 8420,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show all runs in the browser: list, find, compare, and watch curves as they grow. Changes nothing."""
    from llmtune.cli.output import err, out
    from llmtune.web.server import Server

    server = Server(port)
    out.print(server.url, markup=False, soft_wrap=True)
    err.print("press Ctrl-C to stop", style="dim")
    if browser:
        import webbrowser

        webbrowser.open(server.url)
    try:
        server.serve()
    except KeyboardInterrupt:
        err.print()
    finally:
        server.close()
