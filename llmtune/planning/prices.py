"""All prices of the catalogues as a list: what is known, since when, from which page, and what is not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from llmtune import _clock
from llmtune._models import FrozenModel
from llmtune.config import price_file
from llmtune.errors import InvalidSettings, UnknownName
from llmtune.provider.abilities import HasCatalog, HasLivePrices
from llmtune.provider.limits import PRICE_UNITS
from llmtune.provider.live_prices import check_by_method, check_prices, write_live_prices
from llmtune.provider.price_file import read_price_file
from llmtune.provider.registry import get_provider, known_kinds

if TYPE_CHECKING:
    from rich.console import Console


class ModelPrices(FrozenModel):
    """The prices of one base model at one provider.

    `prices` holds the known ones by name (units: `PRICE_UNITS`), `unknown` the names of those that are billed and not
    known; `source` is then the page that was looked at, on the day `checked`. `tunable` says whether the service takes
    jobs for the model.
    """

    provider: str
    model: str
    methods: tuple[str, ...] = ()
    tunable: bool = True
    currency: str = "USD"
    region: str = ""
    prices: dict[str, float] = {}
    by_method: dict[str, float] = {}
    unknown: tuple[str, ...] = ()
    source: str = ""
    sources: dict[str, str] = {}
    checked: date | None = None
    note: str = ""


def list_prices(providers: Iterable[str] | None = None, *, today: date | None = None) -> list[ModelPrices]:
    """Return the prices of every catalogued base model, or of those of some providers. Sends nothing.

    Raises:
        InvalidSettings: the user's price file or catalogue is broken, or the file names a provider that is not there.
        UnknownName: there is no such provider.
    """
    check_price_file()
    names = list(providers) if providers is not None else list(known_kinds())
    return [row for name in names for row in _list_models(name, today or _clock.today())]


class LivePrices(FrozenModel):
    """What a service answered about its prices: for how many models, the file that keeps it, and what changed by it.

    `changes` are sentences: a price that was not known before, or another one. `not_used` are clauses that name
    what the service listed beside, and why it is no price of a model here. `region` is where the prices hold
    ("" everywhere).
    """

    provider: str
    page: str
    asked: date
    models: int
    file: str
    changes: tuple[str, ...] = ()
    not_used: tuple[str, ...] = ()
    region: str = ""


#: Clauses of `LivePrices.not_used` that are printed.
_MAX_LINES = 20


def ask_live_prices(name: str, *, today: date | None = None) -> LivePrices:
    """Ask a provider's service for today's prices of its catalogued models, and keep them for plans from now on.

    Raises:
        UnknownName: there is no such provider.
        InvalidSettings: its service does not answer prices.
        LlmtuneError: the service refuses, or cannot be reached.
    """
    provider = get_provider(name)
    catalog = provider.read_catalog() if isinstance(provider, HasCatalog) else None
    if catalog is None or not isinstance(provider, HasLivePrices):
        raise InvalidSettings(f"{name} has no service that answers its prices", hint=f"llmtune prices {name}")
    day = today or _clock.today()
    tunable = [
        model.id for model in catalog.models.values() if not (model.lifecycle or catalog.lifecycle).closed_on(day)
    ]
    answer = provider.fetch_prices(tunable)
    prices = {model: check_prices(row) for model, row in answer.prices.items() if model in catalog.models}
    by_method = {model: check_by_method(row) for model, row in answer.by_method.items() if model in catalog.models}
    answered: dict[str, dict[str, Any]] = {model: dict(row) for model, row in prices.items() if row}
    for model, training in by_method.items():
        if training:
            answered[model] = {**answered.get(model, {}), "by_method": training}
    changes = [
        f"{model}: {price} {'was not known' if before is None else f'{before:g}'} -> {amount:g}"
        for model, row in prices.items()
        for price, amount in row.items()
        if (before := getattr(catalog.models[model].price, price)) != amount
    ]
    changes += [
        f"{model}: training for {method} {'was not known' if before is None else f'{before:g}'} -> {amount:g}"
        for model, row in by_method.items()
        for method, amount in row.items()
        if (before := catalog.models[model].price.by_method.get(method)) != amount
    ]
    page = f"{name}, {provider.live_prices_page}"
    file = write_live_prices(provider.kind, page, day, answered, region=answer.region)
    return LivePrices(
        provider=name,
        page=page,
        asked=day,
        models=len(answered),
        file=str(file),
        changes=tuple(changes),
        not_used=tuple(answer.not_used),
        region=answer.region,
    )


def print_live_prices(console: Console, answer: LivePrices) -> None:
    """Print what a service answered, and what that changes."""
    from rich.markup import escape

    models = f"{answer.models} model{'s' if answer.models != 1 else ''}"
    location = f" in {answer.region}" if answer.region else ""
    console.print(
        escape(f"{answer.page}: prices of {models}{location}, asked on {answer.asked}; kept in {answer.file}"),
        soft_wrap=True,
    )
    for change in answer.changes:
        console.print(f"  {escape(change)}", soft_wrap=True)
    if not answer.changes:
        console.print("  none differs from those that were known", soft_wrap=True)
    for clause in answer.not_used[:_MAX_LINES]:
        console.print(f"  [yellow]listed, and not used:[/] {escape(clause)}", soft_wrap=True)
    if len(answer.not_used) > _MAX_LINES:
        console.print(f"  ... and {len(answer.not_used) - _MAX_LINES} more like these", soft_wrap=True)
    console.print()


def check_price_file() -> None:
    """Raise `InvalidSettings` where the user's price file names a provider that does not exist."""
    path = price_file()
    kinds = [*known_kinds()]
    for provider in read_price_file(path):
        if provider not in kinds:
            raise InvalidSettings(f"{path}: {UnknownName('provider', provider, kinds).message}")


