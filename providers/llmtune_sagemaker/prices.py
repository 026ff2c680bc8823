"""AWS's price list: what serverless customization of a model costs in one region.

A product there has the model's name in the hub (`modelname`), the region (`regionCode`), what is done (`component`:
"MultiTurnRFT:Finetuning") and the tokens that are counted (`tokentype`: Train, Prefill, Sample), and is priced by the
million tokens (AWS's workshop on reinforcement learning with SageMaker, 2026, which asks this list). How the components
of SFT and DPO are spelled is not published: one that begins with the technique as jobs name it is read, and any other
is named, not guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import llmtune.provider as core
from llmtune_bedrock.prices import list_dimensions
from llmtune_sagemaker.recipes import TECHNIQUES

SERVICE_CODE = "AmazonSageMaker"

#: Answers that are read for one model; each has up to 100 products.
MAX_PAGES = 20

#: The methods whose price is one of the training file's tokens; RLVR is billed by those that the model writes.
_BY_TOKEN = {method: technique for method, technique in TECHNIQUES.items() if method != "reinforcement"}
_METHODS = {f"{technique}:finetuning".lower(): method for method, technique in _BY_TOKEN.items()}


def build_query(model: str, region: str) -> dict[str, Any]:
    """Return the arguments of GetProducts for all prices of a model in a region."""
    fields = {"regionCode": region, "modelname": model}
    return {
        "ServiceCode": SERVICE_CODE,
        "Filters": [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in fields.items()],
        "MaxResults": 100,
    }


@dataclass
class Reading:
    """Prices of models as they are read: amounts for a million training tokens by model and method."""

    amounts: dict[str, dict[str, set[float]]] = field(default_factory=dict)
    not_used: dict[str, None] = field(default_factory=dict)

    def add(self, model: str, products: Iterable[Any]) -> None:
        """Read the products that GetProducts answered for a model."""
        for attributes, text in _list_products(products):
            component, tokens = (str(attributes.get(name) or "") for name in ("component", "tokentype"))
            title = f"{model}, {component or 'no component'}{f', {tokens} tokens' if tokens else ''}"[:200]
            method = _METHODS.get(component.lower())
            if method is None or tokens.lower() not in ("train", ""):
                self.not_used[f"{title}: no training by {' or '.join(_BY_TOKEN.values())}"] = None
                continue
            for dimension in list_dimensions({"PriceList": [text]}):
                amount = _read_amount(dimension)
                if isinstance(amount, str):
                    self.not_used[f"{title}: {amount}"] = None
                else:
                    self.amounts.setdefault(model, {}).setdefault(method, set()).add(amount)

    def answer(self, methods: Mapping[str, Iterable[str]], region: str) -> core.PriceAnswer:
        """Return the prices of models, by the methods that each of them is tuned with."""
        prices: dict[str, dict[str, float]] = {}
        by_method: dict[str, dict[str, float]] = {}
        for model, amounts in self.amounts.items():
            single: dict[str, float] = {}
            for method, candidates in amounts.items():
                if len(candidates) == 1:
                    single[method] = next(iter(candidates))
                else:
                    listed = ", ".join(f"{amount:g}" for amount in sorted(candidates))
                    self.not_used[f"{model}: several prices of {TECHNIQUES[method]}: {listed}"] = None
            if single and len({*single.values()}) == 1 and set(methods[model]) <= single.keys():
                prices[model] = {"training": next(iter(single.values()))}
            elif single:
                by_method[model] = single
                if set(methods[model]) <= single.keys():
                    prices[model] = {"training": single.get("sft", max(single.values()))}
        return core.PriceAnswer(prices=prices, by_method=by_method, not_used=(*self.not_used,), region=region)


def _list_products(products: Iterable[Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the attributes of each product, with its text; what is odd is left out."""
    for text in products:
        try:
            attributes = json.loads(text)["product"]["attributes"]
        except (KeyError, TypeError, ValueError, RecursionError):
            continue
        if isinstance(attributes, Mapping):
            yield attributes, text


def _read_amount(dimension: Mapping[str, Any]) -> float | str:
    """Return the price of a million tokens, or a clause that says why it is not understood."""
    try:
        amount = float(dimension["pricePerUnit"]["USD"])
    except (KeyError, TypeError, ValueError):
        return "without an amount in USD"
    unit = str(dimension.get("unit")).lower()
    if unit.startswith(("1k", "1000 ", "1,000 ")):
        return round(amount * 1000, 9)
    if unit.startswith(("1m", "1,000,000", "million")):
        return amount
    return f"priced per {str(dimension.get('unit'))[:40]}"
