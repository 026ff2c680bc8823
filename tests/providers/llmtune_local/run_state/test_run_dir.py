"""The run folder: whole lines, whole files, one worker at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmtune_local.libraries import SPIN, idle, prepare_libraries, usable_cores
from llmtune_local.run_state import process, run_dir, schema
from llmtune_local.run_state.damage import DamagedFile
from llmtune_local.run_state.process import FolderBusy, FolderLock, ProcessId
from llmtune_local.run_state.run_dir import RunDir, write_atomically
from llmtune_local.run_state.schema import Cursor, EventLine, MetricLine, RunRequest, Status
from llmtune_local.run_state.status_writer import StatusWriter


def point(step: int, series: str = "train/loss", value: float = 1.0) -> MetricLine:
    return MetricLine(step=step, series=series, value=value, epoch=0.0, time=0.0)


def test_importing_the_contract_loads_nothing_heavy() -> None:
    code = (
        "import sys, llmtune_local.run_state.run_dir, llmtune_local.run_state.process;"
        "import llmtune_local.training.lr_schedule;"
        "print([n for n in ('torch', 'transformers', 'peft', 'numpy', 'sqlalchemy') if n in sys.modules])"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"


def test_requests_round_trip_and_refuse_what_they_do_not_know(tmp_path: Path, make_request: Callable[..., Any]) -> None:
    folder = RunDir(tmp_path / "a" / "b")
    request = make_request({"tags": {"team": "x"}}, lora_target_modules=("q_proj",))
    folder.write_request(request)
    assert folder.read_request() == request
    assert json.loads((folder.path / "request.json").read_text())["schema"] == 1
    body = request.model_dump(by_alias=True)
    for path in ((), ("hyperparameters",), ("options",), ("files",)):
        wrong = json.loads(json.dumps(body))
        target = wrong
        for key in path:
            target = target[key]
        target["surprise"] = 1
        with pytest.raises(ValidationError, match="surprise"):
            RunRequest.model_validate(wrong)


def test_recipe_has_every_hyperparameter_there_is() -> None:
    from llmtune.job.spec import Hyperparameters

    # The multiplier arrives as a rate.
    assert set(schema.TrainingConfig.model_fields) == set(Hyperparameters.model_fields) - {"learning_rate_multiplier"}


def test_metrics_are_read_in_order_behind_a_cursor(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    assert folder.read_metrics() == ([], Cursor())
    folder.write_status(Status(attempt=1))
    folder.append_metrics([point(1), point(1, "validation/loss")])
    points, cursor = folder.read_metrics()
    assert [(line.step, line.series) for line in points] == [(1, "train/loss"), (1, "validation/loss")]
    assert folder.read_metrics(cursor) == ([], cursor)
    with folder.metrics.open("a") as file:
        file.write(point(2).model_dump_json()[:20])  # a line that is still being written
    assert folder.read_metrics(cursor) == ([], cursor)
    with folder.metrics.open("a") as file:
        file.write(point(2).model_dump_json()[20:] + "\n")
    points, later = folder.read_metrics(Cursor.model_validate(cursor.model_dump()))
    assert [line.step for line in points] == [2]
    assert later.offset > cursor.offset


def test_a_resume_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.write_status(Status(attempt=1))
    folder.append_metrics([point(step) for step in range(1, 8)])
    _, cursor = folder.read_metrics()
    with folder.metrics.open("a") as file:
        file.write('{"step": 8, "ser')
    folder.write_status(Status(attempt=2))
    folder.truncate_metrics(5)
    folder.append_metrics([point(6, value=2.0)])
    points, _ = folder.read_metrics(cursor)  # the cursor is of the attempt before: everything comes again
    assert [line.step for line in points] == [1, 2, 3, 4, 5, 6]
    assert points[-1].value == 2.0
    folder.truncate_metrics(-1)
    assert folder.read_metrics() == ([], Cursor(attempt=2))
    RunDir(tmp_path / "new").truncate_metrics(3)


def test_a_reader_never_sees_half_a_status(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    assert folder.read_status() is None
    writer = (
        "import sys; from llmtune_local.run_state.run_dir import *\n"
        "folder = RunDir(sys.argv[1])\n"
        "for step in range(400): folder.write_status(Status(step=step, message='x' * (step % 50) * 20))"
    )
    child = subprocess.Popen([sys.executable, "-c", writer, str(tmp_path)])
    states = set()
    while child.poll() is None:
        status = folder.read_status()
        if status is not None:
            assert status.message == "x" * (status.step % 50) * 20
            states.add(status.step)
    assert child.returncode == 0
    assert len(states) > 5
    assert folder.read_status().step == 399  # type: ignore[union-attr]


def test_a_full_disk_leaves_room_for_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunDir(tmp_path)
    folder.write_status(Status(state="running"))
    before = (tmp_path / "status.json").stat()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_dir, "write_atomically", full)
    folder.write_status(Status(state="failed", error="no space left on the device"))
    assert folder.read_status().error == "no space left on the device"  # type: ignore[union-attr]
    after = (tmp_path / "status.json").stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)  # in place, not a byte more


def test_a_failed_replacement_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_half_an_append_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunDir(tmp_path)
    folder.append_metrics([point(1)])
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
    with pytest.raises(OSError, match="No space"):
        folder.append_metrics([point(2)])
    monkeypatch.undo()
    folder.append_metrics([point(3)])
    assert [line.step for line in folder.read_metrics()[0]] == [1, 3]


def test_checkpoints_are_those_that_are_complete(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    assert folder.checkpoints() == {}
    for name in ("step-100", "step-20", ".step-30.tmp", "best"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert list(folder.checkpoints()) == [20, 100]


def test_cancel_is_a_marker(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    assert not folder.cancelling
    folder.cancel()
    folder.cancel()
    assert folder.cancelling
    folder.uncancel()
    assert not folder.cancelling


# What a crash leaves


def test_lines_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.append_metrics([point(1)])
    with folder.metrics.open("ab") as file:
        file.write(b'{"step": 2, "ser\n\n' + b"\0" * 64 + b"\n\xff\xfe\n[]\n" + b"\0" * 9)
    folder.append_metrics([point(3)])  # behind zero bytes on the same line
    assert [line.step for line in folder.read_metrics()[0]] == [1, 3]
    assert folder.damage == {"metrics.jsonl": f"{folder.metrics} has lines that cannot be read; they are left out"}
    folder.truncate_metrics(3)
    again = RunDir(tmp_path)
    assert [line.step for line in again.read_metrics()[0]] == [1, 3]
    assert again.damage == {}


def test_a_worker_begins_by_taking_out_what_the_last_one_left_half_done(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    with StatusWriter(folder) as journal:
        journal.event("before")
    with folder.events.open("ab") as file:
        file.write(b'{"id": "1-2", "ti')
    for name in (".status.json.77.tmp", "checkpoints/.step-4.tmp/adapter/weights"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with StatusWriter(folder) as journal:
        journal.event("after")
    assert [event.message for event in folder.read_events()[0]] == ["before", "after"]
    assert folder.damage == {}
    assert not list(tmp_path.rglob("*.tmp"))


def test_attempts_are_counted_on_where_the_status_was_lost(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    for _ in range(2):
        with StatusWriter(folder) as journal:
            journal.event("here")
    (tmp_path / "status.json").write_bytes(bytes(4096))
    assert folder.read_status() is None
    assert "zero bytes" in folder.damage["status.json"]
    assert folder.last_attempt() == 2
    with StatusWriter(folder) as journal:
        journal.event("again")
    assert [event.id for event in folder.read_events()[0]] == ["1-1", "2-1", "3-1"]


def test_without_a_status_the_lock_says_who_works(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    with FolderLock(folder.lock):
        assert folder.alive() is True
    folder.lock.write_bytes(b"\xff\0 \xfe")
    (tmp_path / process.LAUNCHED).write_bytes(b"\xff\xfe\n\0\0\n1 then here\n")
    assert folder.alive() is False
    assert process.count_launches(tmp_path) == [ProcessId(1, "then", "here")]


def test_only_checkpoints_that_are_whole_are_gone_on_from(tmp_path: Path, make_request: Callable[..., Any]) -> None:
    folder = RunDir(tmp_path)
    folder.write_request(make_request())
    for name in ("step-4", "step-8", "step-12"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert folder.resume_step() == 0
    for name in ("step-4", "step-8"):
        with zipfile.ZipFile(tmp_path / "checkpoints" / name / "trainer.pt", "w") as archive:
            archive.writestr("a", "b")
    assert folder.resume_step() == 8
    folder.write_request(make_request(early_stopping_patience=2))
    assert folder.resume_step() == 0  # the best step's weights would be missing in the end
    (tmp_path / "checkpoints" / "best").mkdir()
    with zipfile.ZipFile(tmp_path / "checkpoints" / "best" / "weights.pt", "w") as archive:
        archive.writestr("a", "b")
    assert folder.resume_step() == 8


@pytest.mark.parametrize("content", [b"", bytes(300), b'{"schema": 1, "mod', None])
def test_a_damaged_request_is_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    if content is not None:
        (tmp_path / "request.json").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"request.json (is|holds)"):
        folder.read_request()
    assert folder.find_request() is None
    assert "request.json" in folder.damage


def full_disk(monkeypatch: pytest.MonkeyPatch, folder: RunDir) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "append_metrics", full)
    monkeypatch.setattr(folder, "append_event", full)
    monkeypatch.setattr(folder, "write_status", full)


def test_on_a_full_disk_points_and_events_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunDir(tmp_path)
    with StatusWriter(folder) as journal:
        with monkeypatch.context() as patched:
            full_disk(patched, folder)
            journal.points(1, 0.1, {"train/loss": 2.0})
            journal.event("no room")
            journal.update(state="running")
            assert folder.read_metrics()[0] == []
        journal.points(2, 0.2, {"train/loss": 1.0})
    assert [line.step for line in folder.read_metrics()[0]] == [1, 2]
    assert [event.message for event in folder.read_events()[0]] == ["no room"]


# Processes


def test_a_process_is_known_by_its_start_too() -> None:
    me = process.current()
    assert process.alive(me) is True
    assert process.alive(me._replace(started="another")) is False
    assert process.alive(me._replace(host="elsewhere")) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child_id = ProcessId(child.pid, process.start_time(child.pid) or "", me.host)
    assert process.alive(child_id) is True
    child.kill()
    time.sleep(0.2)
    assert process.alive(child_id) is False  # dead, though nobody has asked for its exit status yet
    child.wait()
    assert process.alive(child_id) is False


def test_one_worker_a_folder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib\nfrom llmtune_local.run_state.process import FolderLock\n"
            "with FolderLock(pathlib.Path(sys.argv[1])): print('held', flush=True); input()",
            str(lock),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert FolderLock(lock).holder().pid == holder.pid  # type: ignore[union-attr]
    with pytest.raises(FolderBusy, match=f"process {holder.pid} on "), FolderLock(lock):
        pass
    holder.kill()
    holder.wait()
    with FolderLock(lock) as held:  # left by a dead process
        assert held.holder() == process.current()
    assert held.holder() is None


@pytest.fixture
def unset_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nobody has told torch's libraries anything; what is told in the test is taken back."""
    for name in ("GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(("spin", "expected"), [(True, SPIN), (False, "0")])
def test_waiting_threads_spin_where_that_was_asked_for(
    spin: bool, expected: str, unset_environment: pytest.MonkeyPatch
) -> None:
    prepare_libraries(spin=spin)
    assert os.environ["GOMP_SPINCOUNT"] == expected
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"


def test_a_users_own_settings_of_the_libraries_stand(unset_environment: pytest.MonkeyPatch) -> None:
    unset_environment.setenv("GOMP_SPINCOUNT", "7")
    unset_environment.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "9")
    prepare_libraries(spin=True)
    assert (os.environ["GOMP_SPINCOUNT"], os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) == ("7", "9")
    unset_environment.delenv("GOMP_SPINCOUNT")
    unset_environment.setenv("OMP_WAIT_POLICY", "ACTIVE")
    prepare_libraries(spin=True)
    assert "GOMP_SPINCOUNT" not in os.environ


