"""Stores to test on: SQLite in the test's home, and a real PostgreSQL on loopback."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.job import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.runs import finalize, submission, waiting
from llmtune.runs.store import Store, open_store
from llmtune.testing.fake import Fake
from llmtune.testing.fake_provider import FakeProvider, FakeSettings

#: What the server is told its password is; the secrets test looks for it.
PASSWORD = "pg-canary-7f3a91"


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")) if Path("/usr/lib/postgresql").is_dir() else []
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server of our own; skipped where PostgreSQL or its driver is not installed."""
    initdb, postgres = _binary("initdb"), _binary("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed here (Debian: apt-get install postgresql)")
    pytest.importorskip(
        "psycopg", reason="the PostgreSQL driver is not installed (pip install 'llmtune-sdk[postgres]')"
    )
    user = None
    if os.geteuid() == 0:  # initdb refuses root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user 'postgres' here")
    folder = Path(tempfile.mkdtemp(prefix="llmtune-pg-"))
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    who = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if user is not None:
        os.chown(secret, user.pw_uid, user.pw_gid)
    data = folder / "data"
    subprocess.run(
        [initdb, "-D", str(data), "-U", "llmtune", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "-N"],
        check=True,
        capture_output=True,
        cwd=folder,
        **who,  # type: ignore[call-overload]
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [postgres, "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        **who,  # type: ignore[call-overload]
    )
    try:
        import psycopg

        base = f"postgresql://llmtune:{PASSWORD}@127.0.0.1:{port}"
        for _ in range(200):
            try:
                psycopg.connect(f"{base}/postgres").close()
                break
            except psycopg.OperationalError:
                if server.poll() is not None:
                    raise
                time.sleep(0.05)
        yield base
    finally:
        server.terminate()
        server.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A database of the test's own."""
    import psycopg

    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    yield f"{postgres_server.replace('postgresql://', 'postgresql+psycopg://')}/{name}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store of each kind."""
    if request.param == "postgresql":
        monkeypatch.setenv("LLMTUNE_STORE", request.getfixturevalue("postgres_url"))
    opened = open_store()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(submission, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(finalize, "DEPLOYMENT_LAG", 0.2)
    monkeypatch.setattr(waiting, "_poller", waiting.Poller(polls_per_second=500))


@pytest.fixture
def vendor() -> Iterator[Fake]:
    """A fake vendor."""
    with Fake() as fake:
        yield fake


@pytest.fixture
def at(vendor: Fake) -> Callable[..., FakeProvider]:
    """Makes a provider pointed at the fake vendor, of a class of submit safety, with other settings."""

    def make(safety: str = "token", **settings: Any) -> FakeProvider:
        values = {"base_url": vendor.url, "submit_safety": safety, "window": 0.2, "timeout": 5, **settings}
        return FakeProvider("fake", FakeSettings.model_validate(values))

    return make


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    """A small job."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n % 3}"}]}
        for n in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TuningJob(
        name="tickets",
        dataset=str(path),
        model="m-1",
        hyperparameters=Hyperparameters(epochs=2),
        evaluation=EvaluationSpec(baseline=False, max_rows=2),
    )
