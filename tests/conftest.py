"""What every test stands on: a home of its own, no way out of this machine, and no credentials of the developer's."""

from __future__ import annotations

import ipaddress
import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, settings

from llmtune import config
from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.io.reading import read
from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.runs import finalize, poller, submission
from llmtune.runs.store.store import Store, open_store
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake

ROOT = Path(__file__).resolve().parent.parent

#: A package of its own, whose tests run where it is installed (tests/system/plugin).
collect_ignore = ["plugin_package"]

#: Third-party material beside the checkout; tests that use it skip where it is absent.
SHARED = ROOT.parent / "shared"

#: Drawn examples are the same in every run, and a busy machine may take as long as it needs for each. A fixture that
#: lasts for all examples of a test is no fault here: what it holds is written anew or only read.
settings.register_profile(
    "llmtune",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("llmtune")

#: Workers side by side share the cores: threads of each that wait for the others' would take twice the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_CREDENTIALS = (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "AZURE_OPENAI_API_KEY",
    "AZURE_OPENAI_ENDPOINT",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_PROFILE",
    "AWS_BEARER_TOKEN_BEDROCK",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "CO_API_KEY",
    "COHERE_API_KEY",
    "TOGETHER_API_KEY",
    "NEBIUS_API_KEY",
    "HF_TOKEN",
)


def _loopback(host: Any) -> bool:
    if host in ("localhost", "", None, "0.0.0.0", "::"):
        return True
    try:
        return ipaddress.ip_address(str(host).split("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection and look-up that would leave this machine."""
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(address: Any) -> None:
        if isinstance(address, tuple) and not _loopback(address[0]):
            raise PermissionError(f"a test tried to reach {address[0]}:{address[1]}; tests stay on this machine")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        refuse(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        refuse(address)
        return connect_ex(self, address)

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(host, bytes):
            host = host.decode()
        if not _loopback(host):
            raise PermissionError(f"a test tried to look up {host}; tests stay on this machine")
        return lookup(host, *args, **kwargs)

    socket.socket.connect = guarded_connect  # type: ignore[method-assign, assignment]
    socket.socket.connect_ex = guarded_connect_ex  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = guarded_lookup
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]
    socket.socket.connect_ex = connect_ex  # type: ignore[method-assign]
    socket.getaddrinfo = lookup


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a home folder of its own, and take the developer's settings and credentials away."""
    home = tmp_path / "llmtune-home"
    for name in list(os.environ):
        if name.startswith("LLMTUNE_") or name in _CREDENTIALS:
            monkeypatch.delenv(name)
    monkeypatch.setattr(config, "_secret_values", {})
    monkeypatch.setenv("LLMTUNE_HOME", str(home))
    monkeypatch.setenv("LLMTUNE_CONFIG", str(tmp_path / "no-config.toml"))
    monkeypatch.setenv("LLMTUNE_CATALOG", str(tmp_path / "no-catalog.toml"))
    monkeypatch.setenv("LLMTUNE_PRICES", str(tmp_path / "no-prices.toml"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return home


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of third-party material; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the third-party material beside the checkout is not here")
    return SHARED


# --- a browser -------------------------------------------------------------------------------------------------------
def _chromium(playwright: Any) -> str | None:
    """The system's Chromium, or the one Playwright brought; None when there is neither."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    own = Path(playwright.chromium.executable_path)
    return str(own) if own.exists() else None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        found = _chromium(playwright)
        if found is None:
            pytest.skip("no Chromium here: apt-get install chromium")
        # Where tests run as root, Chromium's own sandbox cannot be had; these pages are ours.
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


class Watched:
    """A page, and everything in it that should not happen."""

    def __init__(self, browser: Any, **context: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | context))
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console",
            lambda said: said.type in ("error", "warning") and self.complaints.append(f"console: {said.text}"),
        )
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def until(self, expression: str, *, seconds: float = 30.0) -> None:
        """Wait until an expression is true in the page. (Playwright's own wait evaluates text inside it, which our
        pages' policy forbids; a page that is being loaded again is asked again.)"""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.page.evaluate(expression):
                    return
            except Exception as error:
                if "Execution context was destroyed" not in str(error) and "null" not in str(error):
                    raise
            if time.monotonic() > deadline:
                raise AssertionError(f"never became true: {expression}")
            self.page.wait_for_timeout(50)


@pytest.fixture
def watch(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Opens pages that are watched: `watch(color_scheme="dark").page.goto(...)`."""
    opened: list[Watched] = []

    def open_page(**context: Any) -> Watched:
        opened.append(Watched(browser, **context))
        return opened[-1]

    yield open_page
    for each in opened:
        each.context.close()


# --- rows
@pytest.fixture
def rows_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows (objects, or lines as bytes) to a file of JSON lines."""

    def write(rows: Iterable[Any], name: str = "rows.jsonl", end: bytes = b"\n") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, bytes) else orjson.dumps(row) for row in rows]
        path.write_bytes(end.join(lines) + end)
        return path

    return write


# --- runs at a fake vendor
@pytest.fixture
def both() -> Callable[..., tuple[list[Example], list[Finding]]]:
    """Reads a file into its examples and its findings."""

    def read_both(path: Any, *args: Any, **kwargs: Any) -> tuple[list[Example], list[Finding]]:
        items = list(read(path, *args, **kwargs))
        return (
            [item for item in items if isinstance(item, Example)],
            [item for item in items if isinstance(item, Finding)],
        )

    return read_both


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store of each kind."""
    if request.param == "postgresql":
        monkeypatch.setenv("LLMTUNE_STORE", request.getfixturevalue("postgres_url"))
    opened = open_store()
    yield opened
    opened.close()


@pytest.fixture
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(submission, "RETRIES", replace(submission.RETRIES, most=0.02))
    monkeypatch.setattr(finalize, "DEPLOYMENT_LAG", 0.2)
    monkeypatch.setattr(poller, "_poller", poller.Poller(polls_per_second=500))


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
        evaluation=EvaluationSpec(baselines=(), max_rows=2),
    )


# --- PostgreSQL
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