def test_a_machine_is_idle_by_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for load, expected in ((0.0, True), (100.0, False)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, load, load))
        assert idle() is expected
    monkeypatch.delattr(os, "getloadavg")  # as on Windows
    assert idle() is False


def test_usable_cores_are_at_least_one_and_at_most_all() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


# Journal


def test_the_journal_counts_attempts_and_keeps_beating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtune_local.run_state.status_writer.HEARTBEAT", 0.05)
    folder = RunDir(tmp_path)
    with StatusWriter(folder) as journal:
        first = folder.read_status()
        assert first is not None
        assert first.process == process.current()
        assert folder.alive() is True
        journal.update(step=3)
        journal.event("hello")
        time.sleep(0.3)
        later = folder.read_status()
        assert later is not None
        assert later.heartbeat > first.heartbeat
        assert later.step == 3
        journal.update(state="running")  # a change of state is written at once
        assert folder.read_status().state == "running"  # type: ignore[union-attr]
    with StatusWriter(folder) as journal:
        journal.event("again")
    assert folder.read_status().attempt == 2  # type: ignore[union-attr]
    assert [(event.id, event.message) for event in folder.read_events()[0]] == [("1-1", "hello"), ("2-1", "again")]
    assert isinstance(folder.read_events()[0][0], EventLine)


def test_what_is_declared_is_what_the_trainer_knows() -> None:
    from llmtune.provider.declarations import Sent
    from llmtune.provider.types import Target
    from llmtune_local import declarations
    from llmtune_local.training import optimizer

    assert set(declarations.OPTIMIZERS) == set(optimizer.OPTIMIZERS)
    declared = declarations.capabilities(Target(provider="local", kind="local", model="tiny")).parameters
    for name, field in schema.TrainingConfig.model_fields.items():
        entry = declared[name]
        assert isinstance(entry, Sent)
        # What is chosen by rule is sent with each request.
        if not (field.is_required() or entry.default is None or entry.default_rule) and name != "dpo_beta":
            assert field.default == entry.default, name
