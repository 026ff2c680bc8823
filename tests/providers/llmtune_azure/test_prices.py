"""Azure's public price list: pages, and what the words of a meter say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from llmtune.errors import InvalidSettings, LlmtuneError, VendorError
from llmtune.provider import PriceAnswer
from llmtune.testing import refusal
from llmtune.testing.fake_vendor import FakeVendor
from llmtune.testing.http import Call, route
from llmtune_azure import prices
from llmtune_azure.fake.service import FakeAzure
from llmtune_azure.prices import Meter, Model, read_meter, read_prices
from llmtune_azure.provider import AzureProvider
from llmtune_azure.settings import AzureSettings

TODAY = date(2026, 12, 1)
NANO = Model(id="nano", stems=frozenset({"gpt 4.1 nano"}))
OPEN = Model(id="open", stems=frozenset({"mnstrl 3b"}), trained="global", open=True)


def meter(name: str, amount: Any = 1.0, unit: str = "1M", **more: Any) -> dict[str, Any]:
    row = {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": amount,
        "armRegionName": "eastus2",
        "effectiveStartDate": "2026-07-01T00:00:00Z",
        "skuName": name,
        "meterName": f"{name} Tokens",
        "unitOfMeasure": unit,
        "type": "Consumption",
    }
    return row | more


def read(*rows: dict[str, Any], sku: str = "Standard") -> PriceAnswer:
    return read_prices(rows, [NANO, OPEN], region="eastus2", sku=sku, today=TODAY)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-4.1-nano FT Training global", Meter("gpt 4.1 nano", True, "training", "global")),
        ("gpt 4.1 nano dev ft training glbl Tokens", Meter("gpt 4.1 nano", True, "training", "developer")),
        ("gpt-4.1-nano-ft cached input global", Meter("gpt 4.1 nano", True, "cached_input", "global")),
        ("gpt-4.1-mini-dev-ft inpt glbl Tokens", Meter("gpt 4.1 mini", True, "input", "developer")),
        ("gpt-4o-0806-FT-Trng-glbl tkn Tokens", Meter("gpt 4o 0806", True, "training", "global")),
        ("gpt-4o-0806-FT-Hstng-regnl", Meter("gpt 4o 0806", True, "hosting", "regional")),
        ("gpt-4o-mini-0718-cached-FT-inp-glbl", Meter("gpt 4o mini 0718", True, "cached_input", "global")),
        ("GPT 5 outpt Glbl 1M Tokens", Meter("gpt 5", False, "output", "global")),
        ("o4-mini 0416 Inp glbl Tokens", Meter("o4 mini 0416", False, "input", "global")),
        ("Ministral 3B Model In-FT Tokens", Meter("ministral 3b model", True, "input", None)),
        ("Mnstrl 3B FT Deployment Hosting Unit", Meter("mnstrl 3b", True, "hosting", None)),
        ("3.3 70b FT DZ Deployment Hosting Unit", Meter("3.3 70b", True, "hosting", "data zone")),
        ("x ft input output global", None),
        ("x ft input global regional", None),
        ("x ft cached output global", None),
        ("", Meter("", False)),
    ],
)
def test_the_words_of_a_meter(name: str, expected: Meter | None) -> None:
    assert read_meter(name) == expected


def test_thousands_millions_and_hours_become_our_units() -> None:
    answer = read(
        meter("gpt-4.1-nano FT Training regional", 0.00165, "1K"),
        meter("gpt-4.1-nano ft output regional", 0.44, "1M"),
        meter("gpt-4.1-nano ft hosting regional", 1.87, "1/Hour"),
        meter("gpt 4.1 nano Inp regnl", 0.00011, "1K"),
    )
    assert answer.prices == {"nano": {"training": 1.65, "output": 0.44, "hosting": 1.87, "base_input": 0.11}}
    assert answer.not_used == ()


def test_training_by_the_hour_is_a_price_of_its_own() -> None:
    assert read(meter("gpt 4.1 nano FT training regnl", 100.0, "1 Hour")).prices == {"nano": {"training_hour": 100.0}}


def test_meters_of_an_open_model_hold_globally_and_say_by_their_unit_what_is_billed() -> None:
    rows = [
        meter("Mnstrl 3B FT", 0.001, "1K"),
        meter("Mnstrl 3B FT Deployment Hosting Unit", 0.65, "1/Hour"),
        meter("Mnstrl 3B FT DZ", 0.0011, "1K"),
    ]
    assert read(*rows, sku="GlobalStandard").prices == {"open": {"training": 1.0, "hosting": 0.65}}
    assert read(*rows, sku="ProvisionedManaged").prices == {"open": {"training": 1.0}}


@pytest.mark.parametrize(
    ("row", "clause"),
    [
        (meter("gpt-4.1-nano FT", 1.0), "its name does not say what is billed"),
        (meter("gpt-4.1-nano FT input", 1.0), "its name does not say where it holds"),
        (meter("gpt-4.1-nano FT input regnl", 1.0, "1 Hour"), "its name does not say why it is by hour"),
        (meter("gpt-4.1-nano FT input output regnl"), "its words contradict each other"),
        (meter("gpt-4.1-nano FT input regnl", 0.0), "priced at 0"),
        (meter("gpt-4.1-nano FT input regnl", "1"), "without an amount"),
        (meter("gpt-4.1-nano FT input regnl", -1.0), "without an amount"),
        (meter("gpt-4.1-nano FT input regnl", 1e308, "1K"), "without an amount"),
        (meter("gpt-4.1-nano FT input regnl", tierMinimumUnits=1000.0), "priced by how much is used"),
        (meter("gpt-4.1-nano FT input regnl", currencyCode="EUR"), "priced in EUR"),
        (meter("gpt-4.1-nano FT input regnl", unit="1 Day"), "priced per 1 Day"),
        (meter("gpt-4.2-nano FT input regnl"), "gpt 4.2 nano (1 meter): belongs to no model here"),
        (meter("gpt-4.1-nano FT input glbl"), "the price of input is listed as global, not as regional"),
    ],
)
def test_what_cannot_be_mapped_is_named(row: dict[str, Any], clause: str) -> None:
    answer = read(row)
    assert answer.prices == {}
    assert len(answer.not_used) == 1
    assert clause in answer.not_used[0]


def test_two_amounts_of_one_price_are_none() -> None:
    answer = read(meter("gpt-4.1-nano ft input regnl", 1.0), meter("gpt 4.1 nano FT inp regional", 2.0))
    assert answer.prices == {}
    assert (
        "nano: several prices of input: 1 (gpt-4.1-nano ft input regnl), 2 (gpt 4.1 nano FT inp" in answer.not_used[0]
    )
    same = read(meter("gpt-4.1-nano ft input regnl", 1.0), meter("gpt 4.1 nano FT inp regional", 1.0))
    assert same.prices == {"nano": {"input": 1.0}}


def test_only_what_holds_today_for_this_region_and_buyer_counts() -> None:
    name = "gpt-4.1-nano ft input regnl"
    answer = read(
        meter(name, 1.0, meterId="a"),
        meter(name, 2.0, meterId="a", effectiveStartDate="2026-11-01T00:00:00Z"),
        meter(name, 3.0, meterId="a", effectiveStartDate="2027-01-01T00:00:00Z"),
        meter(name, 4.0, meterId="b", effectiveEndDate="2026-10-31T23:59:59Z"),
        meter(name, 5.0, armRegionName="westeurope"),
        meter(name, 6.0, type="Reservation"),
        meter(name, 7.0, type="DevTestConsumption"),
    )
    assert answer.prices == {"nano": {"input": 2.0}}
    assert answer.not_used == ()


@pytest.fixture
def vendor() -> Iterator[FakeAzure]:
    with FakeAzure() as fake:
        yield fake


def address(fake: FakeVendor) -> str:
    return f"{fake.url}/api/retail/prices"


def test_all_pages_are_read(vendor: FakeAzure) -> None:
    rows = prices.fetch_rows(address(vendor), "eastus2")
    assert len(rows) == len(vendor.meters) // 5
    assert vendor.counts["list_meters"] == 3
    assert vendor.complaints == []
    assert {row["armRegionName"] for row in rows} == {"eastus2"}


def test_a_region_without_prices_is_one_sentence(vendor: FakeAzure) -> None:
    with pytest.raises(InvalidSettings, match="Azure lists no prices of Foundry Models in 'nowhere'"):
        prices.fetch_rows(address(vendor), "nowhere")


@pytest.mark.parametrize(
    "fault", [refusal(400, "Invalid OData parameters supplied"), refusal(429, "Too many requests")]
)
def test_a_refusal_is_an_error_of_ours(vendor: FakeAzure, fault: Any) -> None:
    vendor.faults.add(fault, route="list_meters")
    settings = AzureSettings(region="eastus2", prices_url=address(vendor))
    with pytest.raises(LlmtuneError, match=r"Invalid OData|Too many"):
        AzureProvider("azure", settings).fetch_prices(["gpt-4.1-nano-2025-04-14"])


class OddList(FakeVendor):
    """A price list whose answers are given."""

    name = "odd"
    answer: Any = None

    @route("GET", "/api/retail/prices")
    def list_meters(self, call: Call) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "lists no Items"),
        ({"Items": None}, "lists no Items"),
        ({"Items": {}}, "lists no Items"),
        ({"Items": [], "NextPageLink": "http://169.254.169.254/latest"}, "at another address, which is not followed"),
        ({"Items": [], "NextPageLink": "https://[::1"}, "at another address, which is not followed"),
        ({"Items": [], "NextPageLink": 7}, "at another address, which is not followed"),
        ({"Items": [7, None, "x"], "NextPageLink": "{url}/api/retail/prices?a=b"}, "does not end within 2 pages"),
    ],
)
def test_an_odd_list_ends_in_one_sentence(answer: Any, message: str) -> None:
    with OddList() as fake:
        if isinstance(answer, dict) and isinstance(answer.get("NextPageLink"), str):
            answer = answer | {"NextPageLink": answer["NextPageLink"].replace("{url}", fake.url)}
        fake.answer = answer
        with pytest.raises(VendorError, match=message):
            prices.fetch_rows(address(fake), "eastus2")


def test_a_list_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(OddList):
        @route("GET", "/api/retail/prices")
        def list_meters(self, call: Call) -> Any:
            skipped = int(call.query.get("$skip", "0")) + 1
            return {"Items": [meter("x")], "NextPageLink": f"{self.url}/api/retail/prices?$skip={skipped}"}

    monkeypatch.setattr(prices, "MAX_PAGES", 5)
    with Endless() as fake, pytest.raises(VendorError, match="does not end within 5 pages"):
        prices.fetch_rows(address(fake), "eastus2")
