"""Faults of the local trainer and the store: killed workers, damaged files, full disks, other commands beside.

Used by `benchmarks/faults.py`. Every trial trains `tiny` for a few steps in a worker that a warm fork server forked.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from llmtune import testing
from llmtune.errors import LlmtuneError, VendorError
from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.provider.types import RunState
from llmtune.runs import evaluation
from llmtune.runs.api import attach, start
from llmtune.runs.poller import PollInterval
from llmtune.runs.run import Run
from llmtune.runs.store.store import Store, open_store
from llmtune.testing.folder_faults import DAMAGES, damage_file

PACE = PollInterval(first=0.01, most=0.1)

#: Seconds after which a trial hangs, and after which a worker without a heartbeat is reported (it comes every five).
LONGEST, SILENT_SECONDS = 120.0, 6.0

#: Steps of a trial; one whose worker was faster than the fault is repeated with more.
STEPS = (4, 32, 256)

#: Files of a run folder that are damaged while the worker is dead, and after it has ended.
FILES_DURING = ("request.json", "status.json", "metrics.jsonl", "events.jsonl", "launched", "lock")
CHECKPOINT_FILES = ("trainer.pt", "adapter/adapter_model.safetensors", "adapter/adapter_config.json")
FILES_AFTER = (
    "request.json",
    "status.json",
    "metrics.jsonl",
    "events.jsonl",
    "result.json",
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
    "adapter/tokenizer.json",
)
#: Bytes that fit into a file on the full disk: nothing, the status alone, and lines but no weights.
ROOMS = (0, 4200, 40_000)


class TooLate(Exception):
    """The worker had ended before the fault came."""


@dataclass(frozen=True)
class Outcome:
    """What came of a trial. `problem` says why it was not survived; None is as promised."""

    title: str
    problem: str | None
    leaks: int = 0
    duplicates: int = 0
    orphans: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class LocalTrial:
    """One fault, as what is done to a run; `own_store` gives it a store that no other trial uses."""

    name: str
    act: Callable[[Scene], None]
    own_store: bool = False
    usable: bool = True
    """Whether the model can be used in the end: not where its files were damaged after the report."""


class Scene:
    """One run on this machine, the fault that meets it, and what was said meanwhile."""

    def __init__(self, number: int, steps: int, provider: Any, folder: Path) -> None:
        self.provider = provider
        self.sentences: list[str] = []
        self.folder = folder
        self.job = TuningJob(
            name=f"local-{number}-{steps}",
            dataset=str(folder / "local-rows.jsonl"),
            model="tiny",
            seed=number,
            adapter="lora",
            hyperparameters=Hyperparameters(epochs=100, max_steps=steps, batch_size=2, checkpoint_every=1, lora_rank=4),
            evaluation=EvaluationSpec(max_rows=1, max_tokens=1, baselines=()),
        )
        self.steps = steps
        self.run: Run = Run("none", store=open_store(), provider=provider)

    def start(self) -> None:
        self.run = start(self.job, self.provider, yes=True)

    @property
    def dir(self) -> Any:
        from llmtune_local.run_state.run_dir import RunDir

        job = self.run.job_ref
        assert job is not None
        return RunDir(job.data.get("folder") or self.provider._root() / job.id)

    def worker(self) -> int:
        """Return the process of the worker that was started last."""
        from llmtune_local.run_state.process import count_launches

        return count_launches(self.dir.path)[-1].pid

    def wait_for(self, condition: Callable[[], Any], title: str, *, seconds: float = 60.0) -> None:
        for _ in range(int(seconds / 0.002)):
            if condition():
                return
            time.sleep(0.002)
        raise AssertionError(f"{title} did not come within {seconds:g} s")

    def newest_checkpoint(self) -> Path | None:
        """Return the folder of the last checkpoint that is whole."""
        whole = [path for path in (self.dir.path / "checkpoints").glob("step-*") if path.name[5:].isdigit()]
        return max(whole, key=lambda path: int(path.name[5:]), default=None)

    def reach(self, step: int) -> None:
        """Wait until the worker has written the checkpoint of that step or a later one, and stop it there."""
        status = self.dir.path / "status.json"
        ended = (b'"state":"failed"', b'"state":"succeeded"')  # old checkpoints are removed

        def reached() -> bool:
            newest = self.newest_checkpoint()
            return (newest is not None and int(newest.name[5:]) >= step) or any(word in _read(status) for word in ended)

        self.wait_for(reached, f"step {step} of the worker")
        pid = self.worker()
        self.signal(signal.SIGSTOP, pid)
        after = self.dir.read_status()
        if after is not None and after.state in ("succeeded", "failed"):
            self.signal(signal.SIGCONT, pid)
            raise TooLate

    def signal(self, number: int, pid: int | None = None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid or self.worker(), number)

    def kill(self) -> None:
        pid = self.worker()
        self.signal(signal.SIGKILL, pid)
        self.wait_for(lambda: not self.dir.alive(), "the end of the killed worker")

    def end_alone(self) -> None:
        """Wait until the worker has ended by itself; nobody follows the run meanwhile."""
        self.wait_for(lambda: b'"succeeded"' in _read(self.dir.path / "status.json"), "the worker's end")
        self.wait_for(lambda: not self.dir.alive(), "the worker's exit")

    def wait(self) -> None:
        """Follow the run to its end, and keep what is said."""
        try:
            self.run.wait(
                timeout=LONGEST, pace=PACE, on_update=lambda update: self.sentences.append(update.message or "")
            )
        except TimeoutError as error:
            raise AssertionError(f"it hung: {error}") from None
        except LlmtuneError as error:
            self.sentences.append(error.message)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Follow the run in another thread, as another caller does."""
        thread = threading.Thread(target=self.wait)
        thread.start()
        try:
            yield
        finally:
            thread.join(LONGEST)
        if thread.is_alive():
            raise AssertionError("the wait beside it hung")

    def refuse(self, action: Callable[[], Any]) -> None:
        """Do what must be refused in a sentence."""
        try:
            action()
        except LlmtuneError as error:
            self.sentences.append(error.message)
        else:
            raise AssertionError("it was not refused")

    def finish(self) -> None:
        """Bring the run to its end by the commands that its sentences name; the same job again gives its report."""
        self.wait()
        for _ in range(2):
            state = self.run.state
            if state in (RunState.FAILED, RunState.CANCELLED):
                if not self.run.record.error and state is RunState.FAILED:
                    raise AssertionError("it failed without a reason")
                self.run.resume()
                self.wait()
        if self.run.state is not RunState.SUCCEEDED:
            raise AssertionError(f"it ended {self.run.state}: {self.run.record.error}")
        again = start(self.job, self.provider, reuse=True, yes=True)
        if again.id != self.run.id:
            raise AssertionError("the same job again is another run")
        again.wait(timeout=LONGEST, pace=PACE)


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


