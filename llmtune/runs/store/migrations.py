"""Versions of the store's tables. A step, once released, is never edited: what changes comes as a new step.

The statements are plain SQL that SQLite and PostgreSQL both read; `{serial}` is a counting primary key in each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SERIAL = {"sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT", "postgresql": "BIGSERIAL PRIMARY KEY"}

MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY, run_key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, provider TEXT NOT NULL,
            kind TEXT NOT NULL, model TEXT NOT NULL, fingerprint TEXT NOT NULL, state TEXT NOT NULL,
            created DOUBLE PRECISION NOT NULL, updated DOUBLE PRECISION NOT NULL, document TEXT NOT NULL,
            live TEXT NOT NULL)""",
        "CREATE INDEX runs_by_fingerprint ON runs (fingerprint)",
        "CREATE INDEX runs_by_state ON runs (state)",
        """CREATE TABLE transitions (
            seq {serial}, run_id TEXT NOT NULL REFERENCES runs (id), time DOUBLE PRECISION NOT NULL,
            state TEXT NOT NULL, reason TEXT NOT NULL)""",
        "CREATE INDEX transitions_by_run ON transitions (run_id, seq)",
        """CREATE TABLE run_references (
            run_id TEXT NOT NULL REFERENCES runs (id), name TEXT NOT NULL, ref TEXT NOT NULL,
            time DOUBLE PRECISION NOT NULL, PRIMARY KEY (run_id, name))""",
        """CREATE TABLE metrics (
            seq {serial}, run_id TEXT NOT NULL REFERENCES runs (id), identity TEXT NOT NULL, point TEXT NOT NULL,
            CONSTRAINT metrics_once UNIQUE (run_id, identity))""",
        """CREATE TABLE events (
            seq {serial}, run_id TEXT NOT NULL REFERENCES runs (id), event_id TEXT NOT NULL,
            time DOUBLE PRECISION NOT NULL, level TEXT NOT NULL, message TEXT NOT NULL,
            CONSTRAINT events_once UNIQUE (run_id, event_id))""",
        """CREATE TABLE uploads (
            provider TEXT NOT NULL, digest TEXT NOT NULL, ref TEXT, time DOUBLE PRECISION NOT NULL,
            PRIMARY KEY (provider, digest))""",
        """CREATE TABLE resources (
            provider TEXT NOT NULL, type TEXT NOT NULL, ref_id TEXT NOT NULL, ref TEXT NOT NULL,
            run_id TEXT NOT NULL REFERENCES runs (id), created DOUBLE PRECISION NOT NULL,
            removed DOUBLE PRECISION, PRIMARY KEY (provider, type, ref_id))""",
        "CREATE INDEX resources_by_run ON resources (run_id)",
        """CREATE TABLE leases (
            name TEXT PRIMARY KEY, owner TEXT NOT NULL, beat BIGINT NOT NULL, time DOUBLE PRECISION NOT NULL)""",
        """CREATE TABLE reports (
            run_id TEXT PRIMARY KEY REFERENCES runs (id), report TEXT NOT NULL, time DOUBLE PRECISION NOT NULL)""",
    ),
}

#: The version that this llmtune reads and writes.
CURRENT = max(MIGRATIONS)


def migrate(connection: Connection, version: int, *, upto: int | None = None) -> None:
    """Bring the tables from `version` (0: there are none) to the current one, inside the caller's transaction."""
    serial = _SERIAL[connection.dialect.name]
    if version == 0:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS llmtune_schema (version INTEGER NOT NULL)")
        connection.exec_driver_sql("INSERT INTO llmtune_schema (version) VALUES (0)")
    for number in sorted(MIGRATIONS):
        if version < number <= (upto or max(MIGRATIONS)):
            for statement in MIGRATIONS[number]:
                connection.exec_driver_sql(statement.replace("{serial}", serial))
            connection.exec_driver_sql(f"UPDATE llmtune_schema SET version = {number}")
