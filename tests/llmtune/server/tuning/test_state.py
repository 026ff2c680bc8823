"""Records and content on the disk, as a process finds them that comes after a kill."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import StoreError
from llmtune.server.tuning.state import RETRY_SECONDS, FileRecord, JobRecord, TuningState, digest_of


def file_record(number: int, sha256: str = "a", **fields: Any) -> FileRecord:
    values = {"created": time.time() + number, "bytes": 3, "filename": "a.jsonl", "purpose": "fine-tune"}
    return FileRecord(id=f"file-{number}", sha256=sha256 * 64, **(values | fields))


def add(state: TuningState, record: FileRecord) -> FileRecord:
    temporary = state.content / f".{record.id}.tmp"
    temporary.write_bytes(b"{}\n")
    return state.add_file(temporary, record)


def a_job(file: FileRecord, **fields: Any) -> JobRecord:
    values = {"created": time.time(), "model": "m", "target": "fake:m-1", "tuned_name": "ft:m:o::ltabcdefghij"}
    return JobRecord(id="ftjob-abcdefghij", training_file=file, **(values | fields))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "tuning" / "content").iterdir())


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    state = TuningState(tmp_path)
    file = add(state, file_record(1))
    job = state.save_job(a_job(file, metadata={"a": "b"}, hyperparameters={"n_epochs": "auto"}))
    state.change_job(job.id, cancelled=True)
    state.close()
    again = TuningState(tmp_path)
    assert again.files() == [file]
    assert again.jobs() == [job.model_copy(update={"cancelled": True})]
    assert again.job("ftjob-none") is None
    assert (tmp_path / "tuning").stat().st_mode & 0o077 == 0
    again.close()


def test_what_a_killed_process_left_half_done_is_removed(tmp_path: Path) -> None:
    state = TuningState(tmp_path)
    file = add(state, file_record(1))
    state.close()
    content = tmp_path / "tuning" / "content"
    (content / ".upload-1234.tmp").write_bytes(b"half")
    (content / f"{'b' * 64}.jsonl").write_bytes(b"its record was never written")
    (tmp_path / "tuning" / "files" / ".file-9.json.tmp").write_bytes(b"{")
    again = TuningState(tmp_path)
    assert names(tmp_path) == [f"{'a' * 64}.jsonl"]
    assert again.files() == [file]
    again.close()


def test_content_goes_with_its_last_file_and_its_last_unfinished_job(tmp_path: Path) -> None:
    state = TuningState(tmp_path)
    first, second = add(state, file_record(1)), add(state, file_record(2))
    job = state.save_job(a_job(first))
    state.delete_file(first)
    state.delete_file(second)
    assert len(names(tmp_path)) == 1
    state.change_job(job.id, settled=True)
    assert names(tmp_path) == []
    state.close()


def test_one_server_a_home_and_a_damaged_record_is_named(tmp_path: Path) -> None:
    state = TuningState(tmp_path)
    with pytest.raises(StoreError, match="another llmtune serve --tuning uses"):
        TuningState(tmp_path)
    add(state, file_record(1))
    state.close()
    path = tmp_path / "tuning" / "files" / "file-1.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=r"file-1\.json is damaged"):
        TuningState(tmp_path)
    path.unlink()
    TuningState(tmp_path).close()  # whoever could not start holds nothing


def test_a_second_try_is_recognised_by_its_number_and_only_for_a_while(tmp_path: Path) -> None:
    state = TuningState(tmp_path)
    now = time.time()
    old = file_record(1, created=now - RETRY_SECONDS - 5, digest="d")
    recent = file_record(2, created=now, digest="d")
    named = file_record(3, created=now, digest="e", idempotency_key="k")
    every = [named, recent, old]

    def repeated(digest: str, retry: int, key: str | None = None) -> FileRecord | None:
        return state.find_retried(every, digest=digest, retry=retry, key=key)

    assert repeated("d", 0) is None
    assert repeated("d", 1) == recent
    assert repeated("x", 1) is None
    assert repeated("x", 0, "k") == named
    assert repeated("d", 1, "other") is None
    every[1] = recent.model_copy(update={"retries": 1})
    assert repeated("d", 1) is None  # answered with it already: this is another request's second try
    assert repeated("d", 2) == every[1]
    state.close()


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2, "ä"]}) == digest_of({"b": [2, "ä"], "a": 1}) != digest_of({"a": 1, "b": [2]})
