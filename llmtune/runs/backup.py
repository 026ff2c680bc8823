"""Back up the run store and the files it refers to, as one archive; runs may go on meanwhile."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from llmtune import config
from llmtune._version import __version__
from llmtune.errors import InvalidSettings, StoreError
from llmtune.runs.store.migrations import CURRENT
from llmtune.runs.store.store import Store, open_store

#: What the store needs beside it, by folders of the home folder: encoded rows, answers, job files, trials' jobs, what
#: was trained here, and the records of `llmtune serve --tuning`. Prepared rows are made again.
FOLDERS = ("files", "answers", "runs", "sweeps", "local", "tuning")


@dataclass(frozen=True)
class Backup:
    """What was written."""

    file: Path
    runs: int
    files: int
    """Files beside the store."""

    bytes: int
    """Size of the archive."""


def back_up(file: Path, *, local: bool = True) -> Backup:
    """Write the run store and what it needs into a new tar archive that only its owner can read.

    The store is copied as it stands at one moment, by SQLite's backup API; it is copied first, so that each file which
    it names is there. An archive named `*.gz` or `*.tgz` is compressed. With `local=False` what was trained here is
    left out. Unpacked into a folder that `LLMTUNE_HOME` names, it is the store as it was.

    Raises `InvalidSettings` where there is a file of that name, or no folder for it, and `StoreError` for a store that
    is no file: a server has tools of its own, and the hint names them.
    """
    store = open_store()
    if not store.sqlite:
        raise StoreError(
            f"the run store {store.shown} is a PostgreSQL database, which is backed up by its own tools",
            hint=f"{_pg_dump(file)}; and copy {', '.join(FOLDERS)} of {config.home()} on each machine that starts runs",
        )
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise InvalidSettings(f"{file} is there already, and a backup replaces nothing: name another file") from None
    except OSError as error:
        raise InvalidSettings(f"{file} cannot be written: {error.strerror}; name a file in a folder of yours") from None
    try:
        return _write_archive(store, file, FOLDERS if local else tuple(name for name in FOLDERS if name != "local"))
    except BaseException:
        file.unlink()
        raise


def _write_archive(store: Store, file: Path, folders: tuple[str, ...]) -> Backup:
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as folder:
        copy, archive = Path(folder) / "store.db", Path(folder) / "archive"
        runs = copy_store(store, copy)
        compressed = file.suffix in (".gz", ".tgz")
        files = 0
        with (
            os.fdopen(os.open(archive, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as raw,
            tarfile.open(fileobj=raw, mode="w:gz" if compressed else "w") as tar,
        ):
            _add_text(tar, "backup.json", _describe_backup(runs))
            with copy.open("rb") as opened:
                _add(tar, "store.db", opened)
            for path in _iter_files(folders):
                if path == file.absolute():
                    continue
                with suppress(FileNotFoundError), path.open("rb") as opened:  # a checkpoint may go meanwhile
                    _add(tar, path.relative_to(config.home()).as_posix(), opened)
                    files += 1
        archive.replace(file)
    return Backup(file=file, runs=runs, files=files, bytes=file.stat().st_size)


def copy_store(store: Store, into: Path) -> int:
    """Copy a SQLite store as it stands at one moment into a new file; returns how many runs it holds."""
    os.close(os.open(into, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(into)) as copy:
        with store.read() as connection:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without those that WAL keeps beside it
        (damage,) = copy.execute("PRAGMA quick_check").fetchone()
        if damage != "ok":
            raise StoreError(f"the store {store.shown} is damaged: {damage}", hint="llmtune doctor")
        return int(copy.execute("SELECT count(*) FROM runs").fetchone()[0])


def _iter_files(folders: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files in these folders of the home folder; hidden ones are still being written."""
    for name in folders:
        for path in sorted((config.home() / name).rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(config.home()).parts)
            if path.is_file() and not hidden:
                yield path


def _describe_backup(runs: int) -> str:
    about = {
        "llmtune": __version__,
        "store_version": CURRENT,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "home": str(config.home()),
        "runs": runs,
    }
    return json.dumps(about, indent=1) + "\n"


def _add(tar: tarfile.TarFile, name: str, opened: IO[bytes]) -> None:
    """Add an open file with the size that it has now: what is appended later is left to the next backup."""
    info = tar.gettarinfo(arcname=name, fileobj=opened)
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    tar.addfile(info, opened)


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o600, int(time.time())
    tar.addfile(info, io.BytesIO(data))


def _pg_dump(file: Path) -> str:
    from sqlalchemy.engine import URL, make_url

    url = make_url(config.store_url())
    address = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    return f"pg_dump --format=custom --file={file} {address.render_as_string()}"
