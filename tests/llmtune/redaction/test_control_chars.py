"""Other people's text on a terminal: shown as it is, with its control characters written out, and never obeyed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmtune.cli import main, output
from llmtune.testing.fake_vendor import Phase
from llmtune.testing.generic_vendor import Fake
from llmtune.testing.http import Call, route

#: Title, clipboard, clear screen, a link, C1, right-to-left override, NUL, Arabic letter mark, tag characters; and what
#: rich would make a robot of. No slash, so that it can be part of a file's name; NUL is added where a name may hold it.
HOSTILE = (
    "\x1b]0;title\x07\x1b]52;c;aGk=\x1b[2J\x1b]8;;x\x07\x9b31m\u202eabc\u061c\u2066\ufeff\x7f\U000e0041:robot:[red]y"
)
HOSTILE_ESCAPED = r"\x1b]0;title\x07\x1b]52;c;aGk=\x1b[2J\x1b]8;;x\x07\x9b31m"
MODEL = "ft:m-1:acme:robot:abc123"
#: What has to come through: joined emoji, a flag of tag characters, a variation selector, Persian with its non-joiner.
FLAG = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
JOINED = f"\U0001f469\u200d\U0001f4bb {FLAG} \u2764\ufe0f \u0645\u06cc\u200c\u062e"

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\ufeff]|\U000e0041")


class Vendor(Fake):
    """Its model ids, events and errors are hostile."""

    walks = {"success": (Phase("succeeded"),), "failure": (Phase("failed"),)}
    failure_message = f"refused {HOSTILE}\0"

    @route("GET", "/v1/jobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        """As the fake's own, with an event."""
        event = {"id": 1, "time": 1.0, "message": f"event {HOSTILE}\0 {MODEL}"}
        return super().get_job(call) | {"events": [event] if call.query.get("after_event", "0") == "0" else []}

    def _job(self, job: Any) -> dict[str, Any]:
        answer = super()._job(job)
        return answer | {"model": answer["model"] and f"{MODEL}{HOSTILE}"}


class Output(NamedTuple):
    """What a command printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Both streams, unwrapped, after making sure that no terminal would obey any of it."""
        text = self.stdout + self.stderr
        assert CONTROLS.search(text) is None, ascii(text)
        assert "\U0001f916" not in text
        assert "Traceback" not in text
        return text


