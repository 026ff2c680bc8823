"""A canary key and escape sequences stand in every text that a vendor or a user gives, and every output is read."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest

from llmtune.cli import main, output
from llmtune.errors import LlmtuneError
from llmtune.provider import intake
from llmtune.redaction.documents import dump_json
from llmtune.redaction.secrets import scrub
from llmtune.report.schema import Report
from llmtune.runs import poller
from llmtune.testing.fake_vendor import Phase
from llmtune.testing.faults import refusal
from llmtune.testing.generic_vendor import Fake
from llmtune.testing.http import Call, route
from llmtune.web.server import Server
from tests.system.gates.worlds import WORLDS, leaves, opened, replaced

#: SDKs warn of what their models do not expect.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

KEY = "canary/9f8e+7d6c-5b4a3210=x"
HOSTILE = f"\x1b]0;t\x07\x1b[2J\x9b31m\u202e {KEY} https://me:pw-{KEY}@host/?api_key={KEY}"
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Vendor(Fake):
    """Everything it says is hostile."""

    walks = {"success": (Phase("succeeded"),), "failure": (Phase("failed"),)}
    failure_message = HOSTILE

    @route("GET", "/v1/jobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        """As the fake's own, with an event and a state."""
        answer = super().get_job(call)
        event = {"id": 1, "time": 1.0, "message": HOSTILE}
        return answer | {"events": [event] if call.query.get("after_event", "0") == "0" else []}

    def _job(self, job: Any) -> dict[str, Any]:
        answer = super()._job(job)
        return answer | {"model": answer["model"] and f"ft:{HOSTILE}"}

    def say(self, prompt: str, *, tuned: bool) -> str:
        """An answer with the key in it."""
        return f"{prompt} {HOSTILE}"


class Output(NamedTuple):
    """What a command printed."""

    code: int
    stdout: str
    stderr: str


def check(text: str, where: object) -> None:
    """No canary, whole or as it stands in an address, and nothing that a terminal obeys."""
    for spelling in (KEY, json.dumps(KEY)[1:-1], KEY.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D")):
        at = text.find(spelling)
        assert at < 0, f"{where}: {text[max(0, at - 200) : at + 60]!a}"
    found = CONTROLS.search(text)
    assert found is None, f"{where}: {text[max(0, found.start() - 80) : found.start() + 80]!a}"


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
def test_every_provider_gives_the_core_clean_words(name: str, tmp_path: Path) -> None:
    """The key and the escapes stand in each leaf of each answer; what is shown of it is clean."""
    with opened(name, tmp_path, KEY) as world:
        for share in (*range(5), None):
            world.change[""] = partial(_hostile, share=share)
            texts: list[str] = []
            try:
                snapshot = intake.poll_job(world.provider, world.ref, None)
                texts.append(dump_json(snapshot.model_dump(mode="json", exclude={"cursor", "model", "checkpoints"})))
                texts += [scrub(event.message) for event in snapshot.events]
                assert all(KEY not in event.message for event in snapshot.events)
                assert KEY not in snapshot.raw_state + str(snapshot.error) + str(snapshot.warnings)
                texts += [dump_json(each.model_dump(mode="json")) for each in intake.list_models(world.provider)]
            except LlmtuneError as error:
                texts.append(dump_json({"message": error.message, "hint": error.hint}))
            for text in texts:
                assert KEY not in text
