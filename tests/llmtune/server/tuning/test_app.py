"""Who is answered, what a request may hold, and how it is refused: always in the API's shape, with the field's name."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.server.tuning import files, receive
from llmtune.server.tuning.server import TuningServer
from tests.llmtune.server.tuning.conftest import BASE, KEY, rows, upload

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

ROUTES = [
    ("GET", "/files"),
    ("POST", "/files"),
    ("GET", "/files/file-x"),
    ("DELETE", "/files/file-x"),
    ("GET", "/files/file-x/content"),
    ("GET", "/fine_tuning/jobs"),
    ("POST", "/fine_tuning/jobs"),
    ("GET", "/fine_tuning/jobs/ftjob-x"),
    ("POST", "/fine_tuning/jobs/ftjob-x/cancel"),
    ("POST", "/fine_tuning/jobs/ftjob-x/pause"),
    ("POST", "/fine_tuning/jobs/ftjob-x/resume"),
    ("GET", "/fine_tuning/jobs/ftjob-x/events"),
    ("GET", "/fine_tuning/jobs/ftjob-x/checkpoints"),
    ("GET", "/fine_tuning/checkpoints/ft:a:b:c:d/permissions"),
    ("POST", "/fine_tuning/alpha/graders/run"),
    ("POST", "/uploads"),
    ("POST", "/uploads/upload_x/parts"),
    ("POST", "/uploads/upload_x/complete"),
    ("POST", "/uploads/upload_x/cancel"),
    ("GET", "/models"),
    ("GET", "/models/gpt-x"),
    ("DELETE", "/models/gpt-x"),
    ("POST", "/chat/completions"),
    ("GET", "/embeddings"),
]


@pytest.fixture
def http(server: TuningServer) -> Iterator[Any]:
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as opened:
        yield opened


def error_of(response: Any) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


def test_every_route_asks_for_the_key_and_refuses_pages_of_other_sites(server: TuningServer) -> None:
    strangers: list[dict[str, str]] = [{}, {"authorization": "Bearer wrong"}, {"authorization": KEY[:-1]}]
    pages = [{"origin": "http://evil.example"}, {"origin": "null"}]
    pages += [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}]
    with httpx.Client(base_url=server.url, timeout=60) as stranger:
        for method, path in ROUTES:
            for headers in strangers:
                response = stranger.request(method, path, headers=headers)
                assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key"), path
            for headers in pages:
                response = stranger.request(method, path, headers=headers | {"authorization": f"Bearer {KEY}"})
                assert (response.status_code, error_of(response)["code"]) == (403, "foreign_origin"), path
        assert stranger.get(server.url.replace("/v1", "/health"), headers=pages[0]).status_code == 403
        assert stranger.get(server.url.replace("/v1", "/health")).json() == {"status": "ok"}


def test_a_page_of_this_very_server_may_ask(http: Any) -> None:
    host = str(http.base_url.netloc.decode())
    assert http.get("/models", headers={"origin": f"http://{host}", "sec-fetch-site": "same-origin"}).status_code == 200


def test_what_is_not_served_is_refused_with_its_reason(http: Any) -> None:
    for method, path in ROUTES[13:15]:
        error = error_of(http.request(method, path))
        assert error["code"] == "unsupported_endpoint"
    response = http.get("/embeddings")
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")
    assert http.put("/files").status_code == 405
    assert response.headers["x-request-id"].startswith("req_")


def test_json_is_asked_for_by_its_name(http: Any) -> None:
    body = json.dumps({"model": BASE, "training_file": "file-x"})
    for path in ("/fine_tuning/jobs", "/chat/completions"):
        for headers in ({"content-type": "text/plain"}, {}):
            response = http.post(path, content=body, headers=headers)
            assert response.status_code == 415
            assert "must be application/json" in error_of(response)["message"]
    right = {"content-type": "application/json; charset=utf-8"}
    assert error_of(http.post("/fine_tuning/jobs", content="{", headers=right))["message"] == "the body is not JSON"
    assert error_of(http.post("/fine_tuning/jobs", content="[" * 100000, headers=right))["message"] == (
        "the body is not JSON"
    )
    assert http.post("/fine_tuning/jobs", content=b" " * (11 << 20), headers=right).status_code == 413
    cancelled = http.post("/fine_tuning/jobs/ftjob-x/cancel", content='{"reason": "x"}', headers=right)
    assert error_of(cancelled)["message"] == "this request takes no body"


def test_an_unknown_parameter_of_a_list_is_refused_by_its_name(http: Any) -> None:
    for path in ("/files", "/fine_tuning/jobs", "/models"):
        error = error_of(http.get(path, params={"colour": "red"}))
        assert (error["param"], error["code"]) == ("colour", "unknown_parameter")
    for limit in ("0", "-1", "x", "101"):
        assert error_of(http.get("/fine_tuning/jobs", params={"limit": limit}))["param"] == "limit"
    assert error_of(http.get("/files", params={"order": "up"}))["param"] == "order"


def test_a_failure_of_the_server_says_nothing_of_its_inside(
    http: Any, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    from llmtune.server.tuning.jobs import Jobs

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("canary /secret/path")

    monkeypatch.setattr(Jobs, "list", broken)
    response = http.get("/fine_tuning/jobs")
    assert response.status_code == 500
    assert "canary" not in response.text


def test_the_key_is_written_nowhere(api: Any, own_home: Path) -> None:
    job = api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id)
    api.fine_tuning.jobs.retrieve(job.id)
    for path in own_home.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_a_secret_in_a_job_is_refused_before_it_is_written_down(
    api: Any, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_VENDOR_API_KEY", "sk-canary-5d8812aa")
    file = upload(api)
    with pytest.raises(openai.BadRequestError, match="it holds the secret in the environment variable"):
        api.fine_tuning.jobs.create(model=BASE, training_file=file.id, metadata={"key": "sk-canary-5d8812aa"})
    for path in own_home.rglob("*"):
        assert not path.is_file() or b"sk-canary-5d8812aa" not in path.read_bytes()


def test_a_file_is_bounded_in_size_and_time(
    http: Any, server: TuningServer, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    large = http.post("/files", files={"file": ("a.jsonl", rows(50))}, data={"purpose": "fine-tune"})
    assert (large.status_code, error_of(large)["param"]) == (413, "file")
    monkeypatch.setattr(receive, "UPLOAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(
            f"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n"
            "content-type: multipart/form-data; boundary=x\r\ncontent-length: 500\r\n\r\n--x\r\n".encode()
        )
        slow.settimeout(30)
        assert b"408" in slow.recv(200)
    assert http.get("/files").json()["data"] == []
    assert list((own_home / "tuning" / "content").iterdir()) == []
