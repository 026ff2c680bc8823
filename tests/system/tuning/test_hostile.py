"""Requests of somebody who tries what is odd: each is refused in the API's error shape, and nothing of it stays."""

from __future__ import annotations

import errno
import itertools
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import LlmtuneError, StoreUnavailable
from llmtune.provider.types import RunState
from llmtune.runs.planned import StartOptions
from llmtune.runs.store.store import open_store
from llmtune.server.tuning import audit as audit_module
from llmtune.server.tuning import files as files_module
from llmtune.server.tuning import jobs as jobs_module
from llmtune.server.tuning import uploads as uploads_module
from llmtune.server.tuning.files import Files
from llmtune.server.tuning.keys import add_key
from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning import scenario
from tests.llmtune.server.tuning.conftest import BASE, KEY, client, rows, until, upload

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
JSON = {"content-type": "application/json"}
ANNOUNCED = {"filename": "train.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl"}


@pytest.fixture
def http(server: TuningServer) -> Iterator[Any]:
    """The endpoint's root, with the key in the header of either kind of client."""
    root, headers = server.url.removesuffix("/v1"), {"authorization": f"Bearer {KEY}", "api-key": KEY}
    with httpx.Client(base_url=root, headers=headers, timeout=60) as opened:
        yield opened


def refusal(response: Any, status: int) -> dict[str, Any]:
    """The error of a response that was refused with this status."""
    assert response.status_code == status, response.text[:300]
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    return dict(body["error"])


def test_an_address_with_a_slash_at_its_end_leads_nowhere(http: Any, server: TuningServer) -> None:
    paths = ("/v1/files/", "/v1/fine_tuning/jobs/", "/openai/deployments/x/chat/completions/", "/v1/files/x/content/")
    for path in paths:
        assert refusal(http.get(path), 404)["code"] == "unknown_url"
        stranger = httpx.get(server.url.removesuffix("/v1") + path, headers={"host": "evil.example"})
        assert refusal(stranger, 401)["code"] == "invalid_api_key"
        assert "location" not in stranger.headers


def test_a_strange_host_changes_nothing(server: TuningServer) -> None:
    hosts = ("[", "[::1", "a b", "evil.example:99999999", "\x7f", "\xe9")
    paths = (("/v1/files", b"200"), ("/v1/nothing", b"404"), ("/openai/files?api-version=preview", b"200"))
    for host, (path, status) in itertools.product(hosts, paths):
        request = f"GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.settimeout(60)
            connection.sendall(request.encode("latin-1"))
            answer = b"".join(iter(lambda connection=connection: connection.recv(65536), b""))
        assert answer.split(b" ")[1] == status
        json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_value_of_another_kind_is_refused_by_its_name(http: Any) -> None:
    rate = "hyperparameters.learning_rate_multiplier"
    for fields, param in (
        ('"method": {"type": ["supervised"]}', "method.type"),
        ('"method": {"type": {"supervised": 1}}', "method.type"),
        ('"hyperparameters": {"learning_rate_multiplier": 1e999}', rate),
        (f'"hyperparameters": {{"learning_rate_multiplier": {"9" * 400}}}', rate),
        (f'"seed": {"9" * 400}', "seed"),
        ('"suffix": "a\\u0000b"', "suffix"),
        ('"metadata": {"a": "\\u0000"}', "metadata"),
        ('"metadata": {"\\u0000": "a"}', "metadata"),
    ):
        body = f'{{"model": "{BASE}", "training_file": "file-x", {fields}}}'
        assert refusal(http.post("/v1/fine_tuning/jobs", content=body, headers=JSON), 400)["param"] == param, fields


def test_what_a_refusal_quotes_is_bounded(http: Any) -> None:
    long = "k" * 1_000_000
    for path, body in (
        ("/v1/fine_tuning/jobs", {long: 1}),
        ("/v1/fine_tuning/jobs", {"model": long, "training_file": "file-x"}),
        ("/v1/chat/completions", {long: 1}),
        ("/v1/chat/completions", {"model": long, "messages": [{"role": "user", "content": "a"}]}),
        ("/v1/uploads", {long: 1}),
    ):
        response = http.post(path, json=body)
        assert response.status_code in (400, 404)
        assert refusal(response, response.status_code)["message"]
        assert len(response.content) < 5000


