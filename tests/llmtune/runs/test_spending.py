"""A budget while a run trains: what is spent and left, a warning before the cap, and a stop at it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmtune.errors import VendorError
from llmtune.provider.limits import Abilities, Ability, NotOffered
from llmtune.provider.types import Billed, JobRef, Progress, RunState
from llmtune.runs.spending import guard_budget, measure_spending
from llmtune.runs.store.records import RunRecord, dump_receipt
from llmtune.runs.store.store import Store, open_store
from llmtune.web.run_page import _describe_progress
from tests.llmtune.planning.test_bill import a_plan
from tests.llmtune.runs.helpers import a_record


class Vendor:
    """As much of a provider as a stop needs."""

    name = "acme"

    def __init__(self, cancel: Ability = True, refuses: bool = False) -> None:
        self.able, self.refuses, self.cancelled = cancel, refuses, 0

    def capabilities(self, target: Any) -> Any:
        return SimpleNamespace(abilities=Abilities(cancel=self.able))

    def cancel(self, job: JobRef) -> None:
        self.cancelled += 1
        if self.refuses:
            raise VendorError("no", raw="no")


def running(budget: float | None, step: int = 0, **changes: Any) -> RunRecord:
    """Return a run of 100 steps whose training is estimated at 15 USD (3 epochs), or 5 USD an epoch."""
    fields: dict[str, Any] = {
        "receipt": dump_receipt(a_plan()),
        "budget": budget,
        "state": RunState.RUNNING,
        "progress": Progress(step=step, total_steps=100),
    }
    return a_record(**{**fields, **changes})


def stored(record: RunRecord) -> tuple[Store, RunRecord]:
    store = open_store()
    store.create_or_join(record, join=False)
    store.set_ref(record.id, "job", JobRef(id="job-1"))
    return store, store.get(record.id)


def test_spent_is_the_share_of_the_estimate_that_is_trained() -> None:
    spending = measure_spending(running(20.0, step=40))
    assert spending is not None
    assert (spending.spent, spending.projected, spending.left) == (pytest.approx(6.0), 15.0, pytest.approx(14.0))
    assert spending.sentence() == "spent about 6.00, projected 15.00, 14.00 of 20.00 USD left"
    assert "spent about 6.00" in _describe_progress(running(20.0, step=40))


def test_epochs_count_where_no_steps_are_told_and_a_bill_counts_before_both() -> None:
    by_epoch = measure_spending(running(20.0, progress=Progress(epoch=1.5)))
    assert by_epoch is not None
    assert by_epoch.spent == pytest.approx(7.5)
    billed = measure_spending(running(20.0, step=40, billed=Billed(tokens=3_300_000)))
    assert billed is not None
    assert (billed.spent, billed.projected) == (pytest.approx(16.5), pytest.approx(16.5))
    silent = measure_spending(running(20.0, progress=Progress()))
    assert silent is not None
    assert (silent.spent, silent.left) == (None, None)
    waiting = measure_spending(running(20.0, progress=Progress(), state=RunState.QUEUED))
    assert waiting is not None
    assert waiting.spent == 0.0


def test_a_run_without_a_budget_or_on_ones_own_machine_has_no_spending() -> None:
    assert measure_spending(running(None)) is None
    assert measure_spending(running(1.0, hosted=False)) is None
    assert measure_spending(running(1.0, receipt={})) is None


def test_it_is_warned_of_once_before_the_cap() -> None:
    vendor: Any = Vendor()
    store, record = stored(running(15.0, step=79))
    assert guard_budget(store, vendor, record) is None
    store, record = stored(running(15.0, step=80))
    sentence = guard_budget(store, vendor, record)
    assert sentence == "over 80% of the budget: spent about 12.00, projected 15.00, 3.00 of 15.00 USD left"
    record = store.get(record.id)
    assert record.warnings == (sentence,)
    assert guard_budget(store, vendor, record) is None
    assert vendor.cancelled == 0


def test_more_epochs_than_planned_are_warned_of_when_the_vendor_reports_them() -> None:
    vendor: Any = Vendor()
    store, record = stored(running(15.0, step=1, resolved={"epochs": 10}))
    assert "projected to cost more than its budget" in str(guard_budget(store, vendor, record))


def test_the_run_is_stopped_at_the_cap() -> None:
    vendor: Any = Vendor()
    store, record = stored(running(15.0, step=35, resolved={"epochs": 10}))
    sentence = guard_budget(store, vendor, record)
    assert "the budget is spent, so the run is stopped: spent about 17.50" in str(sentence)
    record = store.get(record.id)
    assert (record.state, record.cancel_requested, vendor.cancelled) == (RunState.CANCELLING, True, 1)
    assert guard_budget(store, vendor, record) is None
    assert vendor.cancelled == 1


def test_a_vendor_that_cannot_stop_a_job_is_named() -> None:
    vendor: Any = Vendor(cancel=NotOffered("the service has no cancel"))
    store, record = stored(running(5.0, step=50))
    sentence = guard_budget(store, vendor, record)
    assert "acme cannot stop the job (the service has no cancel)" in str(sentence)
    assert store.get(record.id).state is RunState.RUNNING


def test_a_refused_stop_is_asked_for_again() -> None:
    vendor: Any = Vendor(refuses=True)
    store, record = stored(running(5.0, step=50))
    assert "could not be stopped at its budget" in str(guard_budget(store, vendor, record))
    assert not store.get(record.id).cancel_requested
    assert "could not be stopped" in str(guard_budget(store, vendor, store.get(record.id)))
    assert vendor.cancelled == 2
