"""Azure's public price list: what tuning a model, its answers and a standing deployment cost in one region.

A price is a meter: "gpt-4o-0806-FT-Trng-glbl" names the model, that it is tuned (FT), what is billed and where. No two
generations of models spell that alike, so words are read, and a meter with a word that is not known is named, not
guessed.

The list needs no account, and gets no credential (Microsoft Learn, Azure Retail Prices REST API, 2023-01-01-preview).
Models of Foundry are listed under the service "Foundry Models" (answers of 2026-09-27 and 2026-10-04, as third parties
recorded them).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import llmtune.provider as core
from llmtune.errors import InvalidSettings, VendorError

PAGE = "https://prices.azure.com/api/retail/prices"
API_VERSION = "2023-01-01-preview"
SERVICE = "Foundry Models"

#: Answers that are read of one list. A page has 100 to 1,000 meters, a region some thousands.
MAX_PAGES = 200
_SECONDS = 60.0

Scope = Literal["regional", "global", "data zone", "developer"]

#: The words of a meter that say what is billed, and where.
_KINDS = {
    "training": ("training", "trng"),
    "hosting": ("hosting", "hstng"),
    "input": ("input", "inpt", "inp", "in"),
    "output": ("output", "outpt", "outp", "opt", "out"),
}
_KIND_OF = {spelling: kind for kind, spellings in _KINDS.items() for spelling in spellings}
_CACHED = frozenset({"cached", "cchd"})
_SCOPES: Mapping[str, Scope] = {
    "global": "global",
    "glbl": "global",
    "regional": "regional",
    "regnl": "regional",
    "dz": "data zone",
    "dzone": "data zone",
    "dev": "developer",
}
#: Words that only repeat the unit.
_UNIT_WORDS = frozenset({"tokens", "token", "tkn", "unit", "1m", "1k", "deployment"})

#: Where answers of a kind of deployment are computed; provisioned ones are not billed by tokens.
DEPLOYED: Mapping[str, Scope] = {
    "Standard": "regional",
    "GlobalStandard": "global",
    "DataZoneStandard": "data zone",
    "DeveloperTier": "developer",
}
#: Where a kind of training is done.
TRAINED: Mapping[str, Scope] = {"Standard": "regional", "GlobalStandard": "global", "developerTier": "developer"}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A base model in the list: the names its meters begin with, and where it is trained.

    `open` says that it is an open model: the meters of those name no place where they hold for global deployments, and
    not what is billed where the unit says it.
    """

    id: str
    stems: frozenset[str]
    trained: Scope = "regional"
    open: bool = False


@dataclass(frozen=True)
class Meter:
    """What the words of a meter say: the model's name, whether it is tuned, what is billed ("" unsaid) and where."""

    stem: str
    tuned: bool
    kind: str = ""
    scope: Scope | None = None


def read_meter(name: str) -> Meter | None:
    """Return what the words of a meter's name say; None where they contradict each other."""
    stem, kinds, scopes, cached, tuned = [], set(), set(), False, False
    for term in re.split(r"[\s\-_/]+", name.strip().lower()):
        if term == "ft":
            tuned = True
        elif term in _CACHED:
            cached = True
        elif term in _KIND_OF:
            kinds.add(_KIND_OF[term])
        elif term in _SCOPES:
            scopes.add(_SCOPES[term])
        elif term not in _UNIT_WORDS:
            stem.append(term)
    if "developer" in scopes:  # "gpt 4.1 nano dev ft training glbl": spare capacity, wherever it is
        scopes.discard("global")
    kind = kinds.pop() if kinds else ""
    if kinds or len(scopes) > 1 or (cached and kind != "input"):
        return None
    return Meter(" ".join(stem), tuned, "cached_input" if cached else kind, scopes.pop() if scopes else None)


def read_amount(row: Mapping[str, Any]) -> tuple[str, float] | str:
    """Return what a row is priced by ("tokens", "hour") and the amount for a million tokens or an hour.

    Or a clause that says why it is not understood.
    """
    amount, unit = row.get("retailPrice"), str(row.get("unitOfMeasure"))
    if row.get("currencyCode") != "USD":
        return f"priced in {row.get('currencyCode')}"
    if not isinstance(amount, (int, float)) or isinstance(amount, bool) or not 0 <= amount < 1e9:
        return "without an amount"
    if amount == 0:
        return "priced at 0, which the list also has for what it rounds"
    if row.get("tierMinimumUnits"):
        return "priced by how much is used"
    measure = unit.lower().replace(" ", "").replace("/", "").removesuffix("tokens")
    if measure in ("1k", "1m"):
        return "tokens", round(amount * (1000 if measure == "1k" else 1), 9)
    if measure == "1hour":
        return "hour", float(amount)
    return f"priced per {unit}"


@dataclass
class _Reading:
    """Prices as they are read: the amounts of each, by model, price and place."""

    amounts: dict[tuple[str, str, Scope], dict[float, str]] = field(default_factory=dict)
    not_used: list[str] = field(default_factory=list)
    strangers: Counter[str] = field(default_factory=Counter)


