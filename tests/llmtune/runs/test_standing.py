"""Deployments that still stand, with the cost of a day; removed ones are gone from the list."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.provider.types import DeploymentRef, RunState
from llmtune.runs.standing import list_standing_deployments
from llmtune.runs.store.records import dump_receipt
from llmtune.runs.store.store import open_store
from tests.llmtune.planning.test_bill import a_plan
from tests.llmtune.runs.helpers import a_record


def stand(provider: str, model: str) -> str:
    store = open_store()
    plan: Any = a_plan()
    target = plan.target.model_copy(update={"provider": provider, "kind": provider, "model": model})
    receipt = dump_receipt(plan.model_copy(update={"target": target}))
    record = a_record(provider=provider, kind=provider, model=model, receipt=receipt, state=RunState.SUCCEEDED)
    store.create_or_join(record)
    store.keep_ref(record, "deployment", "deployment", DeploymentRef(id=f"dep-{model}"))
    return record.id


def test_a_standing_deployment_has_a_daily_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    stand("azure", "gpt-4.1-2025-04-14")
    later = time.time() + 10 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    (found,) = list_standing_deployments(open_store())
    assert found.daily == pytest.approx(24 * 1.7)
    assert found.hours == pytest.approx(10, abs=0.01)
    assert found.so_far == pytest.approx(17.0, abs=0.02)
    assert "costs 40.80 USD a day, 17.00 so far; llmtune runs clean" in found.sentence()


def test_an_unknown_price_and_a_provider_that_is_gone_are_said() -> None:
    stand("gone", "m-1")
    (found,) = list_standing_deployments(open_store())
    assert found.daily is None
    assert "not known" in found.sentence()


def test_the_doctor_lists_it_and_not_when_it_is_removed() -> None:
    stand("azure", "gpt-4.1-2025-04-14")
    printed = CliRunner().invoke(app, ["doctor", "-p", "local"])
    assert "40.80 USD a day" in printed.output
    document = json.loads(CliRunner().invoke(app, ["doctor", "-p", "local", "--json"]).stdout)
    assert document["deployments"][0]["daily"] == pytest.approx(40.8)
    store = open_store()
    for resource in store.resources():
        store.mark_removed(resource)
    assert "a day" not in CliRunner().invoke(app, ["doctor", "-p", "local"]).output
