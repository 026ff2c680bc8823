"""Trying again: how often, with which pauses, and what is not tried again."""

from __future__ import annotations

import threading
import time

import pytest

from llmtune._retry import Gate, RetryPolicy, Stopped, report_silence, with_retries
from llmtune.errors import TransientError, VendorError
from llmtune.runs.poller import PollInterval
from llmtune.runs.submission import RETRIES

QUICK = RetryPolicy(tries=3, first=0.0, most=0.0)


def down(seconds: float | None = None, *, sent: bool = True) -> TransientError:
    return TransientError("down", retry_after=seconds, sent=sent)


def test_the_pause_is_the_one_the_backend_asks_for_or_doubles() -> None:
    policy = RetryPolicy(first=1.0, most=60.0, longest=100.0)
    assert policy.pause(0, down(7.5)) == 7.5
    assert policy.pause(0, down(-3)) == 0.0
    assert policy.pause(0, down(1e6)) == 100.0
    assert 1.0 <= policy.pause(0, down()) <= 1.5
    assert 8.0 <= policy.pause(3, down()) <= 12.0
    assert 60.0 <= policy.pause(5000, down()) <= 90.0


@pytest.mark.parametrize(
    ("failures", "asked_for", "least", "most"),
    [(1, None, 0.25, 0.5), (4, None, 2.0, 4.0), (6, None, 8.0, 16.0), (1, 9.0, 9.0, 9.0), (6, 0.1, 8.0, 16.0)],
)
def test_calls_that_bring_a_run_on_its_way_wait_half_a_second_and_then_twice_as_long_each_time(
    failures: int, asked_for: float | None, least: float, most: float
) -> None:
    assert RETRIES.tries == 6
    assert least <= RETRIES.pause(failures, down(asked_for)) <= most


@pytest.mark.parametrize(
    ("failures", "asked_for", "seconds"),
    [(1, None, 2.0), (3, None, 8.0), (9, None, 30.0), (3, 20.0, 20.0), (3, 1.0, 8.0), (3, 9000.0, 3600.0)],
)
def test_polls_of_a_vendor_that_is_down_come_at_longer_pauses(
    failures: int, asked_for: float | None, seconds: float
) -> None:
    assert PollInterval(first=1.0, most=30.0).retry_policy.pause(failures, down(asked_for)) == seconds


def test_tries_end() -> None:
    calls = []

    def never() -> None:
        calls.append(1)
        raise down(0.0)

    with pytest.raises(TransientError, match="down"):
        with_retries(never, QUICK, doing="a call")
    assert len(calls) == 3


def test_a_call_that_succeeds_in_the_end_gives_its_result() -> None:
    faults = [down(0.0), down(0.0)]

    def call() -> str:
        if faults:
            raise faults.pop()
        return "answer"

    assert with_retries(call, QUICK, doing="a call") == "answer"


def test_other_faults_are_not_tried_again() -> None:
    calls = []

    def refuse() -> None:
        calls.append(1)
        raise VendorError("no", status=400)

    with pytest.raises(VendorError):
        with_retries(refuse, QUICK, doing="a call")
    assert len(calls) == 1


@pytest.mark.parametrize(("sent", "calls_made"), [(False, 9), (True, 3)])
def test_a_rate_limit_uses_up_no_try_while_others_get_through(sent: bool, calls_made: int) -> None:
    gate, calls = Gate(), []

    def limited() -> str:
        calls.append(1)
        gate.count()  # another thread's call has succeeded meanwhile
        if len(calls) < 9:
            raise down(0.0, sent=sent)
        return "answer"

    if sent:
        with pytest.raises(TransientError):
            with_retries(limited, QUICK, doing="a call", gate=gate)
    else:
        assert with_retries(limited, QUICK, doing="a call", gate=gate) == "answer"
    assert len(calls) == calls_made


def test_a_gate_that_is_stopped_wakes_who_waits_and_lets_no_call_begin() -> None:
    gate, caught = Gate(), []
    gate.hold(300.0)

    def wait() -> None:
        try:
            with_retries(lambda: caught.append("called"), QUICK, doing="a call", gate=gate)
        except Stopped:
            caught.append("stopped")

    thread = threading.Thread(target=wait)
    began = time.monotonic()
    thread.start()
    gate.stop()
    thread.join(60)
    assert caught == ["stopped"]
    assert time.monotonic() - began < 60


def test_what_goes_on_for_long_says_so_and_again_later() -> None:
    heard: list[float] = []
    twice = threading.Event()

    def tell(seconds: float) -> None:
        heard.append(seconds)
        if len(heard) == 2:
            twice.set()
        raise ValueError("dropped")

    with report_silence(tell, seconds=0.02):
        assert twice.wait(60)
    assert 0.02 <= heard[0] < heard[1]
    with report_silence(tell) as end_silence:
        end_silence()
    assert len(heard) == 2
