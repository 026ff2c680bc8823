"""Two thousand faults: no lost metric point, no duplicate job, no endless loop."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmtune.errors import SubmitUnknown, TransientError
from llmtune.job.spec import TuningJob
from llmtune.provider.types import RunState
from llmtune.runs import poller
from llmtune.runs.api import attach, start
from llmtune.runs.poller import PollInterval
from llmtune.runs.run import Run
from llmtune.testing import (
    Phase,
    accept_then_drop,
    accept_then_hold,
    garbled,
    rate_limit,
    reset,
    server_error,
    truncated,
    unknown_state,
)
from llmtune.testing.fake_provider import FakeProvider
from llmtune.testing.generic_vendor import Fake

pytestmark = pytest.mark.usefixtures("no_long_pauses")

STEPS = 60
RUNS = 48
READING = (rate_limit(0.005), server_error(), server_error(503), reset(), accept_then_drop(), truncated(), garbled())


@pytest.mark.slow
def test_two_thousand_faults(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "_poller", poller.Poller(polls_per_second=5000))
    vendor.walks = {  # type: ignore[misc]
        **vendor.walks,
        "success": (Phase("queued"), Phase("training", looks=STEPS, training=True), Phase("succeeded")),
    }
    vendor.steps = STEPS
    vendor.lag = 0.05
    vendor.faults.sprinkle([*READING, unknown_state(), accept_then_hold(0.3)], rate=0.5, seed=1, roles={"poll", "find"})
    vendor.faults.sprinkle(
        [*READING, accept_then_hold(0.3)], rate=0.4, seed=2, roles={"submit", "upload", "deploy", "undeploy"}
    )
    # The wall clock jumps about by days, as after a sleep or a wrong time server.
    real, dice = time.time, random.Random(3)
    monkeypatch.setattr(time, "time", lambda: real() + dice.choice((0.0, 0.0, 86_400.0, -86_400.0, 3.0)))

    def one(number: int) -> Run:
        provider = at(("token", "searchable")[number % 2], timeout=0.2, deployment="required" if number % 3 else "none")
        mine = job.model_copy(
            update={"seed": number, "evaluation": job.evaluation.model_copy(update={"deploy": True, "max_rows": 2})}
        )
        for _ in range(20):
            try:
                run = start(mine, provider)  # the same work again: it goes on where it stopped
                break
            except (TransientError, SubmitUnknown):  # SubmitUnknown: unreachable too long; starting again finds out
                continue
        run = attach(run.id, provider=provider)
        run.wait(timeout=240, pace=PollInterval(first=0.002, most=0.01))
        return run

    with ThreadPoolExecutor(12) as pool:
        runs = list(pool.map(one, range(RUNS)))

    assert vendor.faults.total() >= 2000, vendor.faults.injected
    assert len(vendor.faults.injected) >= 7
    wanted = {("train/loss", step) for step in range(1, STEPS + 1)}
    wanted |= {("validation/loss", step) for step in range(5, STEPS + 1, 5)}
    for run in runs:
        assert run.state is RunState.SUCCEEDED
        points = [(point.series, point.step) for point in run.metrics()]
        assert len(points) == len(set(points))
        assert set(points) == wanted
        events = [event.id for _, event in run.events() if not event.id.startswith("llmtune-")]
        assert sorted(events) == sorted(f"e{step}" for step in range(1, STEPS + 1))
        assert len(vendor.jobs_with(run.record.key)) == 1
    assert len({run.id for run in runs}) == len(vendor.jobs) == RUNS
    assert vendor.standing == []
    assert vendor.complaints == []
