"""`llmtune doctor`: which backends are ready here, and which tuned models will soon stop answering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmtune.doctor import Backend, OwnedModel, StoreHealth, UnreachableBackend
    from llmtune.installation.conflicts import Conflict
    from llmtune.runs.standing import StandingDeployment


def doctor(
    provider: Annotated[str | None, typer.Option("--provider", "-p", help="Check only these backends (a,b,c).")] = None,
    online: Annotated[bool, typer.Option("--online", help="Read one list from each backend that is ready.")] = False,
    lifecycle: Annotated[
        bool, typer.Option("--lifecycle", help="List every tuned model of the accounts and the store, with days left.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Show which backends are ready, whether the run store is sound, which deployments cost money, and how long tuned
    models will answer.

    Exits with 1 when the store is not sound or files of this installation were replaced; a backend that is not ready
    is no failure.
    """
    from llmtune import doctor as checks
    from llmtune.cli.output import print_json
    from llmtune.errors import LlmtuneError, StoreError
    from llmtune.installation.conflicts import find_conflict
    from llmtune.redaction.secrets import list_short_secrets

    names = [name.strip() for name in provider.split(",") if name.strip()] if provider else None
    if lifecycle:
        models, unseen, answered = checks.owned_models(names)
        if as_json:
            print_json({"schema": 1, "models": _plain(models), "not_seen": _plain(unseen), "answered": answered})
        else:
            _print_models(models, unseen)
            _print_unanswered(answered, every_backend=names is None, models_found=bool(models))
        return
    backends = checks.backends(names, online=online)
    store = checks.store_health()
    conflict = find_conflict()
    standing = checks.standing_deployments() if store.sound else []
    if as_json:
        installation = None if conflict is None else {"message": conflict.message, "hint": conflict.hint}
        health: dict[str, object] = {"store": store.model_dump(mode="json"), "installation": installation}
        health["deployments"] = [deployment.model_dump(mode="json") for deployment in standing]
        print_json({"schema": 1, "backends": _plain(backends), **health, "short_keys": list_short_secrets()})
    else:
        _print_backends(backends)
        _print_installation(conflict)
        _print_store(store)
        _print_deployments(standing)
        _print_short_keys(list_short_secrets())
    if not store.sound:
        raise StoreError(store.error or "the run store is not sound") if as_json else typer.Exit(1)
    if conflict is not None and conflict.broken:
        raise LlmtuneError(conflict.message, hint=conflict.hint) if as_json else typer.Exit(1)


def _plain(values: list[Backend] | list[OwnedModel] | list[UnreachableBackend]) -> list[dict[str, object]]:
    return [value.model_dump(mode="json") for value in values]


def _print_backends(backends: list[Backend]) -> None:
    from rich.markup import escape

    from llmtune.cli.output import out

    for backend in backends:
        mark = "[green]✓[/]" if backend.ready else "[red]✗[/]"
        out.print(f"{mark} [bold]{escape(backend.name)}[/]  {escape(backend.error or backend.service)}", soft_wrap=True)
        if backend.error:
            continue
        packages = ", ".join(f"{name} {version}" for name, version in backend.versions.items())
        lines = [
            ("extra", f"{backend.extra}; {packages}" if packages else backend.extra),
            ("keys", backend.credentials),
        ]
        if backend.missing_settings:
            lines.append(("lacks", "settings " + ", ".join(backend.missing_settings)))
        lines += [("runs on", ", ".join(f"{key} {value}" for key, value in backend.machine.items()))]
        if backend.online != "not asked":
            lines.append(("online", backend.online))
        if not backend.ready and backend.hint:
            lines.append(("next", backend.hint))
        for name, text in lines:
            if text:
                out.print(f"  [dim]{name:8}[/]{escape(text)}", soft_wrap=True)
        for stray in backend.strays:
            out.print(f"  [yellow]running[/] {escape(stray)}", soft_wrap=True)


