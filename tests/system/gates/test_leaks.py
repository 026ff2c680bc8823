"""A canary key and escape sequences stand in every text that a vendor or a user gives, and every output is read."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from llmtune.cli import fail, main, output
from llmtune.errors import LlmtuneError
from llmtune.provider import intake
from llmtune.redaction.documents import dump_json
from llmtune.redaction.secrets import guard_logs
from llmtune.report.schema import Report
from llmtune.runs import poller
from llmtune.testing.faults import refusal
from llmtune.web.server import Server
from tests.system.gates.canary import HOSTILE, KEY, Output, Vendor, check
from tests.system.gates.worlds import WORLDS, leaves, opened, replaced

#: SDKs warn of what their models do not expect.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def llmtune(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Runs a command from its entry point; what it prints is checked."""

    def run(*arguments: object) -> Output:
        monkeypatch.setattr(sys, "argv", ["llmtune", *map(str, arguments)])
        capfd.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as leave:
            main()
        code = leave.value.code
        printed = Output(code if isinstance(code, int) else 0, *capfd.readouterr())
        check(printed.stdout, arguments)
        check(printed.stderr, arguments)
        return printed

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("LLMTUNE_FAKE_API_KEY", KEY)
    monkeypatch.setattr(poller, "_poller", poller.Poller(polls_per_second=500))
    for console in (output.out, output.err):
        monkeypatch.setattr(console, "_width", 200)
    return run


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vendor]:
    with Vendor() as fake:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", fake.url)
        yield fake


def write_job(folder: Path, name: str, row_text: str = "") -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"q {n} {row_text}"}, {"role": "assistant", "content": f"a {n % 3}"}]}
        for n in range(40)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "job.json"
    dataset = {"path": str(folder / "rows.jsonl"), "split": [0.8, 0.1, 0.1]}
    path.write_text(json.dumps({"name": name, "dataset": dataset, "model": "m-1", "evaluation": {"max_rows": 2}}))
    return path


@pytest.mark.slow
def test_every_command_about_a_run(llmtune: Callable[..., Output], vendor: Vendor, tmp_path: Path) -> None:
    escapes = HOSTILE.partition(" ")[0]
    tuned = llmtune("tune", write_job(tmp_path, f"mine {escapes}"), "-p", "fake", "--yes", "--json")
    assert tuned.code == 0, tuned.stderr
    (entry,) = json.loads(llmtune("runs", "list", "--json").stdout)["runs"]
    assert entry["name"] == f"mine {escapes}"  # as an escape in JSON it stays what it is
    run = entry["id"]
    vendor.outcome = "failure"
    assert llmtune("tune", tmp_path / "job.json", "-p", "fake", "--yes", "--new").code == 1
    vendor.faults.add(refusal(401, f"Incorrect API key provided: {HOSTILE}", "invalid_api_key"), role="submit", times=9)
    assert llmtune("tune", tmp_path / "job.json", "-p", "fake", "--yes", "--new", "--json").code == 4
    vendor.faults.clear()
    for arguments in (
        ("runs", "list"),
        ("runs", "show", run),
        ("runs", "show", run, "--json"),
        ("runs", "watch", run, "--json"),
        ("runs", "cleanup", "--models", "--dry-run"),
        ("runs", "cleanup", "--models", "--dry-run", "--json"),
        ("report", run),
        *(("report", run, "--format", shape) for shape in ("json", "markdown", "html")),
        ("diff", run, run),
        ("gate", run, "--baseline", run, "--not-worse", "1"),
        ("doctor", "--online", "-p", "fake"),
        ("doctor", "--lifecycle", "-p", "fake", "--json"),
        ("plan", tmp_path / "job.json", "-p", "fake", "--request"),
        ("plan", tmp_path / "job.json", "-p", "fake", "--json"),
        ("config", "show"),
        ("chat", run, HOSTILE),
    ):
        llmtune(*arguments)
    report = Report.from_json(llmtune("report", run, "--format", "json").stdout)
    for text in (report.to_json(), report.to_markdown(), report.to_html(), report.to_text()):
        check(text, "report")
    with Server(port=0) as pages:
        for path in ("", f"runs/{run}", f"runs/{run}/live"):
            try:
                check(urlopen(f"{pages.url}{path}", timeout=30).read().decode(), path)
            except OSError as error:
                check(error.read().decode() if hasattr(error, "read") else str(error), path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["tune", f"{HOSTILE}.json"],
        ["runs", "show", HOSTILE],
        ["runs", "list", "--state", HOSTILE],
        ["data", "check", f"{HOSTILE}.jsonl"],
        ["providers", HOSTILE],
        ["plan", "job.json", "-p", HOSTILE, "--json"],
        ["tune", f"--{HOSTILE}"],
        ["runs", HOSTILE],
        [HOSTILE],
        ["runs", "list", "--limit", HOSTILE],
    ],
)
def test_mistakes(llmtune: Callable[..., Output], arguments: list[str]) -> None:
    assert llmtune(*arguments).code in (1, 2)


