"""`llmtune serve`: tuned models behind an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer


def serve(
    run: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs whose models are served.", show_default=False)
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; off this machine a key is required.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any that is free.")] = 8421,
    key_from: Annotated[
        str, typer.Option(help="Environment variable with the key that clients must send.")
    ] = "LLMTUNE_SERVE_KEY",
    deploy: Annotated[
        bool | None, typer.Option(help="Allow a deployment that costs money while this runs.", show_default=False)
    ] = None,
) -> None:
    """Answer OpenAI's chat completions with tuned models, local or hosted, until Ctrl-C."""
    from llmtune.cli.output import err, out
    from llmtune.server.server import Server, hand_over

    server = Server(run, host=host, port=port, key_from=key_from, deploy=deploy)
    try:
        out.print(server.url, markup=False, soft_wrap=True)
        err.print(f"models: {', '.join(server.names)}", markup=False, soft_wrap=True)
        key = f'os.environ["{key_from}"]' if server.keyed else '"none"'
        err.print(
            f'client = openai.OpenAI(base_url="{server.url}", api_key={key})\n'
            f'client.chat.completions.create(model="{server.names[0]}", messages=[...])',
            markup=False,
            soft_wrap=True,
        )
        for each in server.runs:
            if (command := hand_over(each)) is not None:
                err.print(f"for many clients, with vLLM: {command}", style="dim", markup=False, soft_wrap=True)
        err.print("Ctrl-C ends it", style="dim")
        # Told to end by the system, too, models and deployments are let go of.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server.serve()
    except KeyboardInterrupt:
        err.print()
    finally:
        server.close()
