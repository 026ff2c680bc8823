"""The generated parts of a provider's page: service, settings, limits, models with prices, and fields."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmtune.planning import support_matrix
from llmtune.provider.declarations import Capabilities
from llmtune.provider.limits import Limits, Price
from llmtune.provider.registry import get_provider


def service(name: str) -> str:
    """Describe the service: whether it takes jobs and until when, what it trains, its limits, and what to install."""
    provider = get_provider(name)
    capabilities = support_matrix.get_capabilities(provider)
    life = capabilities.lifecycle
    dates = [("no new jobs from", life.closes), ("tuned models stop", life.answers_until)]
    rows = [
        ("service", "; ".join(filter(None, [life.status, life.for_whom, life.note]))),
        *((what, f"{day}") for what, day in dates if day is not None),
        ("said by", life.source),
        ("methods", _able(capabilities.methods)),
        ("adapters", _able(capabilities.adapters)),
        (
            "jobs at once",
            f"{capabilities.concurrency} ({capabilities.concurrency_source})" if capabilities.concurrency else "",
        ),
        ("go on at", ", ".join(life.alternatives)),
        ("install", " ".join(f"`pip install 'llmtune-sdk[{need.extra}]'`" for need in provider.requirements[:1])),
        *_limits(capabilities.limits),
    ]
    return _table(("", ""), [row for row in rows if row[1]])


def settings(name: str) -> str:
    """List the account's settings, for `llmtune.toml` or as LLMTUNE_NAME_FIELD."""
    fields = get_provider(name).Settings.model_fields
    rows = [(f"`{key}`", " ".join((info.description or "").split())) for key, info in fields.items()]
    return _table(("setting", ""), rows)


def models(name: str) -> str:
    """List the models of the catalogue with their prices; other models follow the service's general rules."""
    if not _catalog_file(name).is_file():
        return f"No list: {support_matrix.get_capabilities(get_provider(name)).family}, of the Hugging Face hub.\n"
    rows = []
    for model, capabilities in _catalogued(name):
        kinds = ", ".join([*(m for m, able in capabilities.methods.items() if able is True)])
        adapters = ", ".join(a for a, able in capabilities.adapters.items() if able is True)
        life = capabilities.lifecycle
        state = " ".join(filter(None, [life.status, f"({life.closes})" if life.closes else ""]))
        rows.append(
            (f"`{model}`", kinds, adapters, state, _price(capabilities.price), f"{capabilities.price.checked or ''}")
        )
    return _table(("model", "methods", "adapters", "tuning", "price", "checked"), rows)


def fields(name: str) -> str:
    """List what the backend does with each field of a job."""
    capabilities = support_matrix.get_capabilities(get_provider(name))
    rows = []
    for field, declared in capabilities.parameters.items():
        entry = support_matrix.describe(declared)
        rows.append((f"`{field}`", entry["support"].replace("_", " "), support_matrix.describe_entry(entry)))
    return _table(("field", "word", "what happens"), rows)


def _catalogued(name: str) -> Iterator[tuple[str, Capabilities]]:
    provider = get_provider(name)
    listed: dict[str, Any] = tomllib.loads(_catalog_file(name).read_text(encoding="utf-8"))["models"]
    for model, entry in listed.items():
        method = (entry.get("methods") or ["sft"])[0]
        adapter = (entry.get("adapters") or ["lora"])[0]
        yield model, support_matrix.get_capabilities(provider, model, method, adapter)


def _catalog_file(name: str) -> Path:
    return Path(inspect.getfile(type(get_provider(name)))).parent / "catalog.toml"


def _able(support: Any) -> str:
    return ", ".join(name for name, able in support.items() if able is True)


def _limits(limits: Limits) -> Iterator[tuple[str, str]]:
    limit_texts = [
        f"{value:,} {unit}"
        for value, unit in (
            (limits.min_rows, "training rows at least"),
            (limits.max_rows, "at most"),
            (limits.max_validation_rows, "validation rows at most"),
            (limits.max_total_rows, "rows in all"),
            (limits.max_bytes, "bytes per file"),
            (limits.max_tokens_per_row, "tokens per row"),
        )
        if value is not None
    ]
    parts = [f"format `{limits.format}`", *limit_texts, f"validation rows {limits.validation}", limits.note]
    joined = "; ".join(filter(None, parts))
    yield "dataset", f"{joined} ({limits.source})" if limits.source else joined


def _price(price: Price) -> str:
    units = (
        (price.training, "per million training tokens"),
        (price.input, "per million input tokens"),
        (price.output, "per million output tokens"),
        (price.hosting, "per hour of deployment"),
        (price.storage, "per month and model"),
    )
    prices = [f"{value:g} {price.currency} {unit}" for value, unit in units if value is not None]
    text = "; ".join(filter(None, [*prices, price.note])) or "not published"
    return f"{text} ({price.source})" if price.source else text


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


BLOCKS = {
    "provider-service": service,
    "provider-settings": settings,
    "provider-models": models,
    "provider-fields": fields,
}


def missing(page: Path) -> list[str]:
    """Return what a provider's page lacks: generated blocks, and the section on troubleshooting."""
    text = page.read_text(encoding="utf-8")
    required = [f"<!-- generated: {block} {page.stem} -->" for block in BLOCKS]
    return [mark for mark in [*required, "## Troubleshooting"] if mark not in text]
