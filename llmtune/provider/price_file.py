"""The user's own prices, laid over every catalogue: a TOML file of tables `[PROVIDER."MODEL"]`, checked as a whole."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

from llmtune import _clock
from llmtune.errors import InvalidSettings, UnknownName
from llmtune.provider.limits import PRICE_UNITS, Price

#: What a table of the file may hold.
KEYS = tuple(field.name for field in fields(Price))

_NUMBERS = (*PRICE_UNITS, "hosting_minimum")
_TEXTS = ("currency", "region", "source", "note")


def read_price_file(path: Path) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return the prices of the file by provider and model; none where there is no file.

    Raises:
        InvalidSettings: something is wrong with the file. The message is the first error, the hint lists the others:
            a sentence for each, with the table, what is wrong, and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path}: the price file cannot be read: {error}") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(f"{path}: broken TOML: {error}") from None
    errors = [f"{path}: {problem}" for problem in find_errors(data)]
    if errors:
        raise InvalidSettings(errors[0], hint="\n".join(errors[1:]) or None)
    return {
        provider: {model: {"source": f"your price file ({path})"} | prices for model, prices in models.items()}
        for provider, models in data.items()
    }


def find_errors(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence for each error in the data of a price file."""
    example = '[PROVIDER."MODEL"] with training = 5.0'
    for provider, models in data.items():
        if not isinstance(models, Mapping):
            yield f"{provider} is no table: prices stand by provider and model, as in {example}"
            continue
        for model, prices in models.items():
            if not isinstance(prices, Mapping):
                yield f"{provider}.{model} is no table of a model's prices, as in {example}"
                continue
            for key, value in prices.items():
                if problem := _find_problem(key, value):
                    yield f'[{provider}."{model}"] {problem}'


def _find_problem(key: str, value: Any) -> str | None:
    """Return what is wrong with one line of a model's prices; None where nothing is."""
    problem: str | None = None
    if key not in KEYS:
        problem = UnknownName("price", key, KEYS).message
    elif key in _NUMBERS:
        problem = None if _is_price(value) else f"{key} is {value!r}: write a number of at least 0"
    elif key in _TEXTS and not isinstance(value, str):
        problem = f"{key} is {value!r}: write a text"
    elif key == "currency" and value != "USD":
        problem = f"currency is {value!r}: convert the prices to USD, in which budgets are given"
    elif key == "checked":
        if not isinstance(value, date):
            problem = f"checked is {value!r}: write the day without quotes, as in 2026-11-30"
        elif value > _clock.today():
            problem = f"checked is {value}, which is in the future: write the day on which the price was read"
    elif key == "billed" and not (isinstance(value, list) and set(map(str, value)) <= set(PRICE_UNITS)):
        problem = f"billed is {value!r}: write a list of {', '.join(PRICE_UNITS)}"
    elif key == "by_method" and not (isinstance(value, Mapping) and all(map(_is_price, value.values()))):
        problem = f'by_method is {value!r}: write training prices by method or adapter, as in {{ "dpo/lora" = 1.2 }}'
    elif key == "sources" and not (isinstance(value, Mapping) and set(value) <= set(PRICE_UNITS)):
        problem = f'sources is {value!r}: write the page of a price by its name, as in {{ hosting = "..." }}'
    return problem


def _is_price(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
