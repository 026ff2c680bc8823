"""AWS's price list for serverless customization: asked by model and region, read by component and unit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtune.errors import LlmtuneError, VendorError
from llmtune.testing import refusal
from llmtune_sagemaker import prices
from llmtune_sagemaker.fake.service import FakeSageMaker
from llmtune_sagemaker.prices import Reading, build_query
from llmtune_sagemaker.provider import SageMakerProvider

QWEN = "huggingface-reasoning-qwen3-8b"
BOTH = {"m": ("sft", "dpo")}


def product(component: Any, amount: Any = "1.0", unit: str = "1M tokens", tokens: Any = "Train") -> str:
    dimension = {"unit": unit, "pricePerUnit": {"USD": amount}}
    return json.dumps(
        {
            "product": {"attributes": {"modelname": "m", "component": component, "tokentype": tokens}},
            "terms": {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}},
        }
    )


def read(*products: Any) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    reading = Reading()
    reading.add("m", products)
    answer = reading.answer(BOTH, "us-east-1")
    return dict(answer.prices), dict(answer.by_method), tuple(answer.not_used)


def test_a_query_names_model_and_region() -> None:
    assert build_query(QWEN, "eu-west-1") == {
        "ServiceCode": "AmazonSageMaker",
        "Filters": [
            {"Type": "TERM_MATCH", "Field": "regionCode", "Value": "eu-west-1"},
            {"Type": "TERM_MATCH", "Field": "modelname", "Value": QWEN},
        ],
        "MaxResults": 100,
    }


def test_one_price_for_both_methods_is_the_models() -> None:
    assert read(product("SFT:Finetuning", "2.0"), product("DPO:Finetuning", "0.002", "1K tokens")) == (
        {"m": {"training": 2.0}},
        {},
        (),
    )


def test_prices_that_differ_hold_for_their_method_alone() -> None:
    assert read(product("SFT:Finetuning", "2.0"), product("DPO:Finetuning", "4.0")) == (
        {"m": {"training": 2.0}},
        {"m": {"sft": 2.0, "dpo": 4.0}},
        (),
    )


def test_the_price_of_one_method_says_nothing_about_the_other() -> None:
    assert read(product("DPO:Finetuning", "4.0")) == ({}, {"m": {"dpo": 4.0}}, ())


@pytest.mark.parametrize(
    ("products", "clause"),
    [
        ([product("MultiTurnRFT:Finetuning")], "m, MultiTurnRFT:Finetuning, Train tokens: no training by SFT or DPO"),
        ([product("SFT:Finetuning", tokens="Sample")], "SFT:Finetuning, Sample tokens: no training by SFT or DPO"),
        ([product(None, tokens=None)], "m, no component: no training by SFT or DPO"),
        ([product("SFT:Finetuning", unit="Hour")], "priced per Hour"),
        ([product("SFT:Finetuning", "free")], "without an amount in USD"),
        ([product("SFT:Finetuning", "1"), product("SFT:Finetuning", "2")], "m: several prices of SFT: 1, 2"),
    ],
)
def test_what_cannot_be_mapped_is_named(products: list[str], clause: str) -> None:
    by_model, by_method, not_used = read(*products)
    assert (by_model, by_method) == ({}, {})
    assert len(not_used) == 1
    assert clause in not_used[0]


@pytest.mark.parametrize(
    "odd", ["{", "[]", "7", '{"product": 3}', '{"product": {"attributes": []}}', "[" * 100_000, None]
)
def test_an_odd_product_is_no_price(odd: Any) -> None:
    assert read(odd) == ({}, {}, ())


def test_all_pages_of_the_region_are_read(provider: SageMakerProvider, vendor: FakeSageMaker) -> None:
    answer = provider.fetch_prices([QWEN])
    assert answer.by_method[QWEN] == {"sft": 1.2, "dpo": 2.4}
    assert answer.region == "us-east-1"
    assert vendor.counts["get_products"] == 2
    assert vendor.complaints == []


def test_a_refusal_is_an_error_of_ours(provider: SageMakerProvider, vendor: FakeSageMaker) -> None:
    vendor.faults.add(refusal(403, "You may not.", "AccessDeniedException"), route="get_products")
    with pytest.raises(LlmtuneError, match="asking for prices"):
        provider.fetch_prices([QWEN])


def test_a_list_without_end_is_given_up(
    provider: SageMakerProvider, vendor: FakeSageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prices, "MAX_PAGES", 1)
    with pytest.raises(VendorError, match="do not end within 1 page"):
        provider.fetch_prices([QWEN])
