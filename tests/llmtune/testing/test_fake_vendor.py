"""The fake-vendor toolkit itself: routes, fields, states, faults."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from llmtune.testing import (
    Call,
    FakeVendor,
    Phase,
    Reply,
    Required,
    accept_then_drop,
    accept_then_hold,
    garbled,
    rate_limit,
    reset,
    route,
    server_error,
    truncated,
    unknown_state,
)
from llmtune.testing.request_schema import violations


class Acme(FakeVendor):
    name = "acme"
    walks: ClassVar[dict[str, tuple[Phase, ...]]] = {
        "success": (Phase("waiting"), Phase("working", looks=4, training=True), Phase("done")),
        "failure": (Phase("working"), Phase("broken")),
        "cancelled": (Phase("stopping"), Phase("stopped")),
    }

    @route("POST", "/v1/jobs", role="submit")
    def create_job(self, call: Call) -> Any:
        body = call.json({"model": Required(str), "epochs": (int, {"auto"}), "tags": {...: str}, "token": str})
        job = self.new_job(body, key=body.get("tags", {}).get("key"), token=body.get("token"))
        return {"id": job.id, "status": job.word}

    @route("GET", "/v1/jobs", role="find")
    def list_jobs(self, call: Call) -> Any:
        call.fields({"limit": str})
        return {"data": [{"id": job.id} for job in self.listed(self.jobs.values())]}

    @route("GET", "/v1/jobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        job = self.job(call.params["job"])
        return {"id": job.id, "status": self.look(job), "steps": self.steps_done(job)}

    @route("POST", "/v1/{name*}:cancel", role="cancel")
    def cancel(self, call: Call) -> Any:
        job = self.job(call.params["name"].removeprefix("jobs/"))
        self.cancel_job(job)
        return {"id": job.id, "status": job.word}

    @route("POST", "/v1/files", role="upload")
    def upload(self, call: Call) -> Any:
        form = call.form({"file": Required(str), "purpose": Required(str)})
        return {"id": self.new_file(form["file"].content, name=form["file"].filename or "").id}

    @route("GET", "/raw")
    def raw(self, call: Call) -> Reply:
        return Reply(b"\x00\x01", headers={"X-Extra": "yes"})


@pytest.fixture
def acme() -> Iterator[Acme]:
    with Acme() as vendor:
        yield vendor


def ask(vendor: FakeVendor, method: str, path: str, body: Any = None, timeout: float = 5, **headers: str) -> Any:
    connection = http.client.HTTPConnection(urlsplit(vendor.url).netloc, timeout=timeout)
    data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
    connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, json.loads(content) if content[:1] in b"{[" else content, reply


def test_a_job_walks_through_its_states_and_makes_steps(acme: Acme) -> None:
    status, job, _ = ask(acme, "POST", "/v1/jobs", {"model": "m"})
    assert status == 200
    polls = [ask(acme, "GET", f"/v1/jobs/{job['id']}")[1] for _ in range(7)]
    assert [poll["status"] for poll in polls] == ["waiting", *["working"] * 4, "done", "done"]
    steps = [poll["steps"] for poll in polls]
    assert steps == sorted(steps)
    assert steps[-1] == 10
    assert acme.counts["poll"] == 7
    assert not acme.complaints


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"model": "m", "n_epochs": 3}, "n_epochs"),
        ({}, "model"),
        ({"model": "m", "epochs": "three"}, "epochs"),
        ({"model": "m", "epochs": True}, "epochs"),
        ({"model": "m", "tags": {"a": 1}}, "tags.a"),
    ],
)
def test_an_undeclared_or_wrong_field_is_refused_and_remembered(acme: Acme, body: Any, where: str) -> None:
    status, answer, _ = ask(acme, "POST", "/v1/jobs", body)
    assert status == 400
    assert where in answer["error"]["message"]
    assert where in acme.complaints[0]
    assert not acme.jobs


def test_an_unknown_query_parameter_or_route_is_a_complaint(acme: Acme) -> None:
    assert ask(acme, "GET", "/v1/jobs?limit=3")[0] == 200
    assert ask(acme, "GET", "/v1/jobs?size=3")[0] == 400
    assert ask(acme, "GET", "/v2/jobs")[0] == 404
    assert len(acme.complaints) == 2


def test_a_new_job_is_listed_only_after_the_lag(acme: Acme) -> None:
    acme.lag = 60
    job = ask(acme, "POST", "/v1/jobs", {"model": "m"})[1]
    assert ask(acme, "GET", "/v1/jobs")[1] == {"data": []}
    assert ask(acme, "GET", f"/v1/jobs/{job['id']}")[0] == 200
    acme.advance(61)
    assert ask(acme, "GET", "/v1/jobs")[1] == {"data": [{"id": job["id"]}]}


def test_a_token_makes_one_job_only(acme: Acme) -> None:
    first, second = (ask(acme, "POST", "/v1/jobs", {"model": "m", "token": "t1"})[1] for _ in range(2))
    assert first["id"] == second["id"]
    assert len(acme.jobs_with("t1")) == 1


def test_cancel_and_failure_walk_their_own_way(acme: Acme) -> None:
    job = ask(acme, "POST", "/v1/jobs", {"model": "m"})[1]["id"]
    assert ask(acme, "POST", f"/v1/jobs/{job}:cancel")[1]["status"] == "stopping"
    ask(acme, "GET", f"/v1/jobs/{job}")
    assert ask(acme, "GET", f"/v1/jobs/{job}")[1]["status"] == "stopped"
    acme.outcome = "failure"
    job = ask(acme, "POST", "/v1/jobs", {"model": "m"})[1]["id"]
    ask(acme, "GET", f"/v1/jobs/{job}")
    assert ask(acme, "GET", f"/v1/jobs/{job}")[1]["status"] == "broken"


def test_credentials_are_asked_for_when_there_is_one(acme: Acme) -> None:
    acme.api_key = "right"
    assert ask(acme, "GET", "/v1/jobs")[0] == 401
    assert ask(acme, "GET", "/v1/jobs", Authorization="Bearer right")[0] == 200


def test_a_form_is_held_to_its_fields(acme: Acme) -> None:
    def form(**parts: str) -> bytes:
        pieces = [
            f'--XX\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.jsonl"\r\n\r\n{text}\r\n'
            for name, text in parts.items()
        ]
        return ("".join(pieces) + "--XX--\r\n").encode()

    kind = {"Content_Type": "multipart/form-data; boundary=XX"}
    status, answer, _ = ask(acme, "POST", "/v1/files", form(file="a\r\nb\n", purpose="tune"), **kind)
    assert status == 200
    assert acme.files[answer["id"]].content == b"a\r\nb\n"
    assert acme.files[answer["id"]].name == "file.jsonl"
    assert ask(acme, "POST", "/v1/files", form(file="a", purpose="b", extra="c"), **kind)[0] == 400


def test_bytes_and_headers_pass(acme: Acme) -> None:
    status, content, reply = ask(acme, "GET", "/raw")
    assert (status, content, reply.headers["X-Extra"]) == (200, b"\x00\x01", "yes")


def test_a_chunked_body_is_read(acme: Acme) -> None:
    connection = http.client.HTTPConnection(urlsplit(acme.url).netloc, timeout=5)
    chunks = iter([b'{"mod', b'el": "m"}'])
    connection.request("POST", "/v1/jobs", chunks, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    assert connection.getresponse().status == 200
    connection.close()


def test_faults_strike_where_they_are_told(acme: Acme) -> None:
    acme.faults.add(rate_limit(0.2), role="find", after=1)
    acme.faults.add(server_error(503), route="create_job")
    assert ask(acme, "GET", "/v1/jobs")[0] == 200
    status, _, reply = ask(acme, "GET", "/v1/jobs")
    assert (status, reply.headers["Retry-After"]) == (429, "0.2")
    assert ask(acme, "POST", "/v1/jobs", {"model": "m"})[0] == 503
    assert not acme.jobs
    assert ask(acme, "POST", "/v1/jobs", {"model": "m"})[0] == 200
    assert acme.faults.total() == 2


def test_a_connection_is_lost_before_or_after_the_job_was_made(acme: Acme) -> None:
    acme.faults.add(reset(), role="submit")
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(acme, "POST", "/v1/jobs", {"model": "m"})
    assert len(acme.jobs) == 0
    acme.faults.add(accept_then_drop(), role="submit")
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(acme, "POST", "/v1/jobs", {"model": "m"})
    assert len(acme.jobs) == 1
    acme.faults.add(accept_then_hold(0.5), role="submit")
    with pytest.raises((TimeoutError, socket.timeout)):
        ask(acme, "POST", "/v1/jobs", {"model": "m"}, timeout=0.1)
    assert len(acme.jobs) == 2


def test_an_answer_breaks_off_is_garbled_or_names_an_unknown_state(acme: Acme) -> None:
    job = ask(acme, "POST", "/v1/jobs", {"model": "m"})[1]["id"]
    acme.faults.add(truncated(), role="poll")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask(acme, "GET", f"/v1/jobs/{job}")
    acme.faults.add(garbled(), role="poll")
    assert b"<html>" in ask(acme, "GET", f"/v1/jobs/{job}")[1]
    acme.faults.add(unknown_state("odd"), role="poll")
    assert ask(acme, "GET", f"/v1/jobs/{job}")[1]["status"] == "odd"
    assert ask(acme, "GET", f"/v1/jobs/{job}")[1]["status"] == "working"


def test_sprinkled_faults_are_the_same_for_the_same_seed() -> None:
    patterns = []
    for _ in range(2):
        with Acme() as vendor:
            vendor.faults.sprinkle([server_error()], rate=0.5, seed=3, roles={"find"})
            patterns.append([ask(vendor, "GET", "/v1/jobs")[0] for _ in range(20)])
    assert patterns[0] == patterns[1]
    assert 200 in patterns[0]
    assert 500 in patterns[0]


def test_a_bug_in_a_fake_is_a_complaint_not_a_500() -> None:
    class Buggy(FakeVendor):
        @route("GET", "/x")
        def x(self, call: Call) -> Any:
            raise KeyError("oops")

    with Buggy() as vendor:
        assert ask(vendor, "GET", "/x")[0] == 599
        assert "oops" in vendor.complaints[0]


def test_shapes() -> None:
    assert violations({"a": [1, 2]}, {"a": [int]}) == []
    assert violations({"a": [1, "2"]}, {"a": [int]})[0][0] == "a[1]"
    assert violations(True, {1, 2}) != []
    assert violations(1, float) == []
    assert violations(None, (str, None)) == []
    with pytest.raises(TypeError):
        violations(1, "int")


def test_a_client_that_is_killed_while_it_sends_has_asked_nothing() -> None:
    import socket

    from llmtune.testing.generic_vendor import Fake

    with Fake() as vendor:
        host, port = vendor.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b'POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"model"')
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while client.recv(4096):
                pass
        assert vendor.complaints == []
        assert [call.path for call in vendor.requests] == ["/v1/models"]
