"""A canary key, and a password in LLMTUNE_STORE, are planted in every channel and searched for everywhere."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from llmtune.config import note_secret, read_secret
from llmtune.errors import InvalidJob, LlmtuneError
from llmtune.job.spec import DatasetSpec, TuningJob
from llmtune.provider.registry import get_provider
from llmtune.redaction.secrets import list_short_secrets, scrub
from llmtune.runs.api import start
from llmtune.runs.store.store import Store, open_store
from llmtune.testing import refusal, server_error
from llmtune.testing.fake_provider import FakeProvider
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.runs.helpers import QUICK

pytestmark = pytest.mark.usefixtures("no_long_pauses")

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
        except LlmtuneError as error:
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
    monkeypatch.setenv("LLMTUNE_STORE", "postgresql+psycopg://me:pass%40word@host/db")
    assert scrub("created false abcdef-123456-ghijkl pass@word pass%40word") == "created false *** *** ***"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://me:secret@host/x", "https://***:***@host/x"),
        ("https://deploy-token@host/x?page=2", "https://***@host/x?page=2"),
        (
            "at https://host/v1?api_key=a&page=2&sig=b#part now",
            "at https://host/v1?api_key=***&page=2&sig=***#part now",
        ),
        ("https://host/?accessToken=a&X-Amz-Signature=b", "https://host/?accessToken=***&X-Amz-Signature=***"),
        ("https://host/?key=", "https://host/?key="),
        ("https://host/?next_page_token=a&sort_key=b&max_tokens=4", None),
        ("http://gpu1:8000 ann@acme.example", None),
        ('{"at":"http://gpu1:8000","by":"ann@acme.example"}', None),
        ("a@b://c", None),
        ("https://[half@host", "https://***"),
    ],
)
def test_addresses_keep_all_but_their_credentials(url: str, masked: str | None) -> None:
    assert scrub(url) == (url if masked is None else masked)


def test_a_secret_is_a_whole_token_and_a_long_one_is_found_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "postgres")
    monkeypatch.setenv("GITHUB_TOKEN", "12345678")
    assert scrub("postgres, but postgresql+psycopg") == "***, but postgresql+psycopg"
    assert scrub("'12345678' x_12345678 1234567890") == "'***' x_*** 1234567890"
    assert scrub(repr("one\n12345678")) == repr("one\n***")
    monkeypatch.setenv("ACME_API_KEY", KEY)
    assert scrub(f"x{KEY}y") == "x***y"


@pytest.mark.parametrize("value", ['quo"te-and-[bracket', "with space+slash/", "back\\slash-\u00e9", "-----BEGIN-----"])
def test_a_secret_may_have_any_characters(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ACME_SECRET", value)
    assert scrub(f"it is {value}.") == "it is ***."
    assert scrub(json.dumps({"key": value})) == '{"key": "***"}'
    assert scrub(f"https://host/{quote(value, safe='')}") == "https://host/***"


def test_a_short_secret_is_taken_out_of_headers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "x")
    assert list_short_secrets() == ["ACME_API_KEY"]
    assert scrub("Bearer x, api-key: x, x-api-key: 'x'") == "Bearer ***, api-key: ***, x-api-key: '***'"
    assert scrub("x is an axis, Bearer xy") == "x is an axis, Bearer xy"


def test_what_was_used_is_known_after_its_variable_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_LOGIN", "onlyletters")
    read_secret("GATEWAY_LOGIN")
    monkeypatch.delenv("GATEWAY_LOGIN")
    note_secret("from-a-file-9f8e\n")
    assert scrub("onlyletters from-a-file-9f8e") == "*** ***"


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("AWS_SECRET_ACCESS_KEY", "aB3/dEf+gH1jKlMn0pQrStUv/xYz5aB3dEf+gH1j", True),
        ("ACME_API_KEY", "aVeryLongKeyWithoutAnyDigit", True),
        ("OTHER_API_KEY_2", "abc/def/123", True),
        ("PGPASSWORD", "short-8c", True),
        ("DB_PASS", "pw-1234-pw", True),
        ("GITHUB_PAT", "ghp_0123456789", True),
        ("TOKENIZER_MODEL", "gpt-4.1-mini-2025-04-14", False),
        ("MONKEY", "support-router-v2", False),
        ("MAX_TOKENS", "4096-per-request", False),
        ("API_KEY_NAME", "production-key-1", False),
        ("ACCESS_TOKEN_FILE", "somewhere/token-1", False),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/folder/key-1.json", False),
        ("DB_PASSWORD", "postgres", True),
        ("SLACK_WEBHOOK_URL", "https://hooks.example/T0/B0", True),
        ("DB_PASSWORD", "short", False),
    ],
)
def test_names_of_secrets_are_whole_words(monkeypatch: pytest.MonkeyPatch, name: str, value: str, secret: bool) -> None:
    monkeypatch.setenv(name, value)
    assert scrub(f"it says {value}.") == ("it says ***." if secret else f"it says {value}.")


def test_what_a_provider_reads_is_known_by_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_LOGIN", "onlyletters")
    monkeypatch.setenv("LLMTUNE_OPENAI_API_KEY_ENV", "GATEWAY_LOGIN")
    get_provider("openai")
    assert scrub("onlyletters") == "***"
    assert scrub("Authorization: Bearer eyJ0.a1b2c3") == "Authorization: Bearer ***"


AWKWARD = {"mlflow": "http://mlflow:5000", "owner": "ann@acme.example", "both": '{"at":"http://gpu1:8000","by":"a@b"}'}


def test_what_looks_like_a_password_across_two_texts_changes_nothing(
    store: Store, vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    run = start(job.model_copy(update={"model": "m@1", "tags": AWKWARD}), at())
    run.wait(pace=QUICK)
    (sent,) = vendor.jobs.values()
    assert (sent.body["model"], sent.body["tags"]) == ("m@1", AWKWARD)
    assert run.record.job["tags"] == AWKWARD
    assert [record.id for record in store.runs()] == [run.id]


def test_rows_that_look_like_one_end_in_a_report(
    at: Callable[..., FakeProvider], job: TuningJob, tmp_path: Path
) -> None:
    turns = [[("user", f"http://gpu{n}:8000"), ("assistant", f"ops{n}@acme.example")] for n in range(30)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in each]} for each in turns]
    path = tmp_path / "hosts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = start(job.model_copy(update={"dataset": DatasetSpec(path=str(path))}), at()).wait(pace=QUICK)
    assert report.identity.state == "succeeded"
    assert "@acme.example" in report.to_json()


def test_innocent_variables_change_no_request(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENIZER_MODEL", "base-model-2025-04-14")
    start(job.model_copy(update={"model": "base-model-2025-04-14", "name": "support-router-v2"}), at())
    (sent,) = vendor.jobs.values()
    assert (sent.body["model"], sent.body["name"]) == ("base-model-2025-04-14", "support-router-v2")


@pytest.mark.parametrize("key", [KEY, "canary/with/slashes/and+1", "password"])
def test_a_job_that_holds_a_key_is_refused(
    store: Store,
    vendor: Fake,
    at: Callable[..., FakeProvider],
    job: TuningJob,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    monkeypatch.setenv("LLMTUNE_FAKE_API_KEY", key)
    with pytest.raises(InvalidJob, match=r"^tags\.login: .* LLMTUNE_FAKE_API_KEY") as caught:
        start(job.model_copy(update={"tags": {"login": f"Bearer {key}"}}), at())
    assert key not in str(caught.value)
    assert not vendor.files
    assert store.runs() == []


def test_a_failing_vendor_does_not_make_the_logs_noisy(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(job, at())
    vendor.faults.add(server_error(), role="poll", times=5)
    with caplog.at_level(logging.INFO, "llmtune"):
        run.wait(pace=QUICK)
    assert sum("does not answer" in record.getMessage() for record in caplog.records) == 1
    assert all(getattr(record, "run", run.id) == run.id for record in caplog.records)
