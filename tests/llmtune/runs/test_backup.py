"""`llmtune runs backup`: one archive from which everything opens again."""

from __future__ import annotations

import json
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmtune.cli.runs import app
from llmtune.errors import InvalidSettings, StoreError
from llmtune.job.spec import TuningJob
from llmtune.provider.types import Event
from llmtune.runs import backup, poller
from llmtune.runs.api import attach, start
from llmtune.runs.store.store import Store
from llmtune.testing.fake_provider import FakeProvider
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.runs.helpers import QUICK, a_record

pytestmark = pytest.mark.usefixtures("no_long_pauses")

At = Callable[..., FakeProvider]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "HOSTED", QUICK)


def runs(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def unpacked(archive: Path, into: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    return into


@pytest.mark.parametrize("name", ["backup.tar", "backup.tar.gz"])
def test_the_backup_opens_as_a_home_of_its_own(
    name: str, vendor: Fake, at: At, job: TuningJob, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(job, at())
    report = run.wait(pace=QUICK)
    archive = tmp_path / name
    done = json.loads(runs("backup", str(archive), "--json").output)
    assert (done["file"], done["runs"], done["bytes"]) == (str(archive), 1, archive.stat().st_size)
    assert archive.stat().st_mode & 0o777 == 0o600

    home = unpacked(archive, tmp_path / "restored")
    before = {path.relative_to(own_home) for path in own_home.rglob("*") if path.is_file()}
    after = {path.relative_to(home) for path in home.rglob("*") if path.is_file()}
    assert done["files"] > 0
    assert {path for path in before - after if not path.name.startswith(("store.db", "."))} == set()
    assert json.loads((home / "backup.json").read_text())["home"] == str(own_home)
    monkeypatch.setenv("LLMTUNE_HOME", str(home))
    assert not (home / "store.db-wal").exists()
    again = attach(run.id)
    assert again.report() == report
    assert again.record == run.record
    assert len(again.metrics()) == len(run.metrics()) == 12
    assert run.id in runs("list").output


def test_nothing_that_is_there_is_replaced(own_home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar"
    archive.write_text("last year's")
    with pytest.raises(InvalidSettings, match=r"backup\.tar is there already"):
        runs("backup", str(archive))
    assert archive.read_text() == "last year's"
    with pytest.raises(InvalidSettings, match="cannot be written: No such file"):
        runs("backup", str(tmp_path / "nowhere" / "backup.tar"))


def test_a_backup_that_fails_leaves_nothing(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "_add", full)
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(OSError, match="No space left"):
        runs("backup", str(into / "backup.tar"))
    assert list(into.iterdir()) == []


def test_the_store_is_copied_whole_while_others_write(own_home: Path, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{own_home / 'store.db'}")
    record, _ = store.create_or_join(a_record())
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            pair = [Event(id=f"{number}-{side}", time=float(number), message="m") for side in ("a", "b")]
            store.add_events(record.id, pair)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            archive = tmp_path / f"{number}.tar"
            runs("backup", str(archive))
            copy = unpacked(archive, tmp_path / f"{number}") / "store.db"
            with sqlite3.connect(copy) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                (events,) = database.execute("SELECT count(*) FROM events").fetchone()
            database.close()
            assert events % 2 == 0  # two are added at a time: none is seen without the other
    finally:
        stop.set()
        writer.join()


def test_what_was_trained_here_may_be_left_out_and_what_is_made_again_is(own_home: Path, tmp_path: Path) -> None:
    for name in (
        "local/lt1/adapter/adapter_config.json",
        "prepared/p/rows.bin",
        "answers/a/answers.jsonl",
        "notes.txt",
    ):
        (own_home / name).parent.mkdir(parents=True, exist_ok=True)
        (own_home / name).write_text("{}")
    (own_home / "local" / "lt1" / ".status.json.1.tmp").write_text("half")
    runs("backup", str(tmp_path / "all.tar"))
    runs("backup", str(tmp_path / "small.tar"), "--no-local")
    names = {}
    for file in ("all.tar", "small.tar"):
        with tarfile.open(tmp_path / file) as tar:
            names[file] = set(tar.getnames())
    assert names["small.tar"] == {"backup.json", "store.db", "answers/a/answers.jsonl"}
    assert names["all.tar"] == names["small.tar"] | {"local/lt1/adapter/adapter_config.json"}


def test_a_store_in_postgresql_is_left_to_its_own_tools(
    postgres_url: str, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMTUNE_STORE", postgres_url)
    with pytest.raises(StoreError, match="is a PostgreSQL database") as caught:
        runs("backup", str(tmp_path / "backup.tar"))
    hint = caught.value.hint or ""
    assert hint.startswith(f"pg_dump --format=custom --file={tmp_path / 'backup.tar'} postgresql://llmtune@127.0.0.1:")
    assert "canary" not in hint
    assert str(own_home) in hint
    assert not (tmp_path / "backup.tar").exists()