def test_a_file_is_sent_whole_and_one_that_goes_meanwhile_is_not_found(
    http: Any, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upload(api).id
    for wanted in ("bytes=0-5", "bytes=99999999-", "bytes=5-1", "lines=1"):
        response = http.get(f"/v1/files/{file}/content", headers={"range": wanted})
        assert (response.status_code, response.content) == (200, rows())
        assert response.headers["content-length"] == str(len(rows()))
    find = Files.find

    def find_and_delete(self: Files, file_id: str, key: Any) -> Any:
        record = find(self, file_id, key)
        self.state.delete_file(record)
        return record

    monkeypatch.setattr(Files, "find", find_and_delete)
    assert refusal(http.get(f"/v1/files/{file}/content"), 404)["code"] == "not_found"


def test_an_idempotency_key_is_for_one_request_and_is_not_written_down(api: Any, own_home: Path) -> None:
    headers = {"idempotency-key": "canary-" + "k" * 20_000}
    file = api.files.create(file=("a.jsonl", rows()), purpose="fine-tune", extra_headers=headers)
    again = api.files.create(file=("a.jsonl", rows()), purpose="fine-tune", extra_headers=headers)
    assert again.id == file.id
    job = api.fine_tuning.jobs.create(model=BASE, training_file=file.id, extra_headers=headers)
    api.uploads.create(bytes=5, **ANNOUNCED, extra_headers=headers)
    for other in (
        lambda: api.files.create(file=("a.jsonl", rows(30)), purpose="fine-tune", extra_headers=headers),
        lambda: api.uploads.create(bytes=6, **ANNOUNCED, extra_headers=headers),
        lambda: api.fine_tuning.jobs.create(model=BASE, training_file=file.id, seed=1, extra_headers=headers),
    ):
        with pytest.raises(openai.ConflictError, match="was used for another") as caught:
            other()
        assert caught.value.code == "idempotency_error"
    assert api.fine_tuning.jobs.retrieve(job.id).id == job.id
    assert not any(path.is_file() and b"canary-" in path.read_bytes() for path in own_home.rglob("*"))


def test_a_key_in_the_name_of_a_file_is_refused(vendor: Fake, own_home: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    key, other = add_key(keys, "ana"), add_key(keys, "ben")
    with TuningServer({BASE: "fake:m-1"}, port=0, keys=keys, spending=StartOptions(yes=True)) as server:
        for secret, source in ((key, "the key 'ana'"), (other, "the key 'ben'"), (KEY, "LLMTUNE_SERVE_KEY")):
            name = f"of {secret}.jsonl"
            with client(server, key) as api:
                for call in (
                    lambda name=name, api=api: upload(api, name=name),
                    lambda name=name, api=api: api.uploads.create(bytes=5, **(ANNOUNCED | {"filename": name})),
                ):
                    with pytest.raises(openai.BadRequestError, match=f"it holds .*{source}") as caught:
                        call()
                    assert secret not in caught.value.message
            assert not any(path.is_file() and secret.encode() in path.read_bytes() for path in own_home.rglob("*"))


def test_a_deployment_of_any_name_is_looked_up_and_not_found(http: Any) -> None:
    body = {"messages": [{"role": "user", "content": "a"}]}
    for name in ("a/b", "a%2Fb", "%00", "%ff", "m" * 20_000, "\u00e9", "chat/completions"):
        for path in (f"/openai/deployments/{name}/chat/completions?api-version=preview", f"/openai/v1/models/{name}"):
            response = http.request("POST" if "chat/completions?" in path else "GET", path, json=body)
            assert refusal(response, 404)["code"] in ("model_not_found", "unknown_url")
        unversioned = http.post(f"/openai/deployments/{name}-/chat/completions", json=body)
        assert refusal(unversioned, 400)["param"] == "api-version"
    for path in ("/openai/deployments", "/openai/deployments/", "/openai/deployments/x", "/openai/deployments/x/files"):
        assert refusal(http.post(f"{path}?api-version=preview", json=body), 404)["code"] == "unknown_url"


def test_a_job_that_ends_while_it_is_paused_is_no_fault_of_the_server(
    api: Any, vendor: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scenario.held(vendor):
        job = api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id)
        until(lambda: api.fine_tuning.jobs.retrieve(job.id).status == "running")

    def end_first(store: Any, run_id: str, provider: Any) -> None:
        store.transition(run_id, RunState.FAILED, "the vendor ended it", error="the vendor ended it")
        raise LlmtuneError(f"run {run_id} is not running but failed")

    monkeypatch.setattr(jobs_module, "pause_refusal", lambda *_: None)
    monkeypatch.setattr(jobs_module, "pause_job", end_first)
    with pytest.raises(openai.BadRequestError, match="this one is failed") as caught:
        api.fine_tuning.jobs.pause(job.id)
    assert caught.value.code == "invalid_job_state"
    for verb, status in (("pause", "failed"), ("resume", "failed")):
        with pytest.raises(openai.BadRequestError, match=f"this one is {status}"):
            getattr(api.fine_tuning.jobs, verb)(job.id)


def test_a_store_that_is_away_for_a_moment_is_asked_again(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("the database is locked")

    monkeypatch.setattr(jobs_module.Jobs, "list", away)
    response = http.get("/v1/fine_tuning/jobs")
    assert refusal(response, 503)["code"] == "unavailable"
    assert response.headers["retry-after"] == "1"


def test_files_of_a_limited_owner_come_a_few_at_a_time(
    vendor: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys.yaml"
    limited, other = add_key(keys, "ana"), add_key(keys, "ben")
    keys.write_text(keys.read_text() + "  max_stored_gb: null\n")
    monkeypatch.setattr(files_module, "MAX_PARALLEL", 0)
    with TuningServer({BASE: "fake:m-1"}, port=0, keys=keys, spending=StartOptions(yes=True)) as server:
        with client(server, limited) as api, pytest.raises(openai.RateLimitError, match="under way already") as caught:
            upload(api)
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.response.headers["retry-after"] == "1"
        with client(server, other) as api:
            assert upload(api).status == "processed"


def test_a_full_disk_is_no_fault_of_any_request(
    http: Any, api: Any, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    file = upload(api).id

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(audit_module, "open_private", full)
    for method, path, body in (
        ("POST", "/v1/uploads", {"bytes": 5, **ANNOUNCED}),
        ("POST", "/v1/fine_tuning/jobs", {"model": BASE, "training_file": file}),
        ("DELETE", f"/v1/files/{file}", None),
    ):
        assert refusal(http.request(method, path, json=body), 507)["code"] == "disk_full"
    assert len(list(api.files.list())) == 1
    assert list(api.fine_tuning.jobs.list()) == []


def test_a_body_that_is_too_large_is_refused_while_it_is_still_sent(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = api.uploads.create(bytes=64 << 20, **ANNOUNCED)
    monkeypatch.setattr(uploads_module, "MAX_PART_BYTES", 1 << 20)
    with pytest.raises(openai.APIStatusError) as caught:
        api.uploads.parts.create(pending.id, data=b"x" * (16 << 20))
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert api.uploads.parts.create(pending.id, data=b"x").upload_id == pending.id


def test_an_upload_is_completed_once_however_many_complete_and_cancel_it_at_once(api: Any) -> None:
    content = rows(200)
    pending = api.uploads.create(bytes=len(content), **ANNOUNCED)
    part = api.uploads.parts.create(pending.id, data=content)

    def attempt(number: int) -> str:
        try:
            if number % 4 == 3:
                return str(api.uploads.cancel(pending.id).status)
            return str(api.uploads.complete(pending.id, part_ids=[part.id]).file.id)
        except openai.BadRequestError as error:
            return str(error.code)

    with ThreadPoolExecutor(8) as pool:
        outcomes = set(pool.map(attempt, range(16)))
    files = [file.id for file in api.files.list()]
    assert outcomes - {"upload_not_pending"} in ({"cancelled"}, set(files))
    assert len(files) <= 1


def test_no_other_file_comes_of_an_upload_that_a_kill_left_half_completed(vendor: Fake, own_home: Path) -> None:
    content = rows(50)

    def serve() -> TuningServer:
        return TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(yes=True))

    with serve() as server, client(server) as api:
        pending = api.uploads.create(bytes=len(content), **ANNOUNCED)
        part = api.uploads.parts.create(pending.id, data=content)
        other = api.uploads.parts.create(pending.id, data=content[::-1])
        path = own_home / "tuning" / "uploads" / f"{pending.id}.json"
        before = path.read_bytes()
        done = api.uploads.complete(pending.id, part_ids=[part.id])
    path.write_bytes(before)  # as a kill leaves it right after the parts were joined
    with serve() as server, client(server) as api:
        with pytest.raises(openai.BadRequestError, match="other parts were joined") as caught:
            api.uploads.complete(pending.id, part_ids=[other.id])
        assert caught.value.param == "part_ids"
        assert api.uploads.complete(pending.id, part_ids=[part.id]).file.id == done.file.id
        assert [file.id for file in api.files.list()] == [done.file.id]
    assert len(open_store().runs()) == 0
