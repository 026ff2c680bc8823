"""`tune` shows one line on a terminal or in a notebook, nothing elsewhere, and never anything on standard output."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmtune import TuningJob
from llmtune.errors import InvalidJob
from llmtune.metrics.points import MetricPoint
from llmtune.provider.types import Event, Progress, RunState
from llmtune.runs import progress as shown
from llmtune.runs.api import tune
from llmtune.runs.poller import Update
from llmtune.runs.progress import ProgressMode, show_progress
from tests.llmtune.runs.helpers import QUICK, a_record


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_job(folder: Path) -> TuningJob:
    rows = [f'{{"prompt": "Where is parcel {row}?", "completion": "shipping"}}\n' for row in range(20)]
    (folder / "rows.jsonl").write_text("".join(rows))
    return TuningJob(name="router", dataset=folder / "rows.jsonl", model="tiny-1")


def update(
    state: RunState = RunState.RUNNING, *, message: str | None = None, name: str = "router", **at: Any
) -> Update:
    loss = MetricPoint(step=at.get("step", 0), series="train/loss", value=0.5)
    return Update(
        a_record(id="abcdefgh12", state=state, name=name, progress=Progress(**at)), points=(loss,), message=message
    )


def show(mode: ProgressMode, *updates: Update) -> None:
    with show_progress(mode, None) as on_update:
        for each in updates:
            if on_update is not None:
                on_update(each)


NEWS = (update(step=1, total_steps=4), update(step=2, total_steps=4), update(RunState.SUCCEEDED, step=4, total_steps=4))


def test_a_terminal_has_one_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    show("auto", *NEWS)
    written = terminal.getvalue()
    assert written.count("\n") == 1
    assert written.endswith("\n")
    lines = [line.strip() for line in written.split("\r") if line]
    assert lines[0] == "router  running  step 1/4  loss 0.5000"
    assert lines[-1] == "router  succeeded  step 4/4  loss 0.5000"


def test_a_shorter_text_covers_the_longer_one_and_no_text_is_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    show("auto", update(message="x" * 300), update())
    long, short = terminal.getvalue().strip("\r\n").split("\r")
    assert len(long) == len(short) == 79


@pytest.mark.parametrize("mode", ["auto", False])
def test_elsewhere_it_is_quiet(mode: ProgressMode, capsys: pytest.CaptureFixture[str]) -> None:
    show(mode, *NEWS)
    assert capsys.readouterr() == ("", "")


def test_false_is_quiet_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    show(False, *NEWS)
    assert terminal.getvalue() == ""


def test_true_prints_a_line_for_each_state_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown.time, "monotonic", lambda: 100.0)
    show(True, *NEWS)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "router  running  step 1/4  loss 0.5000",
        "router  succeeded  step 4/4  loss 0.5000",
    ]


def test_a_notebook_has_one_output_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[dict[str, str]] = []
    handle = SimpleNamespace(update=lambda data, raw: outputs.append(data))

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        outputs.append(data)
        return handle

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))  # type: ignore[arg-type]
    show("auto", *NEWS)
    assert [output["text/plain"].split()[1] for output in outputs] == ["running", "running", "succeeded"]


def test_secrets_and_control_characters_of_a_name_or_message_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VENDOR_API_KEY", "sk-1234567890abcdefghij")
    bad = update(message="key sk-1234567890abcdefghij\nrefused", name="router\x1b[2J")
    show(True, bad)
    for text in (capsys.readouterr().err.rstrip("\n"), str(bad)):
        assert "sk-1234567890" not in text
        assert "\x1b" not in text
        assert "\n" not in text


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="progress: it is \"auto\", True or False, not 'yes'"):
        tune(a_job(tmp_path), "fake", progress="yes")  # type: ignore[arg-type]


def test_tune_calls_the_callers_function_beside_its_own_line(
    tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Update] = []
    report = tune(a_job(tmp_path), "fake", pace=QUICK, progress=True, on_update=seen.append)
    assert report.succeeded
    assert seen[-1].last
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "succeeded" in printed.err.splitlines()[-1]


def test_an_update_prints_as_one_short_line() -> None:
    assert str(update(step=1, total_steps=4)) == "router: running  step 1/4  loss 0.5000"
    event = Event(id="1", time=0.0, message="the vendor queued it")
    assert str(Update(a_record(name="router", state=RunState.QUEUED), events=(event,))) == (
        "router: queued  the vendor queued it"
    )
    assert len(str(update(message="x" * 5000))) == 160
