"""Connections to the run store: SQLite in the home folder, or PostgreSQL for a team. SQLAlchemy is imported on use.

Every read-modify-write takes the write lock first (`BEGIN IMMEDIATE`, or an advisory lock in PostgreSQL): a read that
is upgraded to a write would work on a stale snapshot and lose what others wrote meanwhile.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from llmtune._safety.private_files import make_private_folder
from llmtune.config import redact_url
from llmtune.errors import MissingExtra, StoreError, StoreUnavailable
from llmtune.runs.store.migrations import CURRENT, migrate

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

log = logging.getLogger("llmtune")
T = TypeVar("T")

#: Seconds that a writer waits for another one.
BUSY_SECONDS = 60

#: File systems on which SQLite's locks are not to be trusted (sqlite.org/faq.html#q5, sqlite.org/wal.html).
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "afpfs", "9p", "lustre", "ceph", "glusterfs", "gpfs"}
    | {"beegfs", "webdav", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone"}
)

#: Parts of the messages by which a database says that it is unavailable, or busy, for a while. A PostgreSQL that
#: restarts breaks connections, refuses new ones, and then says that it is starting up.
UNAVAILABLE_PHRASES = (
    "database is locked",
    "database table is locked",
    "database schema is locked",
    "disk i/o error",
    "unable to open database file",
    "locking protocol",
    "connection refused",
    "could not connect",
    "connection failed",
    "connection is bad",
    "connection is closed",
    "connection is lost",
    "connection timeout",
    "server closed the connection",
    "terminating connection",
    "the database system is",
    "could not receive data",
    "could not send data",
    "connection reset",
    "broken pipe",
    "name resolution",
    "could not translate host name",
    "no route to host",
    "network is unreachable",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "ssl connection has been closed",
    "no such file or directory",
    "consuming input failed",
    "sending query failed",
)

#: Seconds for which a write that must not be lost is retried while the store is away, and the longest pause.
STORE_TIMEOUT, STORE_PAUSE = 600.0, 10.0

_LOCK = 0x6C6C6D74  # "llmt": PostgreSQL's advisory lock of this store


class Database:
    """The connection to one store: its engine, and transactions in which no write is lost."""

    def __init__(self, url: str) -> None:
        self.shown = redact_url(url)
        """The URL as it may be shown: without its password."""
        self._url = url
        self._engine: Engine | None = None
        self._pid = 0
        self._file: Path | None = None
        self._inode: tuple[int, int] | None = None
        """Which file the engine has open: one that was put in its place is another store."""

        self._writing = threading.Lock()
        self.sqlite = url.startswith("sqlite")
        self._prepare()

    # --- transactions ----------------------------------------------------------------------------------------------
    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection that reads one consistent state."""
        with self._translate_errors("read"), self._get_engine().connect() as connection:
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """Open a transaction that holds the write lock from its start; it is rolled back on any error.

        What it wrote survives the death of this process in any case, and a power cut when `durable`: metrics and
        events can be asked for again, and do not pay for the disk's flush.
        """
        with self._translate_errors("written"), self._wait_for_turn(), self._get_engine().connect() as connection:
            writing = connection.execution_options(llmtune_write="FULL" if durable else "NORMAL")
            with writing.begin():
                if not self.sqlite:
                    writing.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
                yield writing

    @contextmanager
    def _wait_for_turn(self) -> Iterator[None]:
        """Wait until no other thread of this process writes: a lock wakes waiting threads, SQLite only polls."""
        if not self.sqlite:
            yield
            return
        self._get_engine()  # a forked child makes a lock of its own, with its engine
        with self._writing:
            yield

    def close(self) -> None:
        """Close every connection."""
        engine, self._engine = self._engine, None
        if engine is not None and self._pid == os.getpid():
            engine.dispose()

    # --- opening ---------------------------------------------------------------------------------------------------
    def _prepare(self) -> None:
        """Check the existing store before anything is changed, then bring the tables up to date."""
        try:
            from sqlalchemy.engine import make_url
            from sqlalchemy.exc import ArgumentError
        except ImportError:
            raise MissingExtra("all", "sqlalchemy", purpose="the run store") from None
        try:
            parsed = make_url(self._url)
        except ArgumentError:
            raise StoreError(
                f"the store {self.shown!r} is not a database URL",
                hint="LLMTUNE_STORE takes postgresql+psycopg://USER@HOST/DATABASE or sqlite:////absolute/path.db",
            ) from None
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise StoreError(
                f"the store {self.shown} is a {parsed.get_backend_name()} database; llmtune keeps runs in SQLite or"
                " PostgreSQL",
                hint="LLMTUNE_STORE takes postgresql+psycopg://USER@HOST/DATABASE",
            )
        if self.sqlite:
            self._prepare_file(Path(parsed.database or ""))
        with self._translate_errors("opened"):
            version = self._version()
            self._refuse_newer(version)
            if version < CURRENT:
                with self.write() as connection:  # another process may have been faster: look again under the lock
                    version = _version(connection)
                    self._refuse_newer(version)
                    if version < CURRENT:
                        migrate(connection, version)

    def _prepare_file(self, path: Path) -> None:
        try:
            make_private_folder(path.parent)
        except OSError as error:
            raise StoreError(
                f"the folder of the run store, {path.parent}, cannot be made: {error.strerror}",
                hint="set LLMTUNE_HOME to a folder you may write to",
            ) from None
        if kind := network_file_system(path.parent):
            log.warning(
                "the run store %s lies on a network file system (%s), where SQLite's locks cannot be trusted:"
                " set LLMTUNE_HOME to a local folder, or LLMTUNE_STORE to a PostgreSQL database",
                path,
                kind,
            )
        if path.exists() and path.stat().st_size:
            # Look at the version through a connection that cannot write, so that a store we must refuse stays as it is.
            self._refuse_newer(_read_file_version(path))
        elif not path.exists():
            try:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            except OSError as error:
                raise StoreError(
                    f"the run store {path} cannot be made: {error.strerror}",
                    hint="set LLMTUNE_HOME to a folder you may write to",
                ) from None
        self._file = path
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise StoreError(
                f"the run store {path} cannot be written: permission denied",
                hint="set LLMTUNE_HOME to a folder you may write to",
            )

    def _refuse_newer(self, version: int) -> None:
        if version > CURRENT:
            raise StoreError(
                f"the run store {self.shown} was written by a newer llmtune (store version {version}; this one knows up"
                f" to {CURRENT}); it was left as it is",
                hint="pip install -U llmtune-sdk",
            )

    def _version(self) -> int:
        with self.read() as connection:
            return _version(connection)

    def _check_file(self) -> None:
        """Close the engine of a file that another one has replaced.

        Raises `StoreUnavailable` when the file is gone: SQLite would go on writing to a file without a name.
        """
        if self._file is None:
            return
        try:
            status = self._file.stat()
        except OSError as error:
            raise StoreUnavailable(
                f"the run store {self._file} is gone ({error.strerror}): it was deleted, or its folder was moved",
                deleted=True,
                hint="put it back, or restore a backup",
            ) from None
        inode = (status.st_dev, status.st_ino)
        if self._inode not in (None, inode):
            self.close()
        self._inode = inode

    def _get_engine(self) -> Engine:
        self._check_file()
        if self._engine is None or self._pid != os.getpid():  # a forked child must not share our connections
            self._engine, self._pid, self._writing = self._make_engine(), os.getpid(), threading.Lock()
        return self._engine

    def _make_engine(self) -> Engine:
        from sqlalchemy import create_engine, event
        from sqlalchemy.exc import NoSuchModuleError

        try:
            # No bound on connections but that of our threads: waiting for a free one is timed by the wall clock, and
            # would fail when that jumps.
            if not self.sqlite:
                # A server may drop an idle connection; asking first costs a round trip and saves an error.
                return create_engine(self._url, pool_size=4, max_overflow=-1, pool_pre_ping=True, hide_parameters=True)
            engine = create_engine(
                self._url,
                pool_size=4,
                max_overflow=-1,
                hide_parameters=True,
                connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            )
        except (NoSuchModuleError, ImportError):
            raise MissingExtra("postgres", "psycopg", purpose="a run store in PostgreSQL") from None
        event.listen(engine, "connect", _configure_connection)
        event.listen(engine, "begin", _begin_transaction)
        return engine

    @contextmanager
    def _translate_errors(self, verb: str) -> Iterator[None]:
        """Translate a database error to `StoreError`: one sentence, without the URL's password and without a chain."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            kind = StoreUnavailable if is_unavailable(error) else StoreError
            raise kind(self._describe_error(error, verb), hint=self._hint(error)) from None

    def _describe_error(self, error: BaseException, verb: str) -> str:
        message = redact_url(str(getattr(error, "orig", None) or error).strip()).split("\n")[0]
        password = _password(self._url)
        if password:
            message = message.replace(password, "***")
        return f"the run store {self.shown} could not be {verb}: {message}"

    def _hint(self, error: BaseException) -> str | None:
        message = str(error).lower()
        if "disk is full" in message or "no space" in message:
            return "free some space on that disk; nothing was changed in the store"
        if "not a database" in message or "malformed" in message:
            return "the file is damaged or no llmtune store: restore a backup, or set LLMTUNE_HOME to another folder"
        if "readonly" in message or "read-only" in message:
            return "set LLMTUNE_HOME to a folder you may write to"
        return None


def is_unavailable(error: BaseException) -> bool:
    """Return whether a database error means that the store is unavailable, or busy, for a while."""
    if getattr(error, "connection_invalidated", False):
        return True
    message = str(getattr(error, "orig", None) or error).lower()
    return any(phrase in message for phrase in UNAVAILABLE_PHRASES)


def keep_trying(
    action: Callable[[], T],
    *,
    doing: str,
    seconds: float = STORE_TIMEOUT,
    even_deleted: bool = True,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return the result of an action on the store, tried again while the store is away.

    Args:
        action: what may be repeated.
        doing: what it does, for the log.
        seconds: for how long it is tried; the pauses are counted, not the clock.
        even_deleted: try again also where the store's file is gone, because what would be lost is worth the wait.
        sleep: waits; a test may give its own.

    Raises `StoreUnavailable` when the store was away for longer, or is deleted and `even_deleted` is not set.
    """
    pause, waited = 0.25, 0.0
    while True:
        try:
            return action()
        except StoreUnavailable as error:
            if waited >= seconds or (error.deleted and not even_deleted):
                raise
            if waited == 0.0:
                log.warning("%s: %s; trying again", doing, error.message)
        sleep(pause)
        waited += pause
        pause = min(pause * 2, STORE_PAUSE)


