"""What runs have cost: each by its best amount, and sums by provider, month and tag."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.errors import UnknownName
from llmtune.provider.types import Billed, RunState
from llmtune.runs.costs import cost_run, group_costs, write_csv
from llmtune.runs.store.records import RunRecord, dump_receipt
from llmtune.runs.store.store import open_store
from tests.llmtune.planning.test_bill import a_plan
from tests.llmtune.runs.helpers import a_record

MARCH = datetime(2026, 3, 31, 23, 59, tzinfo=UTC).timestamp()
APRIL = datetime(2026, 4, 1, 0, 1, tzinfo=UTC).timestamp()


def a_run(**changes: Any) -> RunRecord:
    job = {"name": "job", "model": "m-1", "dataset": "x.jsonl", "tags": changes.pop("tags", {})}
    fields: dict[str, Any] = {"receipt": dump_receipt(a_plan()), "created": MARCH, "submits": 1, "job": job}
    return a_record(**{**fields, "state": RunState.SUCCEEDED, **changes})


def test_a_run_costs_its_bill_else_its_tokens_else_the_estimate() -> None:
    found = [
        (cost.basis, cost.spent)
        for cost in map(
            cost_run,
            [
                a_run(billed=Billed(amount=12.0, currency="USD")),
                a_run(billed=Billed(tokens=3_300_000)),
                a_run(),
                a_run(state=RunState.FAILED),
                a_run(submits=0),
                a_run(hosted=False),
                a_run(receipt={}),
            ],
        )
    ]
    assert found == [
        ("billed", 12.0),
        ("computed", pytest.approx(16.5)),
        ("estimated", pytest.approx(15.0)),
        ("unknown", None),
        ("free", 0.0),
        ("free", 0.0),
        ("unknown", None),
    ]


def test_sums_are_by_provider_month_and_tag() -> None:
    costs = [
        cost_run(a_run(provider="a", billed=Billed(amount=1.0), tags={"team": "x"})),
        cost_run(a_run(provider="a", billed=Billed(amount=2.0), created=APRIL, tags={"team": "y"})),
        cost_run(a_run(provider="b", tags={"team": "x"})),
        cost_run(a_run(provider="b", state=RunState.FAILED)),
    ]
    by_provider = group_costs(costs, ["provider"])
    assert [(row.group["provider"], row.total, row.without_amount) for row in by_provider] == [
        ("a", 3.0, 0),
        ("b", 15.0, 1),
    ]
    by_month = {row.group["month"]: row.billed for row in group_costs(costs, ["month"])}
    assert by_month == {"2026-03": 1.0, "2026-04": 2.0}
    by_team = {row.group["tag:team"]: row.total for row in group_costs(costs, ["tag:team"])}
    assert by_team == {"": 0.0, "x": 16.0, "y": 2.0}
    assert group_costs(costs, ["provider", "tag"])[0].group == {"provider": "a", "tag": "team=x"}
    with pytest.raises(UnknownName):
        group_costs(costs, ["colour"])


def test_csv_has_a_header_and_no_formula() -> None:
    rows = list(csv.reader(io.StringIO(write_csv(group_costs([cost_run(a_run(name="=1+1"))], ["name"]), ["name"]))))
    assert rows[0] == ["name", "runs", "billed", "computed", "estimated", "total", "without_amount"]
    assert rows[1] == ["'=1+1", "1", "0.0", "0.0", "15.0", "15.0", "0"]


def test_the_command_prints_a_table_csv_and_json() -> None:
    def invoke(*words: str) -> str:
        result = CliRunner().invoke(app, ["costs", *words])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "there are no runs yet" in invoke()
    store = open_store()
    store.create_or_join(a_run(provider="a", billed=Billed(tokens=3_300_000), tags={"team": "x"}))
    assert "16.50" in invoke("--by", "provider,month", "--runs")
    assert "10 % more than" in invoke("--runs")
    assert invoke("--by", "tag:team", "--format", "csv").splitlines()[1] == "x,1,0.0,16.5,0.0,16.5,0"
    document = json.loads(invoke("--json", "--runs"))
    assert document["groups"][0]["total"] == pytest.approx(16.5)
    assert document["runs"][0]["bill"]["explanation"].startswith("3,300,000 tokens were billed")
    assert CliRunner().invoke(app, ["costs", "--by", "colour"]).exit_code != 0