def count_unknown(rows: Iterable[ModelPrices]) -> tuple[int, int]:
    """Return how many tunable models have an unknown price, and how many tunable models there are."""
    tunable = [row for row in rows if row.tunable]
    return sum(bool(row.unknown) for row in tunable), len(tunable)


def to_json(rows: list[ModelPrices]) -> dict[str, Any]:
    """Return the list in its published shape, with the units and the count of unknown prices."""
    unknown, tunable = count_unknown(rows)
    return {
        "schema": 1,
        "units": dict(PRICE_UNITS),
        "tunable": tunable,
        "with_unknown_price": unknown,
        "models": [row.model_dump(mode="json") for row in rows],
    }


def print_prices(console: Console, rows: list[ModelPrices]) -> None:
    """Print the prices on a terminal: a block per model, then the count of unknown prices."""
    from rich.markup import escape

    for row in rows:
        gone = "" if row.tunable else "  [dim]takes no jobs[/]"
        console.print(f"[bold]{escape(row.provider)}[/]  {escape(row.model)}{gone}", soft_wrap=True)
        amounts = [f"{name} {value:g}" for name, value in row.prices.items()]
        amounts += [f"training {value:g} for {key}" for key, value in row.by_method.items()]
        location = f" [dim]{escape(row.region)}[/]" if row.region else ""
        if amounts:
            console.print(f"  {row.currency}: {escape(', '.join(amounts))}{location}", soft_wrap=True)
        if row.unknown:
            console.print(f"  [yellow]not known: {escape(', '.join(row.unknown))}[/]", soft_wrap=True)
        pages = {row.source: "", **{page: f"{name}: " for name, page in row.sources.items() if page != row.source}}
        for page, name in pages.items():
            if page:
                console.print(f"  [dim]{name}{escape(page)}, {row.checked}[/]", soft_wrap=True)
        if row.note:
            console.print(f"  [dim]{escape(row.note)}[/]", soft_wrap=True)
    unknown, tunable = count_unknown(rows)
    if tunable:
        share = 100 * unknown / tunable
        console.print(f"\n{unknown} of {tunable} models that can be tuned have an unknown price ({share:.0f} %)")
    units = "; ".join(f"{name}: per {unit}" for name, unit in PRICE_UNITS.items())
    console.print(f"[dim]{escape(units)}[/]", soft_wrap=True)


def _list_models(name: str, today: date) -> list[ModelPrices]:
    provider = get_provider(name)
    catalog = provider.read_catalog() if isinstance(provider, HasCatalog) else None
    if catalog is None:
        return []
    rows = []
    for model in catalog.models.values():
        price = model.price
        rows.append(
            ModelPrices(
                provider=name,
                model=model.id,
                methods=model.methods,
                tunable=not (model.lifecycle or catalog.lifecycle).closed_on(today),
                currency=price.currency,
                region=price.region,
                prices=_known(vars(price)),
                by_method=dict(price.by_method),
                unknown=price.unknown(),
                source=price.source,
                sources=dict(price.sources),
                checked=price.checked,
                note=price.note,
            )
        )
    return rows


def _known(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: values[name] for name in PRICE_UNITS if values[name] is not None}
