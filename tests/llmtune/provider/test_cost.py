"""Costs: a formula anybody can check, and an honest 'unknown'."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from llmtune.provider.cost import Answers, CostEstimate, estimate
from llmtune.provider.declarations import DECLARED_FIELDS, Capabilities, Declarations, Unsupported
from llmtune.provider.limits import EpochRange, Limits, Price

NOTHING = Declarations(**{name: Unsupported("no parameter") for name in DECLARED_FIELDS})


def cost(price: Price, **options: Any) -> CostEstimate:
    capabilities = Capabilities(parameters=NOTHING, family="f", limits=Limits(), price=price)
    facts: dict[str, Any] = {"training_tokens": 2_000_000, "tokens_estimated": False, "epochs": 3}
    return estimate(capabilities, **(facts | options))


PRICE = Price(training=25.0, input=3.0, hosting=1.7, source="price page", checked=date(2026, 11, 21))


def test_training_is_tokens_times_epochs_times_price() -> None:
    estimated = cost(PRICE)
    assert estimated.total == pytest.approx(150.0)
    assert estimated.formula == "2,000,000 tokens x 3 epochs x 25 USD per million = 150.00"
    assert (estimated.source, estimated.checked) == ("price page", date(2026, 11, 21))


def test_evaluation_and_hosting_are_told_apart() -> None:
    estimated = cost(PRICE, answers=[Answers("evaluation", 100_000)], hosting_hours=2)
    assert estimated.evaluation == pytest.approx(0.3)
    assert estimated.hosting == pytest.approx(3.4)
    assert estimated.total == pytest.approx(153.7)


def test_an_estimate_says_that_it_is_one() -> None:
    assert cost(PRICE, tokens_estimated=True).formula.startswith("about 2,000,000 tokens")


@pytest.mark.parametrize(
    ("price", "options", "reason"),
    [
        (Price(), {}, "training price is not published"),
        (Price(note="ask sales"), {}, "ask sales"),
        (PRICE, {"training_tokens": None}, "could not be read"),
        (PRICE, {"epochs": None}, "one epoch is 50.00 USD"),
        (Price(training=1.0), {"hosting_hours": 1}, "hosting price is not known"),
    ],
)
def test_what_is_not_known_is_never_zero(price: Price, options: dict[str, Any], reason: str) -> None:
    estimated = cost(price, **options)
    assert estimated.total is None
    assert reason in (estimated.unknown or "")
    assert estimated.sentence().startswith("unknown: ")


def test_epochs_that_the_vendor_names_later_change_the_estimate() -> None:
    planned = cost(PRICE, answers=[Answers("evaluation", 100_000)], hosting_hours=2)
    used = planned.for_epochs(1)
    assert used == cost(PRICE, answers=[Answers("evaluation", 100_000)], hosting_hours=2, epochs=1)
    assert planned.for_epochs(None) == planned
    assert planned.for_epochs("auto") == planned


def test_epochs_that_were_left_to_the_vendor_complete_the_estimate() -> None:
    incomplete = cost(PRICE, answers=[Answers("evaluation", 100_000)], epochs=None)
    assert incomplete.total is None
    assert incomplete.for_epochs(4) == cost(PRICE, answers=[Answers("evaluation", 100_000)], epochs=4)
    blind = cost(Price(training=1.0), hosting_hours=1, epochs=None).for_epochs(4)
    assert blind.training == pytest.approx(8.0)
    assert blind.total is None
    assert "not known" in str(blind.unknown)


def in_range(low: int, high: int | None, price: Price = PRICE, **options: Any) -> CostEstimate:
    chosen = EpochRange(low, high, "the vendor chooses", "its page")
    capabilities = Capabilities(parameters=NOTHING, family="f", limits=Limits(), price=price, epochs_if_unset=chosen)
    facts: dict[str, Any] = {"training_tokens": 2_000_000, "tokens_estimated": False, "epochs": None}
    return estimate(capabilities, **(facts | options))


def test_epochs_that_the_vendor_chooses_make_a_range_whose_upper_end_counts() -> None:
    estimated = in_range(1, 3, answers=[Answers("evaluation", 100_000)])
    assert (estimated.low, estimated.total) == (pytest.approx(50.3), pytest.approx(150.3))
    assert estimated.sentence() == "50.30 to 150.30 USD (the vendor chooses)"
    assert "1 to 3 epochs x 25 USD per million = 50.00 to 150.00" in estimated.formula
    assert estimated.for_epochs(3) == cost(PRICE, answers=[Answers("evaluation", 100_000)])


def test_one_epoch_is_stated_where_no_most_is_published() -> None:
    estimated = in_range(1, None)
    assert estimated.total is None
    assert estimated.lines[0].low == pytest.approx(50.0)
    assert estimated.unknown == "the vendor chooses; one epoch is 50.00 USD"


def test_each_model_that_answers_has_a_line_and_its_own_prices() -> None:
    price = Price(training=25.0, input=3.0, output=12.0, base_input=2.0, base_output=8.0)
    asked = [
        Answers("evaluation", 1_000_000, 100_000),
        Answers("base model", 1_000_000, 100_000, tuned=False),
        Answers("few-shot baseline", 4_000_000, 100_000, tuned=False),
    ]
    estimated = cost(price, answers=asked)
    assert [(line.name, line.high) for line in estimated.lines] == [
        ("training", pytest.approx(150.0)),
        ("evaluation", pytest.approx(4.2)),
        ("base model", pytest.approx(2.8)),
        ("few-shot baseline", pytest.approx(8.8)),
    ]
    assert estimated.evaluation == pytest.approx(15.8)
    assert estimated.total == pytest.approx(165.8)


def test_answers_without_a_price_are_named_not_counted_as_free() -> None:
    estimated = cost(Price(training=1.0), answers=[Answers("evaluation", 10)])
    assert estimated.sentence() == "6.00 USD, without evaluation: the price of its answers is not published"


def test_a_job_costs_its_minimum_and_a_deployment_its_least_hours() -> None:
    price = Price(training=0.1, training_minimum=4.0, hosting=2.0, hosting_minimum=3.0)
    estimated = cost(price, hosting_hours=1)
    assert (estimated.training, estimated.hosting) == (4.0, 6.0)
    assert "the least for a job" in estimated.formula


def test_the_page_that_was_looked_at_is_named_where_a_price_is_unknown() -> None:
    price = Price(note="not published", source="their page", checked=date(2026, 12, 1))
    assert cost(price).unknown == "not published (looked at their page, 2026-12-01)"


def test_a_method_and_an_adapter_can_have_a_price_of_their_own() -> None:
    price = Price(training=1.0, by_method={"dpo": 2.0, "dpo/full": 3.0, "full": 1.5})
    found = [price.for_target(*pair).training for pair in (("sft", "lora"), ("dpo", "lora"), ("dpo", "full"))]
    assert found == [1.0, 2.0, 3.0]
    assert price.for_target("sft", "full").training == 1.5


def test_unknown_are_the_prices_that_are_billed_and_missing() -> None:
    assert Price().unknown() == ("training", "input", "output")
    assert Price(training_hour=100.0, input=1.0, output=2.0).unknown() == ()
    assert Price(training=1.0, billed=("training", "hosting")).unknown() == ("hosting",)
