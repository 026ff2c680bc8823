"""`llmtune ui` as a client meets it: what the pages say, how little they ask of the store, and that they only look."""

from __future__ import annotations

import http.client
import json
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest

from llmtune.errors import LlmtuneError
from llmtune.provider.types import RunState
from llmtune.runs.run import Run
from llmtune.runs.store.store import open_store
from llmtune.testing.generic_vendor import Fake
from llmtune.web.server import Server
from tests.llmtune.web.conftest import QUICK, fill, slowly

Begin = Callable[..., Run]


def get(server: Server, path: str) -> str:
    with urllib.request.urlopen(server.url.rstrip("/") + path) as answer:
        return str(answer.read().decode())


def ask(server: Server, path: str) -> Any:
    return json.loads(get(server, path))


def test_the_list_shows_every_run(server: Server, begin: Begin) -> None:
    assert "There are no runs in this store yet" in get(server, "/")
    first, second = begin(name="first"), begin(name="second", done=False)
    text = get(server, "/")
    assert text.index(f'href="/runs/{second.id}"') < text.index(f'href="/runs/{first.id}"')
    assert "connect-src &#39;self&#39;" in text
    assert ask(server, f"/results?run={first.id}&run={second.id}") == {
        first.id: {"text": "accuracy 100.0%", "value": 1.0}
    }
    moving = ask(server, "/moving")
    assert moving["known"] == 2
    assert [run["id"] for run in moving["runs"]] == [second.id]
    second.wait(pace=QUICK)


def test_a_finished_run_has_its_report(server: Server, begin: Begin) -> None:
    run = begin()
    text = get(server, f"/runs/{run.id}")
    assert "Tuning helped: accuracy rose" in text
    assert get(server, f"/runs/{run.id}/report.html") == run.report().to_html()
    assert "Tuning helped" in get(server, f"/runs/{run.id[:6]}"), "the beginning of an id is enough"


def test_an_unfinished_run_shows_what_is_known_and_then_what_is_new(server: Server, begin: Begin, vendor: Fake) -> None:
    slowly(vendor, looks=3)
    run = begin(done=False)
    text = get(server, f"/runs/{run.id}")
    assert "The run is not over yet" in text
    assert '"live"' in text
    before = ask(server, f"/runs/{run.id}/live?after=0")
    assert before["curves"] == []
    run.wait(pace=QUICK)
    news = ask(server, f"/runs/{run.id}/live?after=0")
    assert (news["state"], news["final"], news["step"], news["total"]) == ("succeeded", True, 40, 40)
    curve = next(candidate for candidate in news["curves"] if candidate["name"] == "train/loss")
    points = [point for point in run.metrics() if point.series == "train/loss"]
    assert curve["steps"] == [point.step for point in points]
    assert curve["values"] == pytest.approx([point.value for point in points], rel=1e-6)
    assert ask(server, f"/runs/{run.id}/live?after={news['after']}")["curves"] == []


def test_a_run_that_failed_shows_why(server: Server, begin: Begin, vendor: Fake) -> None:
    vendor.outcome = "failure"
    run = begin(done=False)
    with pytest.raises(LlmtuneError):
        run.wait(pace=QUICK)
    assert vendor.failure_message in get(server, f"/runs/{run.id}")


def test_a_run_whose_process_died_early_is_shown_too(server: Server, begin: Begin) -> None:
    run = begin(done=False)
    open_store().transition(run.id, RunState.LOST, "nobody knows", error="nobody knows")
    assert "The run is lost" in get(server, f"/runs/{run.id}")


@pytest.mark.slow
def test_ticked_runs_stand_side_by_side(server: Server, begin: Begin) -> None:
    runs = [begin(name="two", epochs=2), begin(name="three", epochs=3)]
    text = get(server, "/compare?" + "&".join(f"run={run.id}" for run in runs))
    assert "2 runs side by side" in text
    settings = text[text.index('id="settings"') :]
    assert "epochs" in settings.split("</section>")[0]
    charts = json.loads(text.split('id="page-data">')[1].split("</script>")[0])["charts"]
    assert [curve["label"] for curve in charts[0]["curves"]] == ["two", "three"]
    assert [curve["colour"] for curve in charts[0]["curves"]] == [0, 1]
    assert "Tick two to 8 runs" in get(server, f"/compare?run={runs[0].id}")


