"""`llmtune providers`, `llmtune config show` and `llmtune schema`: information that changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmtune.cli.help import HelpfulGroup

if TYPE_CHECKING:
    from llmtune.config import Instance

config = typer.Typer(cls=HelpfulGroup, no_args_is_help=True)


#: Schemas that `llmtune schema` prints besides that of the job file, each by the model whose JSON a command prints.
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
    "init": "llmtune.planning.job_suggestion:JobSuggestion",
    "plan": "llmtune.provider.receipt:Receipt",
    "error": "llmtune.cli.schemas:ErrorDocument",
}


def schema(
    what: Annotated[
        str, typer.Argument(help="What to describe: job (the job file), error, or the name of a command, see below.")
    ] = "job",
) -> None:
    """Print a JSON schema: of a job file, of an error under --json, or of a command's output.

    Available: job, error, init, plan, tune, attach, report, compare, board, sweep, rescue, gate, diff.
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
                        "kind": instance.kind,
                        "values": redact("", instance.values),
                        "origins": instance.origins,
                    }
                    for name, instance in _instances().items()
                },
            }
        )
        return
    for title, value in (("home", str(now.home)), ("store", redact_url(now.store))):
        out.print(f"{title:<7} {escape(value)}  [dim]{escape(origin(title))}[/]", soft_wrap=True)
    for path in config_files():
        out.print(f"config  {escape(str(path))} [dim]{'read' if path in now.files else 'not there'}[/]", soft_wrap=True)
    for name, instance in _instances().items():
        out.print(f"\n[bold]{escape(name)}[/] [dim]kind {escape(instance.kind)}[/]")
        for key, value in instance.values.items():
            out.print(f"  {escape(key)} = {escape(str(redact(key, value)))}  [dim]{escape(instance.origins[key])}[/]")


def _instances() -> dict[str, Instance]:
    """Return every instance that a file or the environment configures, with all its settings, defaults included."""
    from llmtune.config import instance, settings
    from llmtune.errors import LlmtuneError
    from llmtune.provider.registry import provider_class, provider_names

    configured = settings().providers
    instances = {}
    for name in provider_names():
        kind = configured[name].kind if name in configured else name
        try:
            fields = provider_class(kind).Settings.model_fields
        except LlmtuneError:  # it cannot be loaded; the files' settings are shown anyway
            fields = {}
        configured_instance = instance(name, tuple(fields))
        if not configured_instance.values and name not in configured:
            continue
        defaults = {
            field: info.get_default(call_default_factory=True)
            for field, info in fields.items()
            if not info.is_required()
        }
        origins = {
            field: configured_instance.origins.get(field, "default")
            for field in (*defaults, *configured_instance.values)
        }
        instances[name] = replace(configured_instance, values=defaults | configured_instance.values, origins=origins)
    return instances


def providers(
    name: Annotated[str | None, typer.Argument(help="Show the full reference page of this provider.")] = None,
    model: Annotated[str, typer.Option(help="The model the page is about.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """List the backends, or show what one of them takes, field by field."""
    from llmtune.cli.output import out, print_json
    from llmtune.planning import support_matrix
    from llmtune.provider.registry import get_provider, provider_names

    if name is None:
        rows = [support_matrix.summary(kind) for kind in provider_names()]
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
