"""What a provider's page has from the code: service, settings, limits, models with prices, and every field."""

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
    """Whether it takes jobs and until when, what it trains, what it takes, and what llmtune needs for it."""
    provider = get_provider(name)
    found = support_matrix.ask(provider)
    life = found.lifecycle
    dates = [("no new jobs from", life.closes), ("tuned models stop", life.answers_until)]
    rows = [
        ("service", "; ".join(filter(None, [life.status, life.for_whom, life.note]))),
        *((what, f"{day}") for what, day in dates if day is not None),
        ("said by", life.source),
        ("methods", _able(found.methods)),
        ("adapters", _able(found.adapters)),
        ("jobs at once", f"{found.concurrency} ({found.concurrency_source})" if found.concurrency else ""),
        ("go on at", ", ".join(life.alternatives)),
        ("install", " ".join(f"`pip install 'llmtune-sdk[{need.extra}]'`" for need in provider.requirements[:1])),
        *_limits(found.limits),
    ]
    return _table(("", ""), [row for row in rows if row[1]])


def settings(name: str) -> str:
    """What can be said of the account, in `llmtune.toml` or as LLMTUNE_NAME_FIELD."""
    fields = get_provider(name).Settings.model_fields
    rows = [(f"`{key}`", " ".join((info.description or "").split())) for key, info in fields.items()]
    return _table(("setting", ""), rows)


def models(name: str) -> str:
    """The models of the catalogue with their prices; of models that are not listed the service's own rules hold."""
    rows = []
    for model, found in _catalogued(name):
        kinds = ", ".join([*(m for m, able in found.methods.items() if able is True)])
        adapters = ", ".join(a for a, able in found.adapters.items() if able is True)
        life = found.lifecycle
        state = " ".join(filter(None, [life.status, f"({life.closes})" if life.closes else ""]))
        rows.append((f"`{model}`", kinds, adapters, state, _price(found.price), f"{found.price.checked or ''}"))
    return _table(("model", "methods", "adapters", "tuning", "price", "checked"), rows)


def fields(name: str) -> str:
    """What becomes of each field of a job."""
    found = support_matrix.ask(get_provider(name))
    rows = []
    for field, declared in found.parameters.items():
        entry = support_matrix.describe(declared)
        rows.append((f"`{field}`", entry["support"].replace("_", " "), support_matrix.cell(entry)))
    return _table(("field", "word", "what happens"), rows)


def _catalogued(name: str) -> Iterator[tuple[str, Capabilities]]:
    provider = get_provider(name)
    file = Path(inspect.getfile(type(provider))).parent / "catalog.toml"
    listed: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))["models"]
    for model, entry in listed.items():
        method = (entry.get("methods") or ["sft"])[0]
        adapter = (entry.get("adapters") or ["lora"])[0]
        yield model, support_matrix.ask(provider, model, method, adapter)


def _able(words: Any) -> str:
    return ", ".join(word for word, able in words.items() if able is True)


def _limits(limits: Limits) -> Iterator[tuple[str, str]]:
    told = [
        f"{value:,} {word}"
        for value, word in (
            (limits.min_rows, "training rows at least"),
            (limits.max_rows, "at most"),
            (limits.max_validation_rows, "validation rows at most"),
            (limits.max_total_rows, "rows in all"),
            (limits.max_bytes, "bytes a file"),
            (limits.max_tokens_per_row, "tokens a row"),
        )
        if value is not None
    ]
    words = [f"format `{limits.format}`", *told, f"validation rows {limits.validation}", limits.note]
    joined = "; ".join(filter(None, words))
    yield "dataset", f"{joined} ({limits.source})" if limits.source else joined


def _price(price: Price) -> str:
    units = (
        (price.training, "a million training tokens"),
        (price.input, "a million tokens in"),
        (price.output, "a million out"),
        (price.hosting, "an hour of deployment"),
        (price.storage, "a month and model"),
    )
    told = [f"{value:g} {price.currency} {unit}" for value, unit in units if value is not None]
    said = "; ".join(filter(None, [*told, price.note])) or "not published"
    return f"{said} ({price.source})" if price.source else said


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
    """What the page of a provider has to hold and does not: each block, and what to do when something goes wrong."""
    text = page.read_text(encoding="utf-8")
    wanted = [f"<!-- generated: {block} {page.stem} -->" for block in BLOCKS]
    return [each for each in [*wanted, "## Troubleshooting"] if each not in text]
