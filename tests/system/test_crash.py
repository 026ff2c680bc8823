"""SIGKILL at every arrow of the flow; afterwards the vendor is counted. The full count is benchmarks/crash.py."""

from __future__ import annotations

import pytest

from llmtune.runs.failpoints import FAILPOINTS
from llmtune.testing.crash import IN_FLIGHT, Trial, run_trial, trials

pytestmark = pytest.mark.usefixtures("no_long_pauses")

PLACES = [*FAILPOINTS, *(f"in-flight:{role}" for role in IN_FLIGHT)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PLACES)), ids=PLACES)
def test_a_run_survives_death_at(number: int) -> None:
    safety = ("token", "searchable", "none")[number % 3]
    outcome = run_trial(Trial(safety=safety, arrow=PLACES[number], by="start" if number % 2 else "attach"))
    assert outcome.fault is None
    assert outcome.killed == 1


@pytest.mark.slow
@pytest.mark.parametrize("safety", ["token", "searchable", "none"])
@pytest.mark.parametrize("arrow", ["submitting", "after-submit", "in-flight:submit"])
def test_the_paid_call_is_made_once_whatever_the_vendor_offers(safety: str, arrow: str) -> None:
    outcome = run_trial(Trial(safety=safety, arrow=arrow, deploy=False))  # type: ignore[arg-type]
    assert outcome.fault is None
    assert outcome.killed == 1
    assert outcome.state == ("lost" if safety == "none" else "succeeded")
    if safety != "none":
        assert outcome.jobs == 1


@pytest.mark.slow
def test_who_goes_on_may_die_too() -> None:
    outcome = run_trial(Trial(safety="searchable", arrow="after-submit", again="after-deploy"))
    assert outcome.fault is None
    assert outcome.killed == 2


def test_trials_cover_every_place_and_class() -> None:
    planned = list(trials(450))
    assert {trial.arrow for trial in planned} == set(PLACES)
    for place in PLACES:
        assert {trial.safety for trial in planned if trial.arrow == place} == {"token", "searchable", "none"}
