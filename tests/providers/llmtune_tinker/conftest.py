"""A fake of Tinker on a loopback port, the real provider and SDK pointed at it, and the loop in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmtune_local.run_state.process import ProcessId, WorkerProgram, current
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.worker import supervisor
from llmtune_local.worker.main import work
from llmtune_tinker.fake.service import FakeTinker
from llmtune_tinker.provider import TinkerProvider
from llmtune_tinker.run_folder import WORKER, LoopFolder
from llmtune_tinker.settings import TinkerSettings
from llmtune_tinker.worker.main import make_trainer
from tests.providers.llmtune_tinker.in_memory import Runs

QWEN = "Qwen/Qwen3-8B"
KEY = "tml-test"


class Threads:
    """Loops that run in threads of the test instead of processes, which import for seconds."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._running: dict[Path, threading.Thread] = {}

    def runs(self, folder: RunDir) -> bool:
        thread = self._running.get(folder.path)
        return thread is not None and thread.is_alive()

    def launch(
        self, run_dir: Path, *, resume: bool = False, fork_server: object = None, program: WorkerProgram
    ) -> ProcessId:
        assert program.module == WORKER
        assert list(program.environment.values()) == [KEY]
        folder = LoopFolder(run_dir)

        def run() -> None:
            work(folder, lambda: self.stopped.is_set() or folder.cancelling, resume=resume, make_trainer=make_trainer)

        thread = threading.Thread(target=run, name=f"loop of {run_dir.name}", daemon=True)
        self._threads.append(thread)
        self._running[run_dir] = thread
        thread.start()
        return current()

    def end(self) -> None:
        self.stopped.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), thread.name


@pytest.fixture
def tinker_vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTinker]:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    with FakeTinker(api_key=KEY) as fake:
        yield fake


@pytest.fixture
def threads(tinker_vendor: FakeTinker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    threads = Threads()
    monkeypatch.setattr(supervisor, "launch", threads.launch)
    monkeypatch.setattr(supervisor, "_worker_runs", threads.runs)
    yield threads
    threads.end()


@pytest.fixture
def tinker(tinker_vendor: FakeTinker, threads: Threads) -> TinkerProvider:
    return TinkerProvider("tinker", TinkerSettings(base_url=tinker_vendor.url, timeout=5))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    return Runs(tmp_path)
