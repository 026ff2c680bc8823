"""Totals and break-even against tables worked out by hand."""

from __future__ import annotations

import pytest

from llmtune.errors import InvalidJob
from llmtune.planning.total_cost import (
    HOURS_PER_MONTH,
    Traffic,
    find_break_even,
    parse_traffic,
    price_machine,
    price_tokens,
    price_tuned,
    sum_usage,
)
from llmtune.provider.cost import CostEstimate
from llmtune.provider.limits import Price

#: 100,000 answers a month of 600 tokens in and 80 out: 60 million tokens in, 8 million out.
TRAFFIC = Traffic(answers_per_month=100_000, prompt_tokens=600, answer_tokens=80, months=12, few_shot_tokens=2_000)
#: Prices of a tuned and an untuned model whose answers cost twice as much tuned.
TOKENS = Price(training=5.0, input=0.8, output=3.2, base_input=0.4, base_output=1.6)


@pytest.mark.parametrize(
    ("text", "answers"),
    [("100k/month", 100_000), ("1200/year", 100), ("1.5m/month", 1_500_000), (" 7 / day ", 7 * 365.25 / 12)],
)
def test_traffic_is_a_number_of_answers_in_a_time(text: str, answers: float) -> None:
    assert parse_traffic(text) == pytest.approx(answers)


@pytest.mark.parametrize("text", ["", "100k", "0/month", "-1/day", "1e3/month", "k/month", "5/hour", "nan/day"])
def test_what_is_no_traffic_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(InvalidJob, match="is not a number of answers per day, week, month or year"):
        parse_traffic(text)


def test_a_week_is_a_share_of_a_month() -> None:
    assert parse_traffic("12/week") == pytest.approx(12 * 365.25 / 7 / 12)


# By hand, in USD a month: tuned 60 x 0.8 + 8 x 3.2 = 48 + 25.6 = 73.6; base 60 x 0.4 + 8 x 1.6 = 24 + 12.8 = 36.8;
# few-shot (600 + 2,000) x 100,000 = 260 million in: 260 x 0.4 + 12.8 = 104 + 12.8 = 116.8.
def test_a_month_by_hand() -> None:
    assert price_tokens(TRAFFIC, 0.8, 3.2) == pytest.approx(73.6)
    assert price_tokens(TRAFFIC, 0.4, 1.6) == pytest.approx(36.8)
    assert price_tokens(TRAFFIC, 0.4, 1.6, TRAFFIC.few_shot_tokens) == pytest.approx(116.8)
    assert price_tokens(TRAFFIC, None, 1.6) is None


# Training 30 once. Against few-shot: 30 / (116.8 - 73.6) = 30 / 43.2 = 0.6944 months = 69,445 answers.
# A year tuned: 30 + 12 x 73.6 = 913.2; few-shot: 12 x 116.8 = 1,401.6.
def test_break_even_by_hand_where_answers_are_billed_by_the_token() -> None:
    tuned = price_tuned(TRAFFIC, CostEstimate(training=30.0), TOKENS, hosted_by_the_hour=False)
    few_shot = sum_usage("few-shot", TRAFFIC, 0.0, 116.8, 0.0)
    base = sum_usage("base model", TRAFFIC, 0.0, 36.8, 0.0)
    assert tuned.total == pytest.approx(913.2)
    assert few_shot.total == pytest.approx(1401.6)
    found = find_break_even(TRAFFIC, tuned, few_shot)
    assert found.months == pytest.approx(30 / 43.2)
    assert found.answers == 69_445
    never = find_break_even(TRAFFIC, tuned, base)
    assert never.months is None
    assert never.reason == "never at this traffic: a month costs 73.60 (tuned) against 36.80 (base model)"


