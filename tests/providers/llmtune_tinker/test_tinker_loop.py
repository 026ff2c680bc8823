"""The driver's waiting: an answer comes, or a stop is seen."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from llmtune_local.training.progress import Stopped
from llmtune_tinker import tinker_loop
from llmtune_tinker.client import TinkerClient
from llmtune_tinker.run_folder import LoopFolder
from llmtune_tinker.tinker_loop import TinkerLoop


class Answer:
    """An answer of the SDK that has come, or never will."""

    def __init__(self, value: Any = None) -> None:
        self._future: Future[Any] = Future()
        if value is not None:
            self._future.set_result(value)

    def future(self) -> Future[Any]:
        return self._future

    def result(self, timeout: float | None = None) -> Any:
        return self._future.result(timeout)


def make_loop(folder: Path, *, stopped: bool) -> TinkerLoop:
    client = TinkerClient("tinker", "http://127.0.0.1:9", "TINKER_API_KEY")
    request: Any = None
    return TinkerLoop(client, LoopFolder(folder), request, "key", stop=lambda: stopped)


def test_a_stop_does_not_cut_off_an_answer_that_is_there(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, stopped=True)
    loop._watcher.paused = True
    assert loop._wait(Answer("saved")) == "saved"
    assert loop._watcher.paused is False, "an answer ends the pause"


def test_a_stop_is_seen_at_once_while_the_service_has_paused_the_run(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, stopped=True)
    loop._watcher.paused = True
    with pytest.raises(Stopped):
        loop._wait(Answer())


def test_a_stop_waits_for_a_silent_service_no_longer_than_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinker_loop, "STOP_SECONDS", 0.0)
    with pytest.raises(Stopped):
        make_loop(tmp_path, stopped=True)._wait(Answer())
