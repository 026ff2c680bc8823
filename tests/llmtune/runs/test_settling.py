"""What is waited for after a vendor's last word, at any provider, and what ends the wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmtune.errors import RunFailed, TransientError, VendorError
from llmtune.evaluation.results import EvaluationResult
from llmtune.job.spec import TuningJob
from llmtune.provider.generation import Generation, GenerationRequest, LabelScorer, TokenScorer
from llmtune.provider.types import RunState, Settling
from llmtune.runs import settling
from llmtune.runs.api import start
from llmtune.runs.settling import PatientGenerator
from llmtune.testing import refusal
from llmtune.testing.fake_provider import FakeProvider
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.runs.helpers import QUICK

pytestmark = pytest.mark.usefixtures("no_long_pauses")

At = Callable[..., FakeProvider]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every pause that was made; none takes any time."""
    pauses: list[float] = []
    monkeypatch.setattr(settling, "sleep", pauses.append)
    monkeypatch.setattr(settling, "now", lambda: time.time() + sum(pauses))
    return pauses


class Shy:
    """A generator that refuses a number of times before it answers."""

    max_concurrency = 4

    def __init__(self, *refusals: Exception) -> None:
        self._refusals = list(refusals)

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        if self._refusals:
            raise self._refusals.pop(0)
        return [Generation(text="here") for _ in requests]

    def __enter__(self) -> Shy:
        return self

    def __exit__(self, *_: object) -> None: ...


class ShyScorer(Shy):
    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        self.generate(requests)
        return [[0.0] * len(labels) for _ in requests]


REQUEST = GenerationRequest(messages=())


def patient(inner: Any, seconds: float = 600.0, said: list[str] | None = None) -> PatientGenerator:
    return PatientGenerator(inner, Settling(), settling.now() + seconds, (said if said is not None else []).append)


def not_found() -> VendorError:
    return VendorError("no such model", status=404)


@pytest.mark.parametrize(
    "error", [not_found(), VendorError("conflict", status=409), VendorError("The model is still loading", status=400)]
)
def test_a_model_that_is_too_new_is_asked_again_and_said_so_once(error: VendorError, clock: list[float]) -> None:
    said: list[str] = []
    with patient(Shy(error, error, error), said=said) as model:
        assert model.generate([REQUEST])[0].text == "here"
    assert clock == [2.0, 4.0, 8.0]
    assert len(said) == 1
    assert "up to 10 min" in said[0]


def test_after_the_time_the_refusal_is_the_vendors(clock: list[float]) -> None:
    with patient(Shy(*[not_found() for _ in range(1000)]), 60.0) as model, pytest.raises(VendorError, match="no such"):
        model.generate([REQUEST])
    assert 55 < sum(clock) <= 60


def test_a_model_that_has_answered_once_is_not_waited_for_again(clock: list[float]) -> None:
    shy = Shy()
    with patient(shy) as model:
        model.generate([REQUEST])
        shy._refusals.append(not_found())
        with pytest.raises(VendorError):
            model.generate([REQUEST])
    assert clock == []


@pytest.mark.parametrize("error", [VendorError("forbidden", status=403), TransientError("busy", status=404)])
def test_any_other_refusal_is_passed_on_at_once(error: VendorError, clock: list[float]) -> None:
    with patient(Shy(error)) as model, pytest.raises(type(error)):
        model.generate([REQUEST])
    assert clock == []


def test_it_can_do_what_the_model_inside_can_and_no_more(clock: list[float]) -> None:
    assert not isinstance(patient(Shy()), (LabelScorer, TokenScorer))
    scorer = patient(ShyScorer(not_found()))
    assert isinstance(scorer, LabelScorer)
    assert not isinstance(scorer, TokenScorer)
    assert scorer.score_labels([REQUEST], ["a", "b"]) == [[0.0, 0.0]]
    assert clock == [2.0]


def test_the_rule_holds_for_any_provider(vendor: Fake, at: At, job: TuningJob, clock: list[float]) -> None:
    vendor.faults.add(refusal(404, "The model is not there."), role="generate", times=3)
    report = start(job, at()).wait(pace=QUICK)
    assert isinstance(report.evaluation, EvaluationResult)
    assert report.evaluation.system("tuned") is not None
    assert len(clock) >= 1


def test_a_provider_says_itself_what_means_not_yet(vendor: Fake, at: At, job: TuningJob, clock: list[float]) -> None:
    provider = at()
    provider.settling = Settling(statuses=frozenset({418}), words=())
    vendor.faults.add(refusal(404, "The model is not there."), role="generate", times=10)
    run = start(job, provider)
    run.wait(pace=QUICK)
    assert any("The model is not there" in warning for warning in run.record.warnings)
    assert clock == []


def test_a_job_that_is_gone_after_it_was_cancelled_is_cancelled(
    vendor: Fake, at: At, job: TuningJob, clock: list[float]
) -> None:
    provider = at()
    provider.settling = Settling(gone_seconds=0.0)
    run = start(job, provider)
    run.cancel()
    vendor.jobs.clear()
    with pytest.raises(RunFailed, match="has no job"):
        run.wait(pace=QUICK)
    assert run.state is RunState.CANCELLED