def _print_installation(conflict: Conflict | None) -> None:
    from rich.markup import escape

    from llmtune.cli.output import out

    if conflict is not None:
        out.print(f"[red]✗[/] [bold]installation[/]  {escape(conflict.message)}", soft_wrap=True)
        out.print(f"  [dim]{'next':8}[/]{escape(conflict.hint)}", soft_wrap=True)


def _print_store(store: StoreHealth) -> None:
    from rich.markup import escape

    from llmtune.cli.output import out

    if not store.sound:
        out.print(f"[red]✗[/] [bold]run store[/]  {escape(store.error or '')}", soft_wrap=True)
        return
    size = "" if store.bytes is None else f", {store.bytes / 1e6:.1f} MB"
    out.print(
        f"[green]✓[/] [bold]run store[/]  {escape(store.url)}: {store.runs} runs, {store.unfinished} unfinished{size}",
        soft_wrap=True,
    )


def _print_deployments(standing: list[StandingDeployment]) -> None:
    from rich.markup import escape

    from llmtune.cli.output import out

    for deployment in standing:
        out.print(
            f"[yellow]![/] [bold]{escape(deployment.provider)}[/]  {escape(deployment.sentence())}", soft_wrap=True
        )


def _print_short_keys(names: list[str]) -> None:
    from llmtune.cli.output import out
    from llmtune.redaction.secrets import SHORTEST

    for name in names:
        out.print(
            f"[yellow]![/] [bold]{name}[/]  is shorter than {SHORTEST} characters and looks like an"
            " ordinary word: it is masked only where it stands in a header (Bearer, api-key:)",
            soft_wrap=True,
        )


#: Models with at most this many days left are shown with the command that rescues them.
RESCUE_DAYS = 365


def _rescue_command(model: OwnedModel) -> str:
    import shlex

    return f"llmtune rescue {shlex.quote(model.run or model.model)} --from {model.provider} --to local --model MODEL"


def _print_models(models: list[OwnedModel], unseen: list[UnreachableBackend]) -> None:
    from rich.markup import escape

    from llmtune.cli.output import out

    listed = {(model.provider, model.model) for model in models}
    for model in models:
        if (model.provider, model.checkpoint_of) in listed:  # its dates and its rescue are those of its model
            out.print(f"  [dim]checkpoint {escape(model.model)}[/]", soft_wrap=True)
            continue
        source = f"unverified: {model.source}" if model.unverified else model.source
        origin = f" [dim]({escape(source)})[/]" if source else ""
        if model.days_left is None:
            lifetime = "[dim]no end is known[/]"
        elif model.days_left > 0:
            days = f"{model.days_left} day{'' if model.days_left == 1 else 's'} left"
            lifetime = f"[yellow]stops answering on {model.answers_until}, {days}[/]{origin}"
        else:
            lifetime = f"[red]stopped answering on {model.answers_until}[/]{origin}"
        out.print(f"[bold]{escape(model.model)}[/]", soft_wrap=True)
        provenance = " · ".join(
            part
            for part in (
                model.provider,
                model.base and f"from {model.base}",
                model.job,
                model.run and f"run {model.run}",
            )
            if part
        )
        out.print(f"  {escape(provenance)}", soft_wrap=True)
        out.print(f"  {lifetime}", soft_wrap=True)
        if model.days_left is not None and model.days_left <= RESCUE_DAYS:
            out.print(f"  [dim]{escape(_rescue_command(model))}[/]", soft_wrap=True)
    for unreachable in unseen:
        out.print(f"[dim]{escape(unreachable.provider)}: {escape(unreachable.reason)}[/]", soft_wrap=True)


def _print_unanswered(answered: list[str], *, every_backend: bool, models_found: bool) -> None:
    """Report that no model was found, and whether any backend could be asked at all."""
    from llmtune.cli.output import out
    from llmtune.provider.registry import get_provider

    if answered and not models_found:
        out.print("no tuned model was found")
    if not answered:
        out.print("no backend could be asked; llmtune doctor says what is missing", soft_wrap=True)
    elif every_backend and not any(provider.hosted and provider.listed for provider in map(get_provider, answered)):
        text = "no vendor could be asked, only this machine: llmtune doctor says which keys and settings are missing"
        out.print(text, soft_wrap=True)
