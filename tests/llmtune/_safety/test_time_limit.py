"""Code that may compute for so long and no longer."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from llmtune._safety.time_limit import TimeLimit, limit_time, limit_waiting


def compute() -> None:
    while True:
        pass


def test_code_in_time_is_left_alone_and_what_comes_after_it_is_too() -> None:
    for _ in range(200):
        with limit_time(10):
            pass
    with limit_time(10):
        total = sum(range(1000))
    time.sleep(0.2)
    assert total == 499500


@pytest.mark.parametrize("swallowed", [False, True])
def test_code_that_does_not_end_is_ended(swallowed: bool) -> None:
    with pytest.raises(TimeLimit), limit_time(0.2):
        if swallowed:
            try:
                compute()
            except TimeLimit:
                compute()
        compute()
    time.sleep(0.3)  # nothing arrives later


def test_every_thread_has_a_limit_of_its_own() -> None:
    ended: list[float] = []

    def run(seconds: float) -> None:
        try:
            with limit_time(seconds):
                compute()
        except TimeLimit:
            ended.append(seconds)

    threads = [threading.Thread(target=run, args=(seconds,)) for seconds in (0.1, 0.2, 0.3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ended) == [0.1, 0.2, 0.3]


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs a clock of each thread")
def test_waiting_is_not_computing() -> None:
    with limit_time(0.2):
        time.sleep(0.6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_is_watched_by_itself() -> None:
    with limit_time(5):
        pass  # the watching thread of this process runs now, and not in the other
    pid = os.fork()
    if pid == 0:
        try:
            with limit_time(0.1):
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    pass
            os._exit(1)
        except TimeLimit:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_waiting_is_ended_by_the_clock_though_nothing_is_computed() -> None:
    with pytest.raises(TimeLimit), limit_waiting(0.1):
        while True:
            time.sleep(0.01)
    with limit_waiting(600):
        time.sleep(0.01)


TRACED = """
import sys, time
from llmtune._safety.time_limit import TimeLimit, limit_waiting
try:
    with limit_waiting(0.05):
        while True:
            time.sleep(0.01)
except TimeLimit:
    pass

def traced():
    return "traced to its end"

sys.settrace(lambda *event: None)
print(traced())
"""


def test_code_that_is_traced_runs_after_a_limit_was_used_up() -> None:
    """A debugger or a coverage tool traces code; it never got past a function's first instruction then."""
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "traced to its end\n"
