"""Regions as a hard condition: by name, or by area."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmtune.planning.regions import explain_other_prices, select_regions
from llmtune.provider.declarations import DECLARED_FIELDS, Capabilities, Declarations, Unsupported
from llmtune.provider.limits import Limits

REGIONS = ("us-east-1", "eu-west-1", "eu-west-2", "europe-west6", "europe-west4", "global", "ap-northeast-1")


def test_a_region_is_that_one_and_an_area_those_within_it() -> None:
    assert select_regions("eu-west-1", REGIONS) == ("eu-west-1",)
    assert select_regions("eu", REGIONS) == ("eu-west-1", "europe-west4"), "London and Zurich are outside the Union"
    assert select_regions("us", REGIONS) == ("us-east-1",)
    assert select_regions("eu-central-1", REGIONS) == ()
    assert select_regions("eu", ()) == ()
    assert select_regions("eu", ("global", "")) == ()


def test_prices_of_another_region_do_not_hold() -> None:
    assert explain_other_prices("us-east-1", REGIONS, "us-east-1") is None
    assert explain_other_prices("eu", REGIONS, "us-east-1, eu-west-1") is None
    assert explain_other_prices("eu", REGIONS, "") is None, "they hold everywhere"
    assert explain_other_prices("eu", REGIONS, "us-east-1") == "the prices known are those of us-east-1"


@pytest.mark.parametrize(
    ("stated", "account", "regions"),
    [
        (("a", "b"), None, ("a", "b")),
        (("a", "b"), "b", ("b",)),
        (("a", "b"), "c", ()),
        ((), "c", ("c",)),
        ((), None, ()),
    ],
)
def test_the_region_of_the_account_is_where_it_trains(
    stated: tuple[str, ...], account: str | None, regions: tuple[str, ...]
) -> None:
    nothing = Declarations(**{name: Unsupported("no parameter") for name in DECLARED_FIELDS})
    capabilities = replace(Capabilities(parameters=nothing, family="f", limits=Limits()), regions=stated)
    assert capabilities.in_region(account).regions == regions
