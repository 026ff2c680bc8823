"""A canary key, and a password in LLMTUNE_STORE, are planted in every channel and searched for everywhere."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import LlmtuneError
from llmtune.job import TuningJob
from llmtune.runs import open_store, start
from llmtune.runs.secrets import scrub
from llmtune.runs.store import Store
from llmtune.testing import refusal, server_error
from llmtune.testing.fake import Fake
from llmtune.testing.fake_provider import FakeProvider

from .helpers import QUICK

KEY = "sk-canary-9f8e7d6c5b4a3210"
#: As tests/conftest.py gives it to its server.
PASSWORD = "pg-canary-7f3a91"
TOO_CHATTY = f"Incorrect API key provided: {KEY}. You can find your API key in the console."


def everything_in(store: Store) -> str:
    """Every cell of every table."""
    from sqlalchemy import inspect

    with store.read() as connection:
        tables = inspect(connection).get_table_names()
        return "\n".join(
            str(row) for table in tables for row in connection.exec_driver_sql(f"SELECT * FROM {table}").all()
        )


def everything_under(folder: Path) -> str:
    return "\n".join(path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.DEBUG)
    return lambda: caplog.text + "".join(str(record.__dict__) for record in caplog.records)


def test_a_canary_is_nowhere(
    store: Store,
    vendor: Fake,
    at: Callable[..., FakeProvider],
    job: TuningJob,
    own_home: Path,
    said: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLMTUNE_FAKE_API_KEY", KEY)
    vendor.api_key = KEY
    shown: list[str] = []

    def note(error: BaseException) -> None:
        shown.extend([str(error), repr(error), *traceback.format_exception(error)])
        if isinstance(error, LlmtuneError):
            shown.extend([error.message, str(error.hint), str(getattr(error, "raw", ""))])

    # A run that goes well, at a vendor that is unwell in between and repeats the key in its errors.
    vendor.faults.add(refusal(503, TOO_CHATTY), role="poll", times=2)
    vendor.faults.add(refusal(500, TOO_CHATTY), role="submit")
    run = start(job, at("token"))
    report = run.wait(pace=QUICK, on_update=lambda update: shown.append(repr(update)))
    shown += [report.to_json(), report.to_markdown(), repr(run.record), str(run.transitions())]
    shown.append(str(report.snippet))

    # Runs that do not: refused at the upload, at the submit, while it is followed, and by its own failure.
    for role in ("upload", "submit", "poll"):
        vendor.faults.clear()
        vendor.files.clear()
        vendor.faults.add(refusal(401, TOO_CHATTY, "invalid_api_key"), role=role, times=99)
        try:
            start(job, at("none"), new=True).wait(pace=QUICK)
        except LlmtuneError as error:
            note(error)
        else:
            raise AssertionError("it was refused")
    vendor.faults.clear()
    monkeypatch.setattr(Fake, "failure_message", TOO_CHATTY)
    vendor.outcome = "failure"
    try:
        start(job, at("none"), new=True).wait(pace=QUICK)
    except LlmtuneError as error:
        note(error)
        shown.append(error.report.to_json())  # type: ignore[attr-defined]

    # An adapter that breaks with the key in hand.
    def broken(*_: Any) -> None:
        raise RuntimeError(f"POST with Authorization: Bearer {KEY}")

    vendor.outcome = "success"
    with monkeypatch.context() as patch:
        patch.setattr(FakeProvider, "poll", broken)
        try:
            start(job, at("none"), new=True).wait(pace=QUICK)
        except RuntimeError as error:
            note(error)

    places = {
        "store": everything_in(store),
        "home": everything_under(own_home),
        "logs": said(),
        "shown": "\n".join(shown),
    }
    for place, text in places.items():
        assert len(text) > 500, place
        for canary in (KEY, PASSWORD):
            at_ = text.find(canary)
            assert at_ < 0, f"{canary} in {place}: ...{text[max(0, at_ - 300) : at_ + 80]}..."
    assert "Incorrect API key provided: ***" in places["shown"]


def test_a_store_that_cannot_be_reached_keeps_its_password_to_itself(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    monkeypatch.setenv("LLMTUNE_STORE", f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:9/db")
    with pytest.raises(LlmtuneError) as caught:
        open_store()
    text = "".join(traceback.format_exception(caught.value)) + str(caught.value.hint) + said()
    assert PASSWORD not in text
    assert "***" in text


def test_ordinary_words_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORT_KEY", "created")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("APP_TOKEN", "abcdef-123456-ghijkl")
    monkeypatch.setenv("LLMTUNE_STORE", "postgresql+psycopg://me:p%40ss@host/db")
    assert scrub("created false abcdef-123456-ghijkl p@ss p%40ss") == "created false *** *** ***"
    assert scrub("https://me:secret@host/x") == "https://me:***@host/x"


def test_a_failing_vendor_does_not_make_the_logs_noisy(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(job, at())
    vendor.faults.add(server_error(), role="poll", times=5)
    with caplog.at_level(logging.INFO, "llmtune"):
        run.wait(pace=QUICK)
    assert sum("does not answer" in record.getMessage() for record in caplog.records) == 1
    assert all(getattr(record, "run", run.id) == run.id for record in caplog.records)