# Hosting 1.7 an hour is 1.7 x 730.5 = 1,241.85 a month, whatever is asked: at 100,000 answers it never pays against
# few-shot at 116.8; at 2 million answers a month few-shot costs 2,336 and tuned 1,472 + 1,241.85: still not; at 10
# million few-shot costs 11,680, tuned 7,360 + 1,241.85 = 8,601.85: it pays after 30 / 3,078.15 months.
@pytest.mark.parametrize(("answers", "months"), [(100_000, None), (2_000_000, None), (10_000_000, 30 / 3078.15)])
def test_break_even_by_hand_where_a_deployment_stands(answers: float, months: float | None) -> None:
    traffic = TRAFFIC.model_copy(update={"answers_per_month": answers})
    price = Price(training=5.0, input=0.8, output=3.2, hosting=1.7, billed=("training", "input", "output", "hosting"))
    tuned = price_tuned(traffic, CostEstimate(training=30.0), price, hosted_by_the_hour=True)
    assert tuned.standing == pytest.approx(1241.85)
    few_shot = sum_usage("few-shot", traffic, 0.0, price_tokens(traffic, 0.4, 1.6, 2_000), 0.0)
    found = find_break_even(traffic, tuned, few_shot)
    assert found.months == (None if months is None else pytest.approx(months))


def test_storage_is_paid_each_month_and_unknown_hosting_leaves_the_total_unknown() -> None:
    price = Price(input=1.0, output=1.0, storage=1.95, billed=("training", "input", "output", "storage"))
    stored = price_tuned(TRAFFIC, CostEstimate(training=0.0), price, hosted_by_the_hour=False)
    assert stored.total == pytest.approx(12 * (68.0 + 1.95))
    price = Price(storage=1.95, billed=("training", "hosting", "storage"))
    unknown = price_tuned(TRAFFIC, CostEstimate(training=1.0), price, hosted_by_the_hour=True)
    assert (unknown.total, unknown.unknown) == (None, "the price of hosting is not known")
    reason = find_break_even(TRAFFIC, unknown, sum_usage("few-shot", TRAFFIC, 0.0, 1.0, 0.0)).reason
    assert reason == "the price of hosting is not known"


# A machine at 0.80 an hour: 4 hours of training = 3.20 once, 0.8 x 730.5 = 584.40 a month, 7,016.00 a year.
def test_a_rented_machine_by_hand_and_ones_own_is_paid_for() -> None:
    rented = price_machine(TRAFFIC, 4.0, 0.8)
    assert (rented.once, rented.standing) == (pytest.approx(3.2), pytest.approx(0.8 * HOURS_PER_MONTH))
    assert rented.total == pytest.approx(3.2 + 12 * 584.4)
    assert price_machine(TRAFFIC, None, 0.8).unknown == "the price of training is not known"
    own = price_machine(TRAFFIC, 4.0, None)
    assert own.total == 0.0
    assert find_break_even(TRAFFIC, own, sum_usage("few-shot", TRAFFIC, 0.0, 1.0, 0.0)).months == 0.0


def test_a_model_that_the_vendor_does_not_serve_has_no_price_of_answers() -> None:
    found = price_tuned(TRAFFIC, CostEstimate(training=1.0), Price(billed=("training",)), hosted_by_the_hour=False)
    assert (found.tokens, found.unknown) == (None, "the price of answers is not known")
    hosted = Price(billed=("training", "hosting"), hosting=6.49)
    assert price_tuned(TRAFFIC, CostEstimate(training=1.0), hosted, hosted_by_the_hour=True).tokens == 0.0


# 4.05 an hour x 730.5 hours = 2,958.525 a month, however much it answers: no tokens are billed beside it.
def test_a_vendor_that_bills_hosting_alone_is_paid_for_standing() -> None:
    price = Price(training=0.4, hosting=4.05, billed=("training", "hosting"))
    tuned = price_tuned(TRAFFIC, CostEstimate(training=1.0), price, hosted_by_the_hour=False)
    assert tuned.tokens == 0.0
    assert tuned.standing == pytest.approx(2958.525)
    assert tuned.total == pytest.approx(1 + 12 * 2958.525)


def test_a_rented_machine_is_billed_by_the_minute_begun() -> None:
    assert price_machine(TRAFFIC, 61.5 / 60, 6.0).once == pytest.approx(62 / 60 * 6)
    assert price_machine(TRAFFIC, 1.0, 6.0).once == pytest.approx(6.0)
    assert price_machine(TRAFFIC, 1.0, 0.0).total == 0.0, "a price of zero is a price"