# --- it looks and changes nothing ------------------------------------------------------------------------------------
def everything(home: Path) -> list[Any]:
    with sqlite3.connect(f"file:{home / 'store.db'}?mode=ro", uri=True) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [(table, connection.execute(f"SELECT * FROM {table}").fetchall()) for table in sorted(tables)]


def test_no_page_changes_the_store_or_asks_a_vendor(server: Server, begin: Begin, vendor: Fake, own_home: Path) -> None:
    done, running = begin(name="done"), begin(name="running", done=False)
    before, files = everything(own_home), sorted(own_home.rglob("*"))
    request_count = len(vendor.requests)
    for path in (
        "/",
        "/moving",
        f"/runs/{done.id}",
        f"/runs/{running.id}",
        f"/runs/{running.id}/live?after=0",
        f"/runs/{running.id}/report.html",
        f"/results?run={done.id}",
        f"/compare?run={done.id}&run={running.id}",
    ):
        get(server, path)
    assert everything(own_home) == before
    assert sorted(own_home.rglob("*")) == files
    assert len(vendor.requests) == request_count
    running.wait(pace=QUICK)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_only_looking_is_answered(server: Server, method: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(server.url, method=method, data=b"x"))
    assert refused.value.code == 501
    refused.value.close()


def test_another_sites_name_is_refused(server: Server, begin: Begin) -> None:
    begin(name="secret plans")
    port = urlsplit(server.url).port
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/", headers={"Host": f"evil.example:{port}"})
    answer = connection.getresponse()
    assert answer.status == 403
    assert b"secret plans" not in answer.read()
    connection.close()


@pytest.mark.parametrize("path", ["/", "/moving", "/results", "/compare", "/favicon.ico", "/runs/secret", "/nothing"])
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://["}, {"Sec-Fetch-Site": "cross-site"}],
    ids=str,
)
def test_a_page_of_another_site_is_refused(server: Server, path: str, headers: dict[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(urljoin(server.url, path), headers=headers))
    assert refused.value.code == 403
    refused.value.close()


def test_a_browser_that_opens_the_address_is_answered(server: Server) -> None:
    for headers in ({"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin", "Origin": server.url.rstrip("/")}):
        with urllib.request.urlopen(urllib.request.Request(server.url, headers=headers)) as answer:
            assert answer.status == 200


def test_a_header_that_dribbles_in_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtune.web.server.REQUEST_SECONDS", 0.3)
    slow = [socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), timeout=60) for _ in range(20)]
    deadline = time.monotonic() + 60
    while slow:
        assert time.monotonic() < deadline, f"{len(slow)} connections are still open"
        time.sleep(0.05)
        slow = [connection for connection in slow if dribble(connection)]


def dribble(connection: socket.socket) -> bool:
    """Send one more byte of a header that never ends; False once the other side has closed the connection."""
    try:
        connection.send(b"G")
        connection.setblocking(False)
        if connection.recv(1) == b"":
            connection.close()
            return False
    except BlockingIOError:
        return True
    except ConnectionError:
        connection.close()
        return False
    return True


@pytest.mark.parametrize(
    "path", ["/nothing", "/runs/none", "/runs/none/live", "/runs/../../etc/passwd", "/runs/<script>"]
)
def test_what_is_not_there_is_a_sentence(server: Server, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(server, path)
    assert refused.value.code == 404
    text = refused.value.read().decode()
    assert "Traceback" not in text
    assert "There is no such page." in text or "there is no run" in text
    refused.value.close()


def test_every_answer_may_be_framed_and_kept_by_nobody(server: Server) -> None:
    with urllib.request.urlopen(server.url) as answer:
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_taken_port_is_a_sentence(server: Server) -> None:
    with pytest.raises(LlmtuneError, match=r"port \d+ of this machine cannot be used"):
        Server(port=urlsplit(server.url).port or 0)


@pytest.mark.slow
def test_a_thousand_runs_cost_one_query_that_leaves_the_plans_alone(server: Server, begin: Begin) -> None:
    from sqlalchemy import event

    run = begin()
    fill(run, 1000)
    queries: list[str] = []
    engine = open_store()._get_engine()

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        queries.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        text = get(server, "/")
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert text.count('type="checkbox"') == 1000
    selects = [statement for statement in queries if statement.startswith("SELECT")]
    assert len(selects) == 1
    assert "document" not in selects[0]
    assert len(text.encode()) < 1_000_000


def test_the_command_says_where_it_is() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "llmtune", "ui", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        process.communicate(timeout=20)
