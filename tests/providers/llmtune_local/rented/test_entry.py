"""The machine's side of a rented run: copies to the storage, limits, and how it goes on elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmtune_local.rented import entry
from llmtune_local.rented.entry import STOP_BEFORE, Attempt, Mirror, read_record


def make_storage(folder: Path, *, steps: int, seconds: float) -> tuple[Path, Path]:
    inputs, run = folder / "inputs", folder / "storage"
    inputs.mkdir()
    run.mkdir()
    row = '{"messages":[{"role":"user","content":"ticket"},{"role":"assistant","content":"team"}]}\n'
    (inputs / "rows.jsonl").write_text(row * 16, encoding="utf-8")
    recipe = {"epochs": 10_000, "max_steps": steps, "batch_size": 8, "learning_rate": 1e-4}
    request = {
        "schema": 1,
        "model": "tiny",
        "adapter": "lora",
        "files": {"train": "rows.jsonl"},
        "hyperparameters": recipe,
    }
    (run / "request.json").write_text(json.dumps(request), encoding="utf-8")
    (run / "limits.json").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")
    return inputs, run


@pytest.mark.slow
def test_near_the_limit_the_worker_writes_a_checkpoint_and_the_rest_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "SYNC_SECONDS", 0.1)
    inputs, run = make_storage(tmp_path, steps=1_000_000, seconds=3600.0)
    work = tmp_path / "work"

    def clock() -> float:
        """Half an hour passes in no time once there are points; the limit is then still a minute away."""
        points = work / "metrics.jsonl"
        return 3600 - STOP_BEFORE if points.is_file() and points.stat().st_size else 0.0

    assert Attempt(inputs, run, work, started=0.0, clock=clock).run() == 0
    ended = read_record(run / "ended.json")
    assert ended["reason"] == "budget"
    assert ended["step"] >= 1
    assert (run / "checkpoints" / f"step-{ended['step']}" / "trainer.pt").is_file()
    assert read_record(run / "used.json")["seconds"] == 3600 - STOP_BEFORE
    assert STOP_BEFORE < 60

    shutil.rmtree(work)
    again = Attempt(inputs, run, work, started=0.0, clock=lambda: 0.0)
    assert again.before == 3600 - STOP_BEFORE
    again.mirror.restore()
    assert again.folder.resume_step() == ended["step"], "another machine finds the checkpoint"


def test_what_is_used_up_is_not_begun_again(tmp_path: Path) -> None:
    inputs, run = make_storage(tmp_path, steps=1, seconds=120.0)
    (run / "used.json").write_text('{"seconds": 80}', encoding="utf-8")
    assert Attempt(inputs, run, tmp_path / "work", started=0.0, clock=lambda: 0.0).run() == 0
    assert read_record(run / "ended.json")["reason"] == "budget"
    assert not (run / "status.json").exists(), "no worker was started"


def test_a_request_that_cannot_be_trained_ends_and_is_not_repeated(tmp_path: Path) -> None:
    inputs, run = make_storage(tmp_path, steps=1, seconds=600.0)
    request = json.loads((run / "request.json").read_text())
    (run / "request.json").write_text(json.dumps(request | {"no_such_field": 1}), encoding="utf-8")
    assert Attempt(inputs, run, tmp_path / "work", started=0.0, clock=lambda: 0.0).run() == 0
    assert read_record(run / "ended.json")["reason"] == "done"
    assert "failed" in (run / "status.json").read_text()


def test_the_status_is_copied_after_what_it_announces_and_nothing_local_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, storage = tmp_path / "work", tmp_path / "storage"
    (work / "checkpoints" / "step-2").mkdir(parents=True)
    storage.mkdir()
    for name in ("status.json", "result.json", "metrics.jsonl", "lock", "cancel", "launched", ".status.json.1.tmp"):
        (work / name).write_text(name, encoding="utf-8")
    (work / "checkpoints" / "step-2" / "trainer.pt").write_text("state", encoding="utf-8")
    copied: list[str] = []
    copy = shutil.copyfile

    def note(source: Path, target: Path) -> None:
        copied.append(source.relative_to(work).as_posix())
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", note)
    mirror = Mirror(work, storage)
    mirror.save()
    assert copied == ["metrics.jsonl", "checkpoints/step-2/trainer.pt", "result.json", "status.json"]
    mirror.save()
    assert len(copied) == 4, "what has not changed is not copied again"
    shutil.rmtree(work / "checkpoints")
    mirror.save()
    assert not (storage / "checkpoints" / "step-2" / "trainer.pt").exists()


def test_the_time_that_was_used_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts against the most that the run may cost, so that a machine taken away meanwhile must not lose it."""
    mirror = Mirror(tmp_path / "work", tmp_path)
    mirror.write("used.json", {"seconds": 80.0})
    write = Path.write_text

    def break_off(path: Path, content: str, **options: str) -> int:
        write(path, content[:4], **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", break_off)
        with pytest.raises(KeyboardInterrupt):
            mirror.write("used.json", {"seconds": 90.0})
    assert read_record(tmp_path / "used.json") == {"seconds": 80.0}

    def refuse(path: Path, target: Path) -> Path:
        raise PermissionError("this storage does not rename")

    monkeypatch.setattr(Path, "replace", refuse)
    mirror.write("used.json", {"seconds": 90.0})
    assert read_record(tmp_path / "used.json") == {"seconds": 90.0}
    assert not (tmp_path / ".used.json.tmp").exists()
