"""A store that cannot be used says so in one sentence, and is left as it was."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llmtune.errors import StoreError, StoreUnavailable
from llmtune.provider.types import Event
from llmtune.runs.store import database, migrations, schema
from llmtune.runs.store.database import is_unavailable, keep_trying, network_file_system
from llmtune.runs.store.store import Store, open_store
from tests.llmtune.runs.helpers import a_record

pytestmark = pytest.mark.usefixtures("no_long_pauses")


def contents(folder: Path) -> dict[str, str]:
    """Every file by its hash. The side files that SQLite makes for reading in WAL mode hold nothing of their own."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.endswith("-shm") and path.stat().st_size
    }


@pytest.fixture
def path(own_home: Path) -> Path:
    """Return a closed store with one run in it."""
    store = Store(f"sqlite:///{own_home / 'store.db'}")
    run, _ = store.create_or_join(a_record())
    store.add_events(run.id, [Event(id="e", time=1.0, message="m")])
    store.close()
    return own_home / "store.db"


def test_the_file_is_readable_by_its_owner_only(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE llmtune_schema SET version = 999")
    connection.close()
    before = contents(path.parent)
    with pytest.raises(StoreError, match=r"written by a newer llmtune.*left as it is") as caught:
        Store(f"sqlite:///{path}")
    assert "pip install -U" in (caught.value.hint or "")
    assert contents(path.parent) == before


def test_a_newer_version_in_postgresql_is_refused_too(postgres_url: str) -> None:
    store = Store(postgres_url)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE llmtune_schema SET version = 999")
    store.close()
    with pytest.raises(StoreError, match="newer llmtune"):
        Store(postgres_url)


@pytest.mark.parametrize("damage", ["text", "header", "middle"])
def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "text":
        data = bytearray(b"this is somebody's shopping list\n" * 200)
    elif damage == "header":
        data[:16] = b"\0" * 16
    else:
        data[100:4096] = os.urandom(3996)
    path.write_bytes(data)
    before = contents(path.parent)
    with pytest.raises(StoreError, match=r"damaged|malformed|not a database") as caught:
        Store(f"sqlite:///{path}").runs()
    assert "\n" not in caught.value.message
    assert contents(path.parent) == before


def test_a_full_disk_is_said_and_nothing_is_half_written(path: Path) -> None:
    store = Store(f"sqlite:///{path}")
    (run,) = store.runs()
    with store.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    from sqlalchemy import event

    store.close()
    event.listen(store._get_engine(), "connect", lambda dbapi, _: dbapi.execute(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StoreError, match="disk is full") as caught:
        store.add_events(run.id, [Event(id=f"{n}", time=1.0, message="x" * 10_000) for n in range(50)])
    assert "free some space" in (caught.value.hint or "")
    store.close()
    again = Store(f"sqlite:///{path}")
    assert [event.id for _, event in again.events(run.id)] == ["e"]
    again.close()


READ_ONLY = """
import os, sqlite3
import sqlalchemy.dialects.sqlite
from llmtune.errors import StoreError
from llmtune.runs.store import schema
from llmtune.runs.store.store import open_store
os.setgid(65534)
os.setuid(65534)
try:
    open_store().runs()
except StoreError as error:
    print(error.message)
    print(error.hint)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_home_is_said_and_left_as_it_is(path: Path, there: bool) -> None:
    if not there:
        for file in path.parent.iterdir():
            file.unlink()
    else:
        path.chmod(0o444)
    for folder in path.parents[:3]:
        folder.chmod(0o555)
    before = contents(path.parent)
    done = subprocess.run([sys.executable, "-c", READ_ONLY], capture_output=True, text=True)
    for folder in path.parents[:3]:
        folder.chmod(0o755)
    assert "run store" in done.stdout, done
    assert "LLMTUNE_HOME" in done.stdout
    assert "Traceback" not in done.stderr
    assert contents(path.parent) == before


def test_a_home_that_is_a_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("hello")
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    with pytest.raises(StoreError, match="cannot be made"):
        open_store()
    assert (tmp_path / "home").read_text() == "hello"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://root:pw-canary@localhost/x", "keeps runs in SQLite or PostgreSQL"),
        ("postgresql+psycopg://user:pw-canary@127.0.0.1:1/x", "could not be opened|could not be read"),
    ],
)
def test_a_wrong_store_url_is_one_sentence_without_its_password(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        Store(url)
    assert "pw-canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_network_file_system_is_warned_of(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = (
        "/dev/sda1 / ext4 rw 0 0\nserver:/home /mnt/my\\040home nfs4 rw 0 0\ntmpfs /mnt/my\\040home/tmp tmpfs rw 0 0\n"
    )
    assert network_file_system(Path("/mnt/my home/x"), mounts) == "nfs4"
    assert network_file_system(Path("/mnt/my home/tmp/x"), mounts) is None
    assert network_file_system(Path("/mnt/my homes"), mounts) is None
    assert network_file_system(Path("/x"), mounts) is None
    from llmtune.runs.store import database

    monkeypatch.setattr(database, "network_file_system", lambda _: "nfs4")
    with caplog.at_level(logging.WARNING, "llmtune"):
        Store(f"sqlite:///{path}").close()
    assert "network file system (nfs4)" in caplog.text


# --- migrations ------------------------------------------------------------------------------------------------------
def test_the_migrations_make_exactly_the_tables_that_are_used(store: Store) -> None:
    from sqlalchemy import inspect

    with store.read() as connection:
        found = inspect(connection)
        assert set(found.get_table_names()) == set(schema.metadata.tables)
        for name, table in schema.metadata.tables.items():
            there = {column["name"]: column for column in found.get_columns(name)}
            assert set(there) == {column.name for column in table.columns}
            for column in table.columns:
                if not column.primary_key:
                    assert there[column.name]["nullable"] == bool(column.nullable), f"{name}.{column.name}"
            primary = found.get_pk_constraint(name)["constrained_columns"]
            assert primary == [column.name for column in table.primary_key.columns]


def test_an_older_store_is_brought_up_to_date_with_its_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.runs.store import database

    run, _ = store.create_or_join(a_record())
    store.close()
    later = {**migrations.MIGRATIONS, 2: ("ALTER TABLE runs ADD COLUMN note TEXT", "UPDATE runs SET note = 'old'")}
    monkeypatch.setattr(migrations, "MIGRATIONS", later)
    monkeypatch.setattr(database, "CURRENT", 2)
    opened = Store(store._url)
    with opened.read() as connection:
        assert connection.exec_driver_sql("SELECT note FROM runs").scalar() == "old"
        assert connection.exec_driver_sql("SELECT version FROM llmtune_schema").scalar() == 2
    assert opened.get(run.id) == run
    opened.close()


def test_a_migration_that_fails_leaves_the_older_store_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.runs.store import database

    run, _ = store.create_or_join(a_record())
    store.close()
    broken = {**migrations.MIGRATIONS, 2: ("ALTER TABLE runs ADD COLUMN note TEXT", "UPDATE nothing SET x = 1")}
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", broken)
        patch.setattr(database, "CURRENT", 2)
        with pytest.raises(StoreError):
            Store(store._url)
    opened = Store(store._url)
    assert opened.get(run.id) == run
    with opened.read() as connection:
        assert connection.exec_driver_sql("SELECT version FROM llmtune_schema").scalar() == 1
    opened.close()


@pytest.mark.parametrize(
    ("complaint", "away"),
    [
        ("database is locked", True),
        ("disk I/O error", True),
        ("connection failed: connection to server at 127.0.0.1 failed: Connection refused", True),
        ("terminating connection due to administrator command", True),
        ("FATAL:  the database system is starting up", True),
        ("database or disk is full", False),
        ("no such table: runs", False),
        ('password authentication failed for user "ann"', False),
    ],
)
def test_a_database_that_is_away_is_told_from_one_that_is_wrong(complaint: str, away: bool) -> None:
    assert is_unavailable(sqlite3.OperationalError(complaint)) is away


def test_a_connection_that_postgresql_ends_is_a_store_that_is_away(postgres_url: str) -> None:
    store, other = Store(postgres_url), Store(postgres_url)
    run, _ = store.create_or_join(a_record())
    with pytest.raises(StoreUnavailable, match="could not be read"), store.read() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with other.read() as second:
            second.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        connection.exec_driver_sql("SELECT 1")
    assert store.get(run.id).id == run.id


def test_a_store_that_was_deleted_says_so_and_makes_no_new_one(path: Path) -> None:
    store = Store(f"sqlite:///{path}")
    runs = store.runs()
    for file in path.parent.glob("store.db*"):
        file.unlink()
    with pytest.raises(StoreUnavailable, match=r"store\.db is gone") as caught:
        store.runs()
    assert caught.value.deleted
    with pytest.raises(StoreUnavailable):
        store.warn(runs[0].id, "lost")
    assert not path.exists()


def test_a_store_that_another_file_has_replaced_is_opened_anew(path: Path, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{path}")
    known = [run.id for run in store.runs()]
    other = Store(f"sqlite:///{tmp_path / 'other.db'}")
    run, _ = other.create_or_join(a_record())
    other.close()
    (tmp_path / "other.db").replace(path)
    assert [each.id for each in store.runs()] == [run.id] != known


def test_what_is_tried_again_while_the_store_is_away_ends() -> None:
    pauses: list[float] = []

    def away() -> None:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        keep_trying(away, doing="a note", seconds=60.0, sleep=pauses.append)
    assert 60.0 <= sum(pauses) <= 70.0
    assert max(pauses) == 10.0


def test_a_file_that_another_process_has_locked_is_a_store_that_is_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(database, "retry_while_locked", lambda action: action())
    holder = sqlite3.connect(path)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="database is locked"):
        Store(f"sqlite:///{path}")
    holder.close()
    assert len(Store(f"sqlite:///{path}").runs()) == 1
