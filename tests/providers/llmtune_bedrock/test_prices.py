"""AWS's price list: asked by usage type, read by unit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtune.errors import LlmtuneError
from llmtune_bedrock.fake.service import FakeBedrock
from llmtune_bedrock.prices import build_query, read_price
from llmtune_bedrock.provider import BedrockProvider

PRO = "amazon.nova-pro-v1:0:300k"


def answer(amount: Any, unit: str) -> dict[str, Any]:
    dimension = {"unit": unit, "pricePerUnit": {"USD": amount}}
    product = {"terms": {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}}}
    return {"PriceList": [json.dumps(product)]}


def test_prices_are_asked_for_and_read_in_our_units(provider: BedrockProvider, vendor: FakeBedrock) -> None:
    prices = provider.fetch_prices([PRO, "meta.llama3-3-70b-instruct-v1:0:128k", "unknown.model"]).prices
    assert prices[PRO] == {"training": 8.0, "storage": 1.95, "input": 0.8, "output": 3.2}
    assert prices["meta.llama3-3-70b-instruct-v1:0:128k"] == {}, "what is not listed is left out"
    assert "unknown.model" not in prices
    assert vendor.complaints == []


def test_a_query_names_one_usage_type() -> None:
    assert build_query("USW2-Llama3-1-70B", "hosting")["Filters"] == [
        {
            "Type": "TERM_MATCH",
            "Field": "usagetype",
            "Value": "USW2-Llama3-1-70B-ProvisionedThroughput-NoCommit-ModelUnits",
        }
    ]


@pytest.mark.parametrize(
    ("amount", "unit", "price", "expected"),
    [
        ("0.00378", "1K tokens", "training", 3.78),
        ("0.00378", "1k Tokens", "input", 3.78),
        ("3.78", "1M tokens", "output", 3.78),
        ("0.00378", "tokens", "training", None),
        ("24.0000000000", "hour", "hosting", 24.0),
        ("free", "hour", "hosting", None),
        (None, "1K tokens", "training", None),
    ],
)
def test_a_unit_that_is_not_understood_is_no_price(amount: Any, unit: str, price: str, expected: float | None) -> None:
    assert read_price(answer(amount, unit), price) == expected


@pytest.mark.parametrize("odd", [{}, {"PriceList": None}, {"PriceList": ["{"]}, {"PriceList": ["[]", "7"]}])
def test_an_odd_answer_is_no_price(odd: dict[str, Any]) -> None:
    assert read_price(odd, "training") is None


def test_a_refusal_is_an_error_of_ours(provider: BedrockProvider, vendor: FakeBedrock) -> None:
    from llmtune.testing import refusal

    vendor.faults.add(refusal(403, "You may not.", "AccessDeniedException"), route="get_products")
    with pytest.raises(LlmtuneError, match="asking for prices"):
        provider.fetch_prices([PRO])