# --- what is done to a run ------------------------------------------------------------------------------------------
def kill_at(step: int, scene: Scene) -> None:
    scene.start()
    if step:
        scene.reach(step)
    scene.kill()


def kill_each_time(scene: Scene) -> None:
    """Kill three workers: the run fails, and is resumed."""
    scene.start()
    killed: set[int] = set()

    def kill(update: Any) -> None:
        pid = scene.worker()
        if pid not in killed and len(killed) < 3:
            killed.add(pid)
            scene.signal(signal.SIGKILL, pid)

    with contextlib.suppress(LlmtuneError):
        kill(None)
        scene.run.wait(timeout=LONGEST, pace=PACE, on_update=kill)


def kill_fork_server(scene: Scene) -> None:
    server = scene.provider._fork_server
    with server._lock:
        server._process.kill()
        server._process.wait()
    scene.start()


def stop_then(number: int, scene: Scene) -> None:
    """Let the worker stand still until it is reported, then let it go on, or kill it."""
    scene.start()
    scene.reach(1)
    with scene.waiting():
        scene.wait_for(
            lambda: any("no sign of life" in event.message for _, event in scene.run.events()), "the report of a stop"
        )
        scene.signal(number)


def cancel_while_stopped(scene: Scene) -> None:
    scene.start()
    scene.reach(1)
    with scene.waiting():
        scene.run.cancel()
        scene.signal(signal.SIGCONT)
    scene.wait()


