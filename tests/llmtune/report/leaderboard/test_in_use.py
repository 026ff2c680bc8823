"""The cost in use on a board: measured tokens at the members' prices, worked out by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from llmtune.evaluation.results import Latency, MetricValue, Usage
from llmtune.metrics.intervals import Interval
from llmtune.metrics.points import NotReported
from llmtune.planning.total_cost import UsageCost
from llmtune.provider.limits import Price
from llmtune.report.leaderboard.board import Board, Entry, LeaderboardRow
from llmtune.report.leaderboard.in_use import add_use, use_cells
from llmtune.report.schema import Cost
from llmtune.report.terminal import print_report

QUALITY = MetricValue(
    name="accuracy",
    value=0.9,
    interval=Interval(low=0.8, high=0.95, method="wilson"),
    rows=100,
    says="",
    unit="share",
    better="higher",
)
#: Ten answers of 600 tokens in and 80 out.
USAGE = Usage(asked=10, cached=0, prompt_tokens=6_000, completion_tokens=800)


def row(label: str, kind: str, **changes: object) -> LeaderboardRow:
    fields: dict[str, object] = {
        "label": label,
        "kind": kind,
        "provider": "cloud",
        "model": "m",
        "quality": QUALITY,
        "usage": USAGE,
        "latency": Latency(p50=0.4, p95=1.2, answers=10),
        "price_per_1000": 0.736,
    }
    return LeaderboardRow.model_validate(fields | changes)


def board(*rows: LeaderboardRow) -> Board:
    return Board(name="router", group="g", metric="accuracy", rows=100, standings=rows, verdict=("It is so.",))


def entry(label: str, price: Price, **changes: object) -> Entry:
    fields: dict[str, object] = {"label": label, "provider": "cloud", "model": "m", "price": price, "training": 30.0}
    return Entry.model_validate(fields | changes)


def use(made: Board, label: str) -> UsageCost:
    cost = made[label].in_use
    assert isinstance(cost, UsageCost)
    return cost


# 0.736 USD per 1,000 answers: 73.60 a month for 100,000; a year with the training: 30 + 12 x 73.60 = 913.20.
def test_answers_are_priced_by_what_was_measured() -> None:
    price = Price(input=0.8, output=3.2)
    made = add_use(
        board(row("cloud", "tuned"), row("as it is", "base", price_per_1000=0.368)),
        [entry("cloud", price)],
        100_000,
        12,
    )
    tuned, base = use(made, "cloud"), use(made, "as it is")
    assert tuned.once == 30.0
    assert tuned.tokens == pytest.approx(73.6)
    assert tuned.standing == 0.0
    assert tuned.total == pytest.approx(913.2)
    assert base.once == 0.0
    assert base.total == pytest.approx(12 * 36.8)


def test_a_bill_counts_before_the_estimate() -> None:
    billed = row("cloud", "tuned", cost=Cost(billed=21.0, computed=20.0))
    computed = row("cloud", "tuned", cost=Cost(computed=20.0))
    for standing, amount in ((billed, 21.0), (computed, 20.0)):
        assert (
            use(add_use(board(standing), [entry("cloud", Price(input=1.0, output=1.0))], 1, 1), "cloud").once == amount
        )


# 6.49 an hour x 730.5 = 4,740.945 a month, and storage of 1.95.
def test_a_deployment_stands_all_month_and_its_tokens_are_not_billed() -> None:
    price = Price(hosting=6.49, storage=1.95, billed=("training", "hosting", "storage"))
    tuned = row("cloud", "tuned", price_per_1000=NotReported("not in the catalogue"))
    cost = use(add_use(board(tuned), [entry("cloud", price)], 100_000, 1), "cloud")
    assert cost.tokens == 0.0
    assert cost.standing == pytest.approx(4740.945 + 1.95)


def test_what_has_no_price_is_unknown_and_this_machine_costs_nothing() -> None:
    unknown = row("cloud", "tuned", price_per_1000=NotReported("not in the catalogue"))
    made = add_use(
        board(
            unknown, row("here", "tuned", provider="local", price_per_1000=0.0), row("linear", "linear", model="linear")
        ),
        [entry("cloud", Price()), entry("here", Price(), provider="local", hosted=False)],
        100_000,
        12,
    )
    assert use(made, "cloud").total is None
    assert use(made, "cloud").unknown == "the price of answers is not known"
    assert use(made, "here").total == 0.0
    assert use(made, "linear").total == 0.0


def test_the_board_shows_it_only_where_traffic_was_given() -> None:
    plain = board(row("cloud", "tuned"))
    assert "answers a month" not in plain.to_markdown()
    assert isinstance(plain["cloud"].in_use, NotReported)
    made = add_use(plain, [entry("cloud", Price(input=0.8, output=3.2))], 100_000, 12)
    assert use_cells(made) == [("cloud", "30.00 USD", "73.60 USD", "0.00 USD", "913.20 USD", "400 ms / 1.2 s")]
    heading = "100,000 answers a month like these, for 12 months"
    assert f"## {heading}" in made.to_markdown()
    console = Console(file=io.StringIO(), width=120)
    print_report(made, console)
    assert heading in console.file.getvalue()  # type: ignore[attr-defined]
    assert heading in made.to_html()
    assert Board.model_validate_json(made.to_json()) == made
    assert made.to_pandas()["in_use"].tolist() == [pytest.approx(913.2)]
