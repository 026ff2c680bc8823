"""`llmtune serve`: tuned models, or a whole tuning service, behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmtune.cli.completion import complete_run
from llmtune.cli.run_names import open_run

if TYPE_CHECKING:
    from llmtune.server.server import HttpServer


def serve(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN", help="The runs whose models are served.", show_default=False, autocompletion=complete_run
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own requires a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8421,
    key_from: Annotated[
        str, typer.Option(help="Environment variable with the key that clients must send.")
    ] = "LLMTUNE_SERVE_KEY",
    deploy: Annotated[
        bool | None, typer.Option(help="Allow a deployment that costs money while this runs.", show_default=False)
    ] = None,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="Serve OpenAI's fine-tuning API: files, jobs, models and chat.")
    ] = False,
    models: Annotated[
        Path | None,
        typer.Option(help="With --tuning: the model map, a YAML file of NAME: PROVIDER:MODEL.", show_default=False),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="With --tuning: a key file of `llmtune keys`, in place of --key-from.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="With --tuning: highest estimated cost of one job, in USD.", show_default=False),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --tuning: let jobs be billed without a budget.")
    ] = False,
    allow_unknown_cost: Annotated[
        bool, typer.Option("--allow-unknown-cost", help="Run although the cost is not known.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="With --tuning: refuse a job when any field that is set would not be used.")
    ] = False,
    organization: Annotated[str, typer.Option(help="With --tuning: third part of tuned models' names.")] = "llmtune",
) -> None:
    """Answer OpenAI's chat completions with tuned models, or (--tuning) its whole fine-tuning API, until Ctrl-C."""
    from llmtune.errors import InvalidSettings

    if tuning:
        from llmtune.runs.planned import StartOptions
        from llmtune.server.tuning.server import TuningServer

        if run:
            raise InvalidSettings("with --tuning, runs are named in the model map", hint="write NAME: run:ID there")
        if models is None:
            raise InvalidSettings(
                "--tuning needs a model map", hint="--models FILE, of which the shortest is: default: local:tiny"
            )
        _run(
            TuningServer(
                models,
                host=host,
                port=port,
                key_from=key_from,
                keys=keys,
                spending=StartOptions(budget=budget, yes=yes, allow_unknown_cost=allow_unknown_cost, strict=strict),
                deploy=deploy,
                organization=organization,
            ),
            None if keys is not None else key_from,
        )
        return
    if keys is not None:
        raise InvalidSettings("--keys is for --tuning", hint="without it one key is enough: --key-from")
    if not run:
        raise InvalidSettings("there is no run to serve", hint="name at least one, or pass --tuning")
    from llmtune.server.server import Server

    _run(
        Server([open_run(name, "succeeded") for name in run], host=host, port=port, key_from=key_from, deploy=deploy),
        key_from,
    )


def _run(server: HttpServer, key_from: str | None) -> None:
    """Serve until Ctrl-C. `key_from` is the variable of the one key; None where each client has its own."""
    from llmtune.cli.output import err, out
    from llmtune.server.server import Server, find_serving_command

    try:
        out.print(server.url, markup=False, soft_wrap=True)
        requires_key = server.requires_key if isinstance(server, Server) else True
        variable = key_from or "OPENAI_API_KEY"
        key = f'os.environ["{variable}"]' if requires_key else '"none"'
        lines = [f'client = openai.OpenAI(base_url="{server.url}", api_key={key})']
        if isinstance(server, Server):
            lines.append(f'client.chat.completions.create(model="{server.names[0]}", messages=[...])')
        err.print(f"models: {', '.join(server.names) or 'any name'}", markup=False, soft_wrap=True)
        err.print("\n".join(lines), markup=False, soft_wrap=True)
        for tuned in server.runs if isinstance(server, Server) else ():
            if (command := find_serving_command(tuned)) is not None:
                err.print(f"for many clients, with vLLM: {command}", style="dim", markup=False, soft_wrap=True)
        err.print("press Ctrl-C to stop", style="dim")
        # SIGTERM, too, must close models and remove deployments.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server.serve()
    except KeyboardInterrupt:
        err.print()
    finally:
        server.close()