@pytest.mark.parametrize("field", ["name", "model", "tags"])
def test_a_job_with_the_key_is_refused_and_a_row_reported(
    llmtune: Callable[..., Output], vendor: Vendor, tmp_path: Path, field: str
) -> None:
    path = write_job(tmp_path, "mine", row_text=f"my login is {KEY}")
    data = json.loads(path.read_text())
    data[field] = {"login": KEY} if field == "tags" else KEY
    path.write_text(json.dumps(data))
    refused = llmtune("tune", path, "-p", "fake", "--yes")
    assert refused.code == 2
    assert field in refused.stderr
    assert not vendor.files
    assert "LLMTUNE_FAKE_API_KEY" in llmtune("data", "check", tmp_path / "rows.jsonl").stdout


def test_doctor_names_keys_that_are_too_short(llmtune: Callable[..., Output], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "x")
    assert "ACME_API_KEY" in llmtune("doctor", "-p", "fake").stdout
    assert json.loads(llmtune("doctor", "-p", "fake", "--json").stdout)["short_keys"] == ["ACME_API_KEY"]


def _hostile(data: Any, *, share: int | None) -> bytes:
    places = leaves(data) if share is None else leaves(data)[share::5] or [()]
    return replaced(data, places, json.dumps(HOSTILE))


@pytest.mark.parametrize("name", WORLDS)
def test_every_provider_gives_the_core_clean_words(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The key and the escapes stand in each leaf of each answer; what is shown of it is clean."""
    guard_logs()
    with opened(name, tmp_path, KEY) as world:
        capfd.readouterr()
        for share in (*range(5), None):
            world.change[""] = partial(_hostile, share=share)
            texts: list[str] = []
            try:
                snapshot = intake.poll_job(world.provider, world.ref, None)
                texts.append(dump_json(snapshot.model_dump(mode="json", exclude={"cursor", "model", "checkpoints"})))
                assert all(KEY not in event.message for event in snapshot.events)
                assert KEY not in snapshot.raw_state + str(snapshot.error) + str(snapshot.warnings)
                # As it is printed: what the vendor calls things stands in lines of its own there.
                for text in (snapshot.raw_state, snapshot.error, *snapshot.warnings, *snapshot.not_reported.values()):
                    output.out.print(text or "", markup=False)
                for event in snapshot.events:
                    output.err.print(event.message, markup=False)
                    logging.getLogger("llmtune").warning("%s", event.message)
                texts += [dump_json(each.model_dump(mode="json")) for each in intake.list_models(world.provider)]
            except LlmtuneError as error:
                with pytest.raises(SystemExit):
                    fail(error)
            # A vendor's SDK may log the addresses it asks, at a level that an application chooses for it.
            own = [record.getMessage() for record in caplog.records if record.name.split(".")[0].startswith("llmtune")]
            texts += [*capfd.readouterr(), *own]
            caplog.clear()
            for text in texts:
                check(text, (name, share))
