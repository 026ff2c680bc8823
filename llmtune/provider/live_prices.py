"""Prices that a vendor's own service answers, kept on this machine with the day on which it was asked.

They lie over the catalogue, and under the user's own catalogue and price file. Nothing here asks: `llmtune prices NAME
--live` does, and only then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from llmtune.config import home
from llmtune.errors import InvalidSettings
from llmtune.provider.limits import PRICE_UNITS


def live_price_path() -> Path:
    """Return the path of the file with the prices that services have answered. It need not be there."""
    return home() / "live-prices.json"


def read_live_prices(path: Path, kind: str) -> Mapping[str, Mapping[str, Any]]:
    """Return what one kind of service answered, as prices of a catalogue by model; none where it was not asked.

    Raises:
        InvalidSettings: the file is broken.
    """
    answered = _read(path).get(kind)
    if answered is None:
        return {}
    try:
        day, page = date.fromisoformat(answered["asked"]), str(answered["page"])
        region = str(answered.get("region") or "")
        source = f"{page}{', ' if region else ''}{region}, asked on {day}"
        rows: dict[str, dict[str, Any]] = {}
        for model, answer in answered["models"].items():
            prices, by_method = check_prices(answer), check_by_method(answer.get("by_method"))
            if not prices and not by_method:
                continue
            rows[model] = {**prices, "sources": dict.fromkeys(prices, source), "checked": day}
            if by_method or "training" in prices:  # prices by method that we ship are older than this one
                rows[model] |= {"by_method": by_method}
                rows[model]["sources"]["training"] = source
            if region:
                rows[model] |= {"region": region}
        return rows
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _broken(path) from None


def write_live_prices(
    kind: str, page: str, day: date, models: Mapping[str, Mapping[str, Any]], *, region: str = ""
) -> Path:
    """Keep what one kind of service answered, in place of what it answered before; return the file.

    `models` holds prices by model and name, and under "by_method" training prices that differ by the method; `region`
    is where they hold.

    Raises:
        InvalidSettings: the file cannot be written.
    """
    from llmtune.redaction.documents import dump_json

    path = live_price_path()
    try:
        answers = _read(path)
    except InvalidSettings:  # a broken file is replaced
        answers = {}
    answered: dict[str, dict[str, Any]] = {}
    for model, row in sorted(models.items()):
        by_method = check_by_method(row.get("by_method"))
        answered[model] = check_prices(row) | ({"by_method": by_method} if by_method else {})
    answers[kind] = {"asked": day.isoformat(), "page": page, "models": answered} | (
        {"region": region} if region else {}
    )
    unfinished = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(dump_json(answers) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise InvalidSettings(f"{path}: what the service answered cannot be kept: {error}") from None
    return path


def check_prices(prices: Any) -> dict[str, float]:
    """Return the prices by name that are numbers of at least 0; the others are left out."""
    if not isinstance(prices, Mapping):
        return {}
    return {name: float(prices[name]) for name in PRICE_UNITS if name in prices and _is_price(prices[name])}


def check_by_method(prices: Any) -> dict[str, float]:
    """Return the training prices by method that are numbers of at least 0; the others are left out."""
    if not isinstance(prices, Mapping):
        return {}
    return {str(method): float(amount) for method, amount in prices.items() if _is_price(amount)}


def _is_price(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise _broken(path) from None
    if not isinstance(data, dict):
        raise _broken(path)
    return data


def _broken(path: Path) -> InvalidSettings:
    return InvalidSettings(
        f"{path}: the prices that services answered cannot be read", hint="delete the file, and ask again"
    )
