"""Costs: a formula anybody can check, and an honest 'unknown'."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from llmtune.provider.cost import CostEstimate, estimate
from llmtune.provider.declarations import DECLARED_FIELDS, Capabilities, Declarations, Unsupported
from llmtune.provider.limits import Limits, Price

NOTHING = Declarations(**{name: Unsupported("no knob") for name in DECLARED_FIELDS})


def cost(price: Price, **given: Any) -> CostEstimate:
    capabilities = Capabilities(parameters=NOTHING, family="f", limits=Limits(), price=price)
    facts: dict[str, Any] = {"training_tokens": 2_000_000, "tokens_estimated": False, "epochs": 3}
    return estimate(capabilities, **(facts | given))


PRICE = Price(training=25.0, input=3.0, hosting=1.7, source="price page", checked=date(2026, 11, 21))


def test_training_is_tokens_times_epochs_times_price() -> None:
    found = cost(PRICE)
    assert found.total == pytest.approx(150.0)
    assert found.formula == "2,000,000 tokens x 3 epochs x 25 USD per million = 150.00"
    assert (found.source, found.checked) == ("price page", date(2026, 11, 21))


def test_evaluation_and_hosting_are_told_apart() -> None:
    found = cost(PRICE, evaluation_tokens=100_000, hosting_hours=2)
    assert found.evaluation == pytest.approx(0.3)
    assert found.hosting == pytest.approx(3.4)
    assert found.total == pytest.approx(153.7)


def test_an_estimate_says_that_it_is_one() -> None:
    assert cost(PRICE, tokens_estimated=True).formula.startswith("about 2,000,000 tokens")


@pytest.mark.parametrize(
    ("price", "given", "words"),
    [
        (Price(), {}, "training price is not published"),
        (Price(note="ask sales"), {}, "ask sales"),
        (PRICE, {"training_tokens": None}, "could not be read"),
        (PRICE, {"epochs": None}, "one epoch is 50.00 USD"),
        (Price(training=1.0), {"evaluation_tokens": 10}, "inference price is not known"),
        (Price(training=1.0), {"hosting_hours": 1}, "hosting price is not known"),
    ],
)
def test_what_is_not_known_is_never_zero(price: Price, given: dict[str, Any], words: str) -> None:
    found = cost(price, **given)
    assert found.total is None
    assert words in (found.unknown or "")
    assert found.sentence().startswith("unknown: ")


def test_epochs_that_the_vendor_names_later_change_the_estimate() -> None:
    asked = cost(PRICE, evaluation_tokens=100_000, hosting_hours=2)
    used = asked.for_epochs(1)
    assert used == cost(PRICE, evaluation_tokens=100_000, hosting_hours=2, epochs=1)
    assert asked.for_epochs(None) == asked
    assert asked.for_epochs("auto") == asked


def test_epochs_that_were_left_to_the_vendor_complete_the_estimate() -> None:
    left = cost(PRICE, evaluation_tokens=100_000, epochs=None)
    assert left.total is None
    assert left.for_epochs(4) == cost(PRICE, evaluation_tokens=100_000, epochs=4)
    blind = cost(Price(training=1.0), evaluation_tokens=10, epochs=None).for_epochs(4)
    assert blind.training == pytest.approx(8.0)
    assert blind.total is None
    assert "not known" in str(blind.unknown)