def _configure_connection(connection: Any, _record: Any) -> None:
    """Configure a new SQLite connection. SQLAlchemy's `begin` event below sends BEGIN, not the driver."""
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    # The first switch of a new file to WAL wants the file for itself and does not wait: several processes that start
    # together get "database is locked" now and then.
    retry_while_locked(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_transaction(connection: Any) -> None:
    synchronous = connection.get_execution_options().get("llmtune_write")
    if synchronous and connection.info.get("synchronous") != synchronous:
        connection.exec_driver_sql(f"PRAGMA synchronous = {synchronous}")
        connection.info["synchronous"] = synchronous
    connection.exec_driver_sql("BEGIN IMMEDIATE" if synchronous else "BEGIN")


def retry_while_locked(action: Callable[[], T], *, seconds: float = 20.0) -> T:
    """Retry an action, with jitter, while SQLite says that the database is locked."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.002, 0.05))


def _version(connection: Connection) -> int:
    from sqlalchemy import inspect

    if not inspect(connection).has_table("llmtune_schema"):
        return 0
    row = connection.exec_driver_sql("SELECT max(version) FROM llmtune_schema").first()
    return int(row[0] or 0) if row else 0


def _read_file_version(path: Path) -> int:
    """Read the version of a SQLite store through a read-only connection; 0 when it has none."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)
        try:
            row = retry_while_locked(lambda: connection.execute("SELECT max(version) FROM llmtune_schema").fetchone())
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return 0
        if "unable to open" in str(error) or "readonly" in str(error):
            # A store in WAL mode needs its side files even for reading; a folder we may not write to forbids them.
            raise StoreError(
                f"the run store {path} cannot be opened: {error}", hint="set LLMTUNE_HOME to a folder you may write to"
            ) from None
        kind = StoreUnavailable if is_unavailable(error) else StoreError
        raise kind(f"the run store {path} cannot be read: {error}") from None
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"the run store {path} is damaged, or no llmtune store at all: {error}",
            hint="it was left as it is: restore a backup, or set LLMTUNE_HOME to another folder",
        ) from None
    return int(row[0] or 0)


def _password(url: str) -> str | None:
    from sqlalchemy.engine import make_url

    with suppress(Exception):
        password = make_url(url).password
        return str(password) if password else None
    return None


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """Return the kind of network file system that `path` is on; None when it is local or unknown.

    `mounts` is the text of /proc/mounts (Linux).
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    real_path = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = real_path == point or real_path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind if kind in NETWORK_FILE_SYSTEMS else None
