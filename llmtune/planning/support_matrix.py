"""The support matrix, generated from the declarations: the same facts for the docs, the terminal and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune import _clock
from llmtune.errors import LlmtuneError
from llmtune.provider.declarations import (
    DECLARED_FIELDS,
    Capabilities,
    Converted,
    Declaration,
    Inherent,
    NotApplicable,
    Sent,
    Unsupported,
)
from llmtune.provider.limits import NotOffered
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider, known_kinds
from llmtune.provider.types import Target

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: How each kind of declaration is marked in a matrix cell.
MARKS = {"sent": "●", "converted": "◐", "inherent": "=", "unsupported": "–", "not_applicable": " "}


def support_word(declared: Declaration) -> str:
    """Return the support of a field as a word, as far as it is known before the field's value is."""
    match declared:
        case Sent():
            return "sent"
        case Converted():
            return "converted"
        case Inherent():
            return "inherent"
        case Unsupported():
            return "unsupported"
        case NotApplicable():
            return "not_applicable"


def describe(declared: Declaration) -> dict[str, Any]:
    """Return one declaration as plain data: support, request path, range, default, rule or reason, source."""
    entry: dict[str, Any] = {"support": support_word(declared), "source": declared.source or None}
    match declared:
        case Sent() | Converted():
            entry |= {"wire": declared.request_path, "takes": declared.type.describe(), "default": declared.default}
            if isinstance(declared, Converted):
                entry["rule"] = declared.description
            elif declared.default_rule:
                entry["default_rule"] = declared.default_rule
            if declared.note:
                entry["note"] = declared.note
        case Inherent():
            entry |= {"value": declared.value, "reason": declared.reason}
        case Unsupported() | NotApplicable():
            entry["reason"] = declared.reason
    return entry


def get_capabilities(provider: Provider, model: str = "", method: str = "sft", adapter: str = "lora") -> Capabilities:
    """Return the capabilities of one provider for a model (the default family when none is named)."""
    return provider.capabilities(
        Target(provider=provider.name, kind=provider.kind, model=model, method=method, adapter=adapter)
    )


def summary(name: str) -> dict[str, Any]:
    """Summarise one provider: whether it takes jobs, which methods it trains, whether it is ready here."""
    try:
        provider = get_provider(name)
        capabilities = get_capabilities(provider)
        ready = provider.ready()
    except LlmtuneError as error:
        return {"name": name, "error": error.message}
    today = _clock.today()
    return {
        "name": name,
        "kind": provider.kind,
        "status": capabilities.lifecycle.sentence(today),
        "open": not capabilities.lifecycle.closed_on(today),
        "methods": [method for method, able in capabilities.methods.items() if able is True],
        "adapters": [adapter for adapter, able in capabilities.adapters.items() if able is True],
        "extra": ready.extra,
        "credentials": ready.credentials,
        "hint": ready.hint,
    }


def summary_table(rows: list[dict[str, Any]]) -> Table:
    """Return the summaries as a table that fits 80 columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("provider", "trains", "ready", "service"):
        table.add_column(column, overflow="fold")
    for row in rows:
        if "error" in row:
            table.add_row(escape(row["name"]), "", "[red]broken[/]", escape(row["error"]))
            continue
        ready = {"installed": "yes", "missing": "no extra", "not needed": "yes"}[row["extra"]]
        if ready == "yes" and row["credentials"] == "not found":
            ready = "no credentials"
        table.add_row(
            escape(row["name"]),
            escape(" ".join(row["methods"])),
            ready,
            escape(row["status"]) if row["open"] else f"[red]{escape(row['status'])}[/]",
        )
    return table


def page(provider: Provider, model: str = "") -> dict[str, Any]:
    """Return the reference page of one provider as plain data."""
    capabilities = get_capabilities(provider, model)
    today = _clock.today()
    price = capabilities.price
    return {
        "schema": 1,
        "provider": provider.name,
        "kind": provider.kind,
        "family": capabilities.family,
        "model": model or None,
        "lifecycle": {
            "sentence": capabilities.lifecycle.sentence(today),
            "note": capabilities.lifecycle.note,
            "source": capabilities.lifecycle.source,
        },
        "methods": {name: True if able is True else able.reason for name, able in capabilities.methods.items()},
        "adapters": {name: True if able is True else able.reason for name, able in capabilities.adapters.items()},
        "limits": {key: value for key, value in vars(capabilities.limits).items() if value not in (None, "")},
        "price": {
            key: (value.isoformat() if hasattr(value, "isoformat") else value)
            for key, value in vars(price).items()
            if value not in (None, "")
        },
        "abilities": {
            key: value.reason if isinstance(value, NotOffered) else value
            for key, value in vars(capabilities.abilities).items()
        },
        "concurrency": capabilities.concurrency,
        "fields": {name: describe(capabilities.parameters[name]) for name in DECLARED_FIELDS},
        "warnings": list(capabilities.warnings),
    }


def print_page(console: Console, page: dict[str, Any]) -> None:
    """Print one provider's page on a terminal."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]{escape(page['provider'])}[/]  {escape(page['family'])}")
    console.print(escape(page["lifecycle"]["sentence"]))
    for text in (page["lifecycle"]["note"], *page["warnings"]):
        if text:
            console.print(f"[dim]{escape(text)}[/]")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("field", no_wrap=True)
    table.add_column("support", no_wrap=True)
    table.add_column("what happens", overflow="fold")
    for name, entry in page["fields"].items():
        table.add_row(name, entry["support"], escape(describe_entry(entry)))
    console.print(table)
    for title in ("methods", "adapters", "abilities"):
        refused = {key: value for key, value in page[title].items() if isinstance(value, str) and value != "none"}
        granted = [key for key, value in page[title].items() if value is True]
        console.print(f"[bold]{title}[/]: {', '.join(granted) or 'none'}")
        for key, reason in refused.items():
            console.print(f"  [dim]{escape(key)}: {escape(reason)}[/]")
    for title in ("limits", "price"):
        console.print(f"[bold]{title}[/]: {escape(', '.join(f'{key} {value}' for key, value in page[title].items()))}")


def describe_entry(entry: dict[str, Any]) -> str:
    """Describe in one line what happens to a field."""
    if entry["support"] in ("sent", "converted"):
        text = f"{entry['wire']}: {entry['takes']}; default {entry['default']}"
        if "default_rule" in entry:
            text += f" (for {entry['default_rule']})"
        if "rule" in entry:
            text += f"; {entry['rule']}"
        return f"{text}; {entry['note']}" if entry.get("note") else text
    if entry["support"] == "inherent":
        return f"always {entry['value']}: {entry['reason']}"
    return str(entry["reason"])


def markdown(kinds: list[str] | None = None, fields: tuple[str, ...] = DECLARED_FIELDS) -> str:
    """Return the matrix of all listed providers (default families) as a Markdown table, for the docs."""
    backends = []
    for kind in kinds or list(known_kinds()):
        provider = get_provider(kind)
        if provider.listed:
            backends.append((kind, get_capabilities(provider)))
    head = "| field | " + " | ".join(kind for kind, _ in backends) + " |"
    rule = "|---|" + ":-:|" * len(backends)
    lines = [head, rule]
    for name in fields:
        marks = " | ".join(MARKS[support_word(capabilities.parameters[name])] for _, capabilities in backends)
        lines.append(f"| `{name}` | {marks} |")
    legend = ", ".join(f"{mark.strip() or 'empty'} {name.replace('_', ' ')}" for name, mark in MARKS.items())
    return "\n".join(lines) + f"\n\n{legend}.\n"
