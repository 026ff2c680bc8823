"""AWS's price list: what Bedrock charges for tuning a model, for its answers, and for keeping it.

Each price is a usage type of its own: a prefix that stands for region and model (`price_list` in the catalogue), and an
ending that says what is billed, as "USE1-NovaMicro-Customization-Training" (AWS Price List API, as third parties read
it in 2026).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

#: The region of the price list's own service, whatever region is priced (AWS, Price List Query API, endpoints).
REGION = "us-east-1"
SERVICE_CODE = "AmazonBedrock"

ENDINGS: Mapping[str, str] = {
    "training": "Customization-Training",
    "storage": "Customization-Storage",
    "input": "input-tokens-custom-model",
    "output": "output-tokens-custom-model",
    "hosting": "ProvisionedThroughput-NoCommit-ModelUnits",
    "base_input": "input-tokens",
    "base_output": "output-tokens",
}
_PER_TOKENS = ("training", "input", "output", "base_input", "base_output")


def build_query(prefix: str, price: str) -> dict[str, Any]:
    """Return the arguments of GetProducts for one price of a model."""
    usage_type = f"{prefix}-{ENDINGS[price]}"
    return {
        "ServiceCode": SERVICE_CODE,
        "Filters": [{"Type": "TERM_MATCH", "Field": "usagetype", "Value": usage_type}],
        "MaxResults": 10,
    }


def read_price(answer: Mapping[str, Any], price: str) -> float | None:
    """Return the price that GetProducts answered, in the unit of `PRICE_UNITS`; None where there is none.

    Tokens are priced by the thousand or the million, as the unit says ("1K tokens"); another unit is not understood.
    """
    for dimension in list_dimensions(answer):
        try:
            amount = float(dimension["pricePerUnit"]["USD"])
            unit = str(dimension["unit"]).lower()
        except (KeyError, TypeError, ValueError):
            continue
        if price not in _PER_TOKENS:
            return amount
        if unit.startswith(("1k", "1000 ", "1,000 ")):
            return round(amount * 1000, 9)
        if unit.startswith(("1m", "1,000,000")):
            return amount
    return None


def list_dimensions(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what GetProducts answered about prices on demand: amounts with their units. What is odd is left out."""
    for text in answer.get("PriceList") or ():
        try:
            product = json.loads(text)
            terms = product["terms"]["OnDemand"].values()
            yield from (dimension for term in terms for dimension in term["priceDimensions"].values())
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