def damage_during(path: str, damage: Any, scene: Scene) -> None:
    scene.start()
    scene.reach(2)
    scene.kill()
    newest = scene.newest_checkpoint()
    assert newest is not None
    damage_file(newest / path if path in CHECKPOINT_FILES else scene.dir.path / path, damage)


def damage_at_the_end(path: str, damage: Any, scene: Scene) -> None:
    scene.start()
    scene.end_alone()
    damage_file(scene.dir.path / path, damage)


def damage_after_the_report(path: str, damage: Any, scene: Scene) -> None:
    """The report stays; a model that cannot be used says so; lists name the folder and hold all the others."""
    scene.start()
    scene.wait()
    damage_file(scene.dir.path / path, damage)
    damaged_model = path.startswith("adapter/")
    try:
        with scene.run.model() as model:
            model.generate("ticket")
    except LlmtuneError as error:
        scene.sentences.append(error.message)
    else:
        if damaged_model and path != "adapter/tokenizer.json":
            raise AssertionError("a damaged model answered")
    others = 0
    try:
        for _ in scene.provider.inventory():
            others += 1
    except VendorError as error:
        scene.sentences.append(error.message)
    if not others:
        raise AssertionError("the list of models ends at one damaged folder")


def fill_disk(room: int, until: str, scene: Scene) -> None:
    scene.start()
    pid = scene.worker()
    with testing.disk_full(pid, room=room), scene.waiting() if until == "killed" else contextlib.nullcontext():
        if until == "result":
            scene.wait_for(
                lambda: (status := scene.dir.read_status()) is not None and status.waiting_for is not None,
                "the worker that waits for room",
            )
        elif until == "killed":
            time.sleep(1.0)
            scene.signal(signal.SIGKILL, pid)
        else:
            time.sleep(1.5)


def blink(times: int, after: int, scene: Scene) -> None:
    scene.start()
    with testing.store_away(scene.run._store, times=times, after=after):
        scene.wait()


def lock_store(scene: Scene) -> None:
    """Another process holds the write lock of the store for a second."""
    scene.start()
    path = scene.run._store._url.removeprefix("sqlite:///")
    with scene.waiting():
        holder = sqlite3.connect(path, timeout=30, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        time.sleep(1.0)
        holder.execute("ROLLBACK")
        holder.close()


def damage_store(damage: str, moment: str, scene: Scene) -> None:
    """The store is damaged before another process attaches, or under one that waits; then a backup is restored."""
    scene.start()
    store = scene.run._store
    path = Path(store._url.removeprefix("sqlite:///"))
    backup = path.with_suffix(".backup")
    with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(backup)) as new:
        old.backup(new)
    sides = [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]

    def harm() -> None:
        for side in sides:
            side.unlink(missing_ok=True)
        if damage == "garbage":
            path.write_bytes(b"this was a store " * 4000)
        else:
            damage_file(path, damage)  # type: ignore[arg-type]

    if moment == "attach":
        store.close()
        harm()
        scene.refuse(lambda: Run(Store(store._url).resolve(scene.run.id)).wait(timeout=5))
    else:
        harm()
        # Pages that are in memory may serve one wait to its end; a wait that ends early says why.
        with contextlib.suppress(LlmtuneError):
            scene.run.wait(timeout=2, pace=PACE, on_update=lambda update: scene.sentences.append(update.message or ""))
    store.close()
    for side in sides:
        side.unlink(missing_ok=True)
    backup.replace(path)
    scene.run = attach(scene.run.id, provider=scene.provider)


def cancel_beside(scene: Scene) -> None:
    scene.start()
    scene.reach(1)
    with scene.waiting():
        scene.signal(signal.SIGCONT)
        attach(scene.run.id, provider=scene.provider).cancel()


def cancel_at_once(scene: Scene) -> None:
    scene.start()
    scene.run.cancel()
    scene.wait()


def attach_beside(scene: Scene) -> None:
    scene.start()
    with scene.waiting(), ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(attach(scene.run.id).wait, timeout=LONGEST, pace=PACE) for _ in range(2)]
        reports = {wait.result().model_dump_json() for wait in waits}
    if len(reports) != 1:
        raise AssertionError("two that wait have different reports")