@pytest.fixture
def llmtune(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Run a command from its entry point, so that errors are printed too."""

    def run(*arguments: object) -> Output:
        monkeypatch.setattr(sys, "argv", ["llmtune", *map(str, arguments)])
        capfd.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as leave:
            main()
        code = leave.value.code
        return Output(code if isinstance(code, int) else 0, *capfd.readouterr())

    monkeypatch.setenv("NO_COLOR", "1")
    for console in (output.out, output.err):  # they may have been made by an earlier test, at another width
        monkeypatch.setattr(console, "_width", 200)
    return run


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vendor]:
    with Vendor() as fake:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", fake.url)
        yield fake


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    labels = ("\x1b]52;c;aGk=\x07\u202e\0 :robot:", f"{JOINED} :key:", "plain")
    with path.open("w", encoding="utf-8") as file:
        for number in range(60):
            messages = [
                {"role": "user", "content": f"case {number} of {labels[number % 3]} with {HOSTILE}\0"},
                {"role": "assistant", "content": labels[number % 3]},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.fixture
def job(rows: Path) -> Path:
    path = rows.parent / "job.json"
    document = {
        "name": f"mine {HOSTILE}",
        "dataset": {"path": str(rows), "split": [0.8, 0.1, 0.1]},
        "model": f"m-1:robot:{HOSTILE}",
        "evaluation": {"max_rows": 2},
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_run_and_everything_about_it(llmtune: Callable[..., Output], vendor: Vendor, job: Path) -> None:
    tuned = llmtune("tune", job, "-p", "fake", "--yes")
    assert tuned.code == 0, tuned.stderr
    assert f"event {HOSTILE_ESCAPED}" in tuned.text
    assert MODEL in tuned.text
    listed = llmtune("runs", "list").text.replace(" ", "")
    assert r"m-1:robot:\x1b]0;title" in listed
    (entry,) = json.loads(llmtune("runs", "list", "--json").stdout)["runs"]
    assert entry["name"] == f"mine {HOSTILE}"  # in JSON it stays what it is
    output = llmtune("runs", "show", entry["id"]).text
    assert f"{MODEL}{HOSTILE_ESCAPED}" in output
    assert f"mine {HOSTILE_ESCAPED}" in output
    assert json.loads(llmtune("runs", "show", entry["id"], "--json").stdout)["name"] == entry["name"]
    assert HOSTILE_ESCAPED in llmtune("report", entry["id"]).text
    assert HOSTILE_ESCAPED in llmtune("report", entry["id"], "--format", "markdown").text.replace("\\\\", "\\").replace(
        "\\[", "["
    )
    assert f"{MODEL}{HOSTILE_ESCAPED}" in llmtune("doctor", "--lifecycle", "-p", "fake").text
    assert llmtune("runs", "cleanup", "--models", "--dry-run").text


def test_a_run_that_fails_in_the_vendors_words(llmtune: Callable[..., Output], vendor: Vendor, job: Path) -> None:
    vendor.outcome = "failure"
    tuned = llmtune("tune", job, "-p", "fake", "--yes")
    assert tuned.code == 1
    assert f"refused {HOSTILE_ESCAPED}" in tuned.text
    assert f"refused {HOSTILE_ESCAPED}" in llmtune("runs", "show", f"mine {HOSTILE}").text


def test_plans(llmtune: Callable[..., Output], vendor: Vendor, job: Path) -> None:
    plan = llmtune("plan", job, "-p", "fake,local", "--request")
    assert f"mine {HOSTILE_ESCAPED}" in plan.text
    assert f"m-1:robot:{HOSTILE_ESCAPED}" in plan.text
    assert json.loads(llmtune("plan", job, "-p", "fake", "--json").stdout)["schema"] == 1


@pytest.mark.parametrize("command", ["stats", "check"])
def test_data(llmtune: Callable[..., Output], rows: Path, command: str) -> None:
    output = llmtune("data", command, rows)
    assert output.code == 0, output.stderr
    assert output.text
    if command == "stats":
        assert r"\x1b]52;c;aGk=\x07\x202e\x00 :robot: 20" in output.stdout
        assert f"{JOINED} :key: 20" in output.stdout


def test_peek_writes_out_the_tokens(llmtune: Callable[..., Output], rows: Path) -> None:
    pytest.importorskip("tokenizers")
    output = llmtune("data", "peek", rows, "-t", "tiny", "--limit", 1)
    assert output.code == 0, output.stderr
    assert r"\x1b]0;title\x07" in output.text
    assert ":robot:" in output.text
    assert r"\x00" in output.text


@pytest.mark.parametrize(
    "arguments",
    [
        ["tune", f"no {HOSTILE}.json"],
        ["plan", f"no {HOSTILE}.json"],
        ["runs", "show", f"no {HOSTILE}"],
        ["data", "check", f"no {HOSTILE}.jsonl"],
        ["providers", f"no {HOSTILE}"],
    ],
)
def test_errors(llmtune: Callable[..., Output], arguments: list[str]) -> None:
    output = llmtune(*arguments)
    assert output.code in (1, 2)
    assert r"\x1b]0;title" in output.text
    assert ":robot:[red]y" in output.text


def test_the_traceback_of_an_error(llmtune: Callable[..., Output], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_DEBUG", "1")
    output = llmtune("runs", "show", f"no {HOSTILE}")
    assert "Traceback" in output.stderr
    assert CONTROLS.search(output.stderr) is None, ascii(output.stderr)


def test_a_terminal_gets_styles_and_nothing_else(
    llmtune: Callable[..., Output], vendor: Vendor, job: Path, own_home: Path
) -> None:
    assert llmtune("tune", job, "-p", "fake", "--yes", "--detach").code == 0
    done = subprocess.run(
        [sys.executable, "-m", "llmtune", "runs", "list"],
        capture_output=True,
        check=True,
        env={**os.environ, "NO_COLOR": "", "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "250"},
        timeout=120,
    )
    text = done.stdout.decode()
    styles = re.compile(r"\x1b\[[0-9;]*m")
    assert styles.search(text)
    assert CONTROLS.search(styles.sub("", text)) is None, ascii(text)
