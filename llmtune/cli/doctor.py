"""`llmtune doctor`: what stands ready here, and which tuned models are running out of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmtune.doctor import Backend, OwnedModel, StoreHealth, Unseen
    from llmtune.installation.conflicts import Conflict


def doctor(
    provider: Annotated[
        str | None, typer.Option("--provider", "-p", help="Look at these backends alone (a,b,c).")
    ] = None,
    online: Annotated[bool, typer.Option("--online", help="Read one list from each backend that is ready.")] = False,
    lifecycle: Annotated[
        bool, typer.Option("--lifecycle", help="List every tuned model of the accounts and the store, with days left.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Tell which backends are ready, whether the run store is sound, and how long tuned models will answer.

    Exits with 1 when the store is not sound or files of this installation were replaced; a backend that is not ready
    is no failure.
    """
    from llmtune import doctor as look
    from llmtune.cli.output import print_json
    from llmtune.errors import LlmtuneError, StoreError
    from llmtune.installation.conflicts import find_conflict
    from llmtune.redaction.secrets import short_secrets

    names = [name.strip() for name in provider.split(",") if name.strip()] if provider else None
    if lifecycle:
        models, unseen, answered = look.owned_models(names)
        if as_json:
            print_json({"schema": 1, "models": _plain(models), "not_seen": _plain(unseen), "answered": answered})
        else:
            _print_models(models, unseen)
            _print_silence(answered, anybody=names is None, found=bool(models))
        return
    found = look.backends(names, online=online)
    store = look.store_health()
    conflict = find_conflict()
    if as_json:
        installation = None if conflict is None else {"message": conflict.message, "hint": conflict.hint}
        health = {"store": store.model_dump(mode="json"), "installation": installation}
        print_json({"schema": 1, "backends": _plain(found), **health, "short_keys": short_secrets()})
    else:
        _print_backends(found)
        _print_installation(conflict)
        _print_store(store)
        _print_short_keys(short_secrets())
    if not store.sound:
        raise StoreError(store.error or "the run store is not sound") if as_json else typer.Exit(1)
    if conflict is not None and conflict.broken:
        raise LlmtuneError(conflict.message, hint=conflict.hint) if as_json else typer.Exit(1)


def _plain(values: list[Backend] | list[OwnedModel] | list[Unseen]) -> list[dict[str, object]]:
    return [value.model_dump(mode="json") for value in values]


def _print_backends(found: list[Backend]) -> None:
    from rich.markup import escape

    from llmtune.cli.output import out

    for each in found:
        mark = "[green]✓[/]" if each.ready else "[red]✗[/]"
        out.print(f"{mark} [bold]{escape(each.name)}[/]  {escape(each.error or each.service)}", soft_wrap=True)
        if each.error:
            continue
        packages = ", ".join(f"{name} {version}" for name, version in each.versions.items())
        lines = [("extra", f"{each.extra}; {packages}" if packages else each.extra), ("keys", each.credentials)]
        if each.missing_settings:
            lines.append(("lacks", "settings " + ", ".join(each.missing_settings)))
        lines += [("runs on", ", ".join(f"{key} {value}" for key, value in each.machine.items()))]
        if each.online != "not asked":
            lines.append(("online", each.online))
        if not each.ready and each.hint:
            lines.append(("next", each.hint))
        for name, text in lines:
            if text:
                out.print(f"  [dim]{name:8}[/]{escape(text)}", soft_wrap=True)


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


def _print_short_keys(names: list[str]) -> None:
    from llmtune.cli.output import out
    from llmtune.redaction.secrets import SHORTEST

    for name in names:
        out.print(
            f"[yellow]![/] [bold]{name}[/]  is shorter than {SHORTEST} characters and looks like an"
            " ordinary word: it is masked only where it stands in a header (Bearer, api-key:)",
            soft_wrap=True,
        )


#: Models with so many days left or fewer are shown with the way out.
RESCUE_DAYS = 365


def _rescue(model: OwnedModel) -> str:
    import shlex

    return f"llmtune rescue {shlex.quote(model.run or model.model)} --from {model.provider} --to local --model MODEL"


def _print_models(models: list[OwnedModel], unseen: list[Unseen]) -> None:
    from rich.markup import escape

    from llmtune.cli.output import out

    heads = {(each.provider, each.model) for each in models}
    for each in models:
        if (each.provider, each.checkpoint_of) in heads:  # its dates and its way out are those of its model
            out.print(f"  [dim]checkpoint {escape(each.model)}[/]", soft_wrap=True)
            continue
        source = f"unverified: {each.source}" if each.unverified else each.source
        said = f" [dim]({escape(source)})[/]" if source else ""
        if each.days_left is None:
            left = "[dim]no end is known[/]"
        elif each.days_left > 0:
            days = f"{each.days_left} day{'' if each.days_left == 1 else 's'} left"
            left = f"[yellow]stops answering on {each.answers_until}, {days}[/]{said}"
        else:
            left = f"[red]stopped answering on {each.answers_until}[/]{said}"
        out.print(f"[bold]{escape(each.model)}[/]", soft_wrap=True)
        made = " · ".join(
            part
            for part in (each.provider, each.base and f"from {each.base}", each.job, each.run and f"run {each.run}")
            if part
        )
        out.print(f"  {escape(made)}", soft_wrap=True)
        out.print(f"  {left}", soft_wrap=True)
        if each.days_left is not None and each.days_left <= RESCUE_DAYS:
            out.print(f"  [dim]{escape(_rescue(each))}[/]", soft_wrap=True)
    for blind in unseen:
        out.print(f"[dim]{escape(blind.provider)}: {escape(blind.reason)}[/]", soft_wrap=True)


def _print_silence(answered: list[str], *, anybody: bool, found: bool) -> None:
    """Say that nothing was found, and whether anybody could be asked at all."""
    from llmtune.cli.output import out
    from llmtune.provider.registry import get_provider

    if answered and not found:
        out.print("no tuned model was found")
    if not answered:
        out.print("nobody could be asked; llmtune doctor says what is missing", soft_wrap=True)
    elif anybody and not any(provider.hosted and provider.listed for provider in map(get_provider, answered)):
        text = "no vendor could be asked, only this machine: llmtune doctor says which keys and settings are missing"
        out.print(text, soft_wrap=True)