def start_twice(scene: Scene) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: start(scene.job, scene.provider, yes=True), range(2))
    if first.id != second.id:
        raise AssertionError("two starts at once made two runs")
    scene.run = first


def refused_beside(action: str, scene: Scene) -> None:
    scene.start()
    scene.reach(1)
    other = attach(scene.run.id, provider=scene.provider)
    actions: dict[str, Callable[[], Any]] = {
        "adopt": lambda: other.adopt("another"),
        "resume": other.resume,
        "resubmit": other.resubmit,
        "delete": lambda: scene.provider.delete(other.job_ref),
    }
    with scene.waiting():
        scene.refuse(actions[action])
        scene.signal(signal.SIGCONT)


def lose_then_adopt(scene: Scene) -> None:
    """A run is lost while its folder is where nobody looks; adopted with its job, it goes on beside a wait."""
    scene.start()
    scene.reach(1)
    store, job = scene.run._store, scene.run.job_ref
    assert job is not None
    store.transition(scene.run.id, RunState.LOST, "lost", error="lost", outcome=RunState.LOST)
    found = scene.provider.find(scene.run.record.key)
    scene.signal(signal.SIGCONT)
    attach(scene.run.id, provider=scene.provider).adopt(found.id)


def list_trials() -> Iterator[LocalTrial]:
    """Every fault of the local trainer and of the store."""
    yield from _worker_trials()
    yield from _damage_trials()
    for room in ROOMS:
        for until in ("later", "result", "killed"):
            if (room, until) != (0, "result"):  # without room for its status it cannot say that it waits
                yield LocalTrial(f"{room} bytes free, {until}", partial(fill_disk, room, until))
    yield from _store_trials()
    yield LocalTrial("fork server killed", kill_fork_server, own_store=True)  # last: workers are started cold after it


def _worker_trials() -> Iterator[LocalTrial]:
    for step in (0, 1, 2, 3):
        yield LocalTrial(f"worker killed at step {step}", partial(kill_at, step))
    yield LocalTrial("three workers killed", kill_each_time)
    for number in (signal.SIGCONT, signal.SIGKILL):
        yield LocalTrial(f"worker stopped, then {number.name}", partial(stop_then, number))
    yield LocalTrial("worker stopped, cancelled", cancel_while_stopped)
    yield LocalTrial("cancel beside a wait", cancel_beside)
    yield LocalTrial("cancel at once", cancel_at_once)
    yield LocalTrial("attach beside a wait", attach_beside)
    yield LocalTrial("two starts at once", start_twice)
    for action in ("adopt", "resume", "resubmit", "delete"):
        yield LocalTrial(f"{action} beside a wait", partial(refused_beside, action))
    yield LocalTrial("adopted after it was lost", lose_then_adopt)


def _damage_trials() -> Iterator[LocalTrial]:
    for damage in DAMAGES:
        for path in (*FILES_DURING, *CHECKPOINT_FILES, "checkpoints"):
            yield LocalTrial(f"{path} {damage} after a kill", partial(damage_during, path, damage))
        yield LocalTrial(f"all files {damage} after a kill", partial(damage_during, ".", damage))
        for path in FILES_AFTER:
            yield LocalTrial(f"{path} {damage} at the end", partial(damage_at_the_end, path, damage))
            name = f"{path} {damage} after the report"
            usable = not path.startswith(("adapter/", "request"))
            yield LocalTrial(name, partial(damage_after_the_report, path, damage), usable=usable)


def _store_trials() -> Iterator[LocalTrial]:
    for after in (1, 3, 6, 12, 24):
        for times in (3, 8):
            yield LocalTrial(f"store away {times} times after {after}", partial(blink, times, after), own_store=True)
    yield LocalTrial("store locked by another process", lock_store)
    for damage in (*DAMAGES, "garbage"):
        for moment in ("attach", "wait"):
            name = f"store {damage} before {moment}"
            yield LocalTrial(name, partial(damage_store, damage, moment), own_store=True)