def read_prices(
    rows: Sequence[Mapping[str, Any]], models: Sequence[Model], *, region: str, sku: str, today: date
) -> core.PriceAnswer:
    """Return the prices that hold for some models in a region, for training as they are trained and a kind of `sku`."""
    by_stem = {stem: model for model in models for stem in model.stems}
    reading = _Reading()
    for row in _list_current(rows, region, today):
        _read_row(row, by_stem, reading)
    prices: dict[str, dict[str, float]] = {}
    elsewhere: dict[tuple[str, str, Scope], list[str]] = {}
    deployed = DEPLOYED.get(sku)
    scope_of = {model.id: model.trained for model in models}
    for (model_id, price, scope), amounts in reading.amounts.items():
        wanted_scope = scope_of[model_id] if price.startswith("training") else deployed
        if scope != wanted_scope:
            if wanted_scope is not None:
                elsewhere.setdefault((model_id, price, wanted_scope), []).append(scope)
        elif len(amounts) > 1:
            listed = ", ".join(f"{amount:g} ({name})" for amount, name in sorted(amounts.items()))
            reading.not_used.append(f"{model_id}: several prices of {price}: {listed}")
        else:
            prices.setdefault(model_id, {})[price] = next(iter(amounts))
    for (model_id, price, wanted_scope), scopes in elsewhere.items():
        if (model_id, price, wanted_scope) not in reading.amounts and not price.startswith("base_"):
            alternatives = " and ".join(sorted(scopes))
            reading.not_used.append(
                f"{model_id}: the price of {price} is listed as {alternatives}, not as {wanted_scope}"
            )
    strangers = [
        f"{stem or 'meters without a name'} ({count} meter{'s' if count > 1 else ''}): belongs to no model here"
        for stem, count in sorted(reading.strangers.items())
    ]
    return core.PriceAnswer(
        prices=prices, not_used=(*reading.not_used, *strangers), region=f"{region}, deployed as {sku}"
    )


def _list_current(rows: Sequence[Mapping[str, Any]], region: str, today: date) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of pay as you go in the region that hold today; of one meter only the newest."""
    newest: dict[str, Mapping[str, Any]] = {}
    for number, row in enumerate(rows):
        start, end = str(row.get("effectiveStartDate") or "")[:10], str(row.get("effectiveEndDate") or "9")[:10]
        if row.get("type") != "Consumption" or row.get("armRegionName") != region or not start <= f"{today}" < end:
            continue
        key = f"{row.get('meterId') or number} {row.get('tierMinimumUnits')} {row.get('currencyCode')}"
        if key not in newest or start > str(newest[key].get("effectiveStartDate"))[:10]:
            newest[key] = row
    yield from newest.values()


def _read_row(row: Mapping[str, Any], by_stem: Mapping[str, Model], reading: _Reading) -> None:
    name = str(row.get("skuName") or row.get("meterName") or "")[:120]
    meter = read_meter(name)
    if meter is None:
        if re.search(r"\bft\b", name.lower()):
            reading.not_used.append(f"{name}: its words contradict each other")
        return
    model = by_stem.get(meter.stem)
    if model is None:
        if meter.tuned or any("ft" in term and term != "microsoft" for term in meter.stem.split()):
            reading.strangers[meter.stem] += 1
        return
    if not meter.tuned and (meter.kind not in ("input", "output") or meter.scope is None):
        return
    amount = read_amount(row)
    if isinstance(amount, str):
        if meter.tuned or amount.startswith("priced in"):
            reading.not_used.append(f"{name}: {amount}")
        return
    measure, value = amount
    kind, scope = meter.kind, meter.scope
    if model.open:
        kind = kind or ("training" if measure == "tokens" else "hosting")
        scope = scope or "global"
    if kind == "training" and measure == "hour":
        kind = "training_hour"
    billed_by = "hour" if kind in ("training_hour", "hosting") else "tokens"
    if not kind or scope is None or measure != billed_by:
        missing = "what is billed" if not kind else "where it holds" if scope is None else f"why it is by {measure}"
        reading.not_used.append(f"{name}: its name does not say {missing}")
        return
    price = kind if meter.tuned else f"base_{kind}"
    reading.amounts.setdefault((model.id, price, scope), {}).setdefault(value, name)


def fetch_rows(address: str, region: str) -> list[Mapping[str, Any]]:
    """Return the meters of Foundry's models in a region: all pages, asked without any credential.

    Raises:
        VendorError: the list refuses, or its pages do not end or lead elsewhere.
        TransientError: it cannot be reached.
    """
    client = core.Client(address, timeout=_SECONDS)
    filters = {"serviceName": SERVICE, "armRegionName": region, "priceType": "Consumption"}
    query = {
        "api-version": API_VERSION,
        "currencyCode": "'USD'",
        "$filter": " and ".join(f"{name} eq '{value}'" for name, value in filters.items()),
    }
    rows: list[Mapping[str, Any]] = []
    asked_queries: list[dict[str, str]] = []
    while query not in asked_queries and len(asked_queries) < MAX_PAGES:
        asked_queries.append(query)
        answer = client.get("", **query)
        items = answer.get("Items") if isinstance(answer, Mapping) else None
        if not isinstance(items, list):
            raise VendorError(f"{address}: asking for prices: the answer lists no Items")
        rows += [meter for meter in items if isinstance(meter, Mapping)]
        if not (following := answer.get("NextPageLink")):
            break
        query = _read_link(str(following), address)
    else:
        raise VendorError(f"{address}: asking for prices: the list does not end within {len(asked_queries)} pages")
    if not rows:
        raise InvalidSettings(
            f"Azure lists no prices of {SERVICE} in {region!r}",
            hint='write the region as Azure does: region = "eastus2"',
        )
    return rows


def _read_link(link: str, address: str) -> dict[str, str]:
    """Return the query of the next page. It must lie where the first one does, or `VendorError` is raised."""
    ports = {"https": 443, "http": 80}
    try:
        target, origin = urlsplit(link), urlsplit(address)
        hosts = {(url.scheme, url.hostname, url.port or ports.get(url.scheme)) for url in (target, origin)}
        query = dict(parse_qsl(target.query, keep_blank_values=True))
    except ValueError:
        hosts, query = set(), {}
    if len(hosts) != 1:
        raise VendorError(f"{address}: asking for prices: its next page is at another address, which is not followed")
    return query
