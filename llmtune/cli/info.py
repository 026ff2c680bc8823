"""`llmtune providers`, `llmtune config show` and `llmtune schema`: what there is, without touching any of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmtune.config import Instance

config = typer.Typer(no_args_is_help=True)


#: What `llmtune schema` knows besides the job file: the model whose JSON a command prints.
_PRINTED = {
    "report": "llmtune.report.schema:Report",
    "tune": "llmtune.report.schema:Report",
    "attach": "llmtune.report.schema:Report",
    "board": "llmtune.report.leaderboard.board:Board",
    "compare": "llmtune.report.leaderboard.board:Board",
    "sweep": "llmtune.sweeps.results:Sweep",
    "rescue": "llmtune.rescues.results:Rescue",
    "gate": "llmtune.report.gate:GateResult",
    "diff": "llmtune.report.gate:DiffResult",
    "plan": "llmtune.provider.receipt:Receipt",
    "error": "llmtune.cli.schemas:ErrorDocument",
}


def schema(
    what: Annotated[
        str, typer.Argument(help="job (the job file), error, or a command that prints such a result: see below.")
    ] = "job",
) -> None:
    """Print a JSON schema: of a job file, of an error under --json, or of what a command prints.

    Known: job, error, plan, tune, attach, report, compare, board, sweep, rescue, gate, diff.
    """
    from importlib import import_module

    from llmtune.cli.output import print_json
    from llmtune.errors import UnknownName

    if what == "job":
        from llmtune.job.spec import TuningJob

        document = TuningJob.model_json_schema()
        # A dataset may be given as a bare path, which the model turns into a DatasetSpec before validation.
        document["properties"]["dataset"] = {"anyOf": [{"type": "string"}, document["properties"]["dataset"]]}
    elif what in _PRINTED:
        module, _, name = _PRINTED[what].partition(":")
        document = getattr(import_module(module), name).model_json_schema(mode="serialization")
    else:
        raise UnknownName("schema", what, ["job", *_PRINTED])
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = f"llmtune {what}"
    print_json(document)


@config.command("show")
def show(
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Show every setting and where it comes from; secrets are never shown."""
    from rich.markup import escape

    from llmtune.cli.output import out, print_json
    from llmtune.config import config_files, origin, redact, redact_url, settings

    now = settings()
    if as_json:
        print_json(
            {
                "home": str(now.home),
                "store": redact_url(now.store),
                "origins": {name: origin(name) for name in ("home", "store")},
                "files": [{"path": str(path), "read": path in now.files} for path in config_files()],
                "providers": {
                    name: {
                        "kind": each.kind,
                        "values": redact("", each.values),
                        "origins": each.origins,
                    }
                    for name, each in _instances().items()
                },
            }
        )
        return
    for title, value in (("home", str(now.home)), ("store", redact_url(now.store))):
        out.print(f"{title:<7} {escape(value)}  [dim]{escape(origin(title))}[/]", soft_wrap=True)
    for path in config_files():
        out.print(f"config  {escape(str(path))} [dim]{'read' if path in now.files else 'not there'}[/]", soft_wrap=True)
    for name, each in _instances().items():
        out.print(f"\n[bold]{escape(name)}[/] [dim]kind {escape(each.kind)}[/]")
        for key, value in each.values.items():
            out.print(f"  {escape(key)} = {escape(str(redact(key, value)))}  [dim]{escape(each.origins[key])}[/]")


def _instances() -> dict[str, Instance]:
    """Every instance that a file or the environment says something of, with all its settings, defaults included."""
    from llmtune.config import instance, settings
    from llmtune.errors import LlmtuneError
    from llmtune.provider.registry import provider_class, provider_names

    configured = settings().providers
    found = {}
    for name in provider_names():
        kind = configured[name].kind if name in configured else name
        try:
            fields = provider_class(kind).Settings.model_fields
        except LlmtuneError:  # it cannot be loaded; what the files say is shown all the same
            fields = {}
        each = instance(name, tuple(fields))
        if not each.values and name not in configured:
            continue
        defaults = {
            field: info.get_default(call_default_factory=True)
            for field, info in fields.items()
            if not info.is_required()
        }
        origins = {field: each.origins.get(field, "default") for field in (*defaults, *each.values)}
        found[name] = replace(each, values=defaults | each.values, origins=origins)
    return found


def providers(
    name: Annotated[str | None, typer.Argument(help="One provider: its whole reference page.")] = None,
    model: Annotated[str, typer.Option(help="The model the page is about.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """List the backends, or show what one of them takes, field by field."""
    from llmtune.cli.output import out, print_json
    from llmtune.planning import support_matrix
    from llmtune.provider.registry import get_provider, provider_names

    if name is None:
        rows = [support_matrix.summary(each) for each in provider_names()]
        if as_json:
            print_json({"schema": 1, "providers": rows})
        else:
            out.print(support_matrix.summary_table(rows))
        return
    page = support_matrix.page(get_provider(name), model)
    if as_json:
        print_json(page)
    else:
        support_matrix.print_page(out, page)