def run_local_trial(number: int, trial: LocalTrial, provider: Any, folder: Path, key: str) -> Outcome:
    """Run one trial, with more steps where the worker was faster than the fault; judge what came of it."""
    began = time.monotonic()
    outcome = Outcome(f"local: {trial.name}", "the worker was faster than the fault each time")
    for steps in STEPS:
        scene = Scene(number, steps, provider, folder)
        try:
            try:
                trial.act(scene)
            except TooLate:
                scene.wait()
                continue
            scene.finish()
            problem = _judge(trial, scene)
        except AssertionError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - what is not one of ours was not survived
            problem = f"{type(error).__name__}: {str(error)[:200]!r}"
        outcome = _count(outcome.title, problem, scene, key)
        break
    return replace(outcome, seconds=time.monotonic() - began)


def _judge(trial: LocalTrial, scene: Scene) -> str | None:
    if any("\n" in sentence for sentence in scene.sentences):
        return "a message of more than one line"
    if trial.usable:
        with scene.run.model() as model:
            model.generate("ticket")
    return None


def _count(title: str, problem: str | None, scene: Scene, key: str) -> Outcome:
    if scene.run.id == "none":
        return Outcome(title, problem)
    records = [record for record in scene.run._store.runs() if record.name == scene.job.name]
    text = " ".join(scene.sentences)
    for record in records:
        handle = Run(record.id, store=scene.run._store, provider=scene.provider)
        text += record.model_dump_json() + " ".join(event.message for _, event in handle.events())
        with contextlib.suppress(LlmtuneError):
            text += handle.report().model_dump_json()
    leaks, orphans = text.count(key), 0
    for file in scene.dir.path.glob("*"):
        leaks += key.encode() in _read(file)
    if scene.dir.alive():
        orphans += 1
        scene.signal(signal.SIGKILL)
    return Outcome(title, problem, leaks, max(0, len(records) - 1), orphans)


def list_local_trials(only: str | None) -> list[tuple[int, LocalTrial]]:
    """List the trials with their numbers; those whose names match `only`, a regular expression."""
    return [trial for trial in enumerate(list_trials(), 1) if only is None or re.search(only, trial[1].name)]


def run_local_trials(
    folder: Path, key: str, trials: list[tuple[int, LocalTrial]], *, at_once: int, say: Callable[[Outcome], None]
) -> list[Outcome]:
    """Run these trials; those with a store of their own one after another, at the end."""
    import peft  # noqa: F401
    import transformers  # noqa: F401

    from llmtune_local import LocalProvider
    from llmtune_local.worker import supervisor

    gc.freeze()  # closing a model collects garbage, which need not look through the objects of all libraries each time

    evaluation.FIT_ROWS = 0
    supervisor.SILENT_SECONDS = SILENT_SECONDS
    rows = [
        {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n % 3}"}]}
        for n in range(20)
    ]
    (folder / "local-rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcomes: list[Outcome] = []
    provider = LocalProvider()
    with provider.warm():
        with ThreadPoolExecutor(at_once) as pool:
            run = partial(run_local_trial, provider=provider, folder=folder, key=key)
            shared = [trial for trial in trials if not trial[1].own_store]
            for outcome in pool.map(lambda trial: run(*trial), shared):
                outcomes.append(outcome)
                say(outcome)
        orphans = _count_orphans(provider)
        for number, trial in (trial for trial in trials if trial[1].own_store):
            os.environ["LLMTUNE_STORE"] = f"sqlite:///{folder / f'store-{number}.db'}"
            outcome = run(number, trial)
            outcomes.append(outcome)
            say(outcome)
        os.environ.pop("LLMTUNE_STORE") if "LLMTUNE_STORE" in os.environ else None
    if orphans and outcomes:
        outcomes[-1] = replace(outcomes[-1], orphans=outcomes[-1].orphans + orphans)
    return outcomes


def _count_orphans(provider: Any) -> int:
    """Count the run folders that no record leads to."""
    keys = {record.key for record in open_store().runs()}
    root = provider._root()
    return sum(path.name not in keys for path in root.iterdir()) if root.is_dir() else 0
