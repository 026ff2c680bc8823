"""Files: kept once by their content, as long as anybody needs them, and recognised when they are sent again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llmtune.runs.planned import StartOptions
from llmtune.server.tuning.server import TuningServer
from llmtune.testing.fake_vendor import Phase
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning.conftest import BASE, KEY, client, rows, upload, wait

openai = pytest.importorskip("openai")


def content_of(own_home: Path) -> list[str]:
    return sorted(path.suffix for path in (own_home / "tuning" / "content").iterdir())


def test_a_file_is_listed_read_and_deleted(api: Any) -> None:
    first, second = upload(api), upload(api, rows(3), "small.jsonl")
    assert (second.filename, second.bytes, second.purpose, second.status) == (
        "small.jsonl",
        len(rows(3)),
        "fine-tune",
        "processed",
    )
    assert first.id.startswith("file-")
    assert [file.id for file in api.files.list()] == [second.id, first.id]
    assert [file.id for file in api.files.list(order="asc", limit=1)] == [first.id, second.id]
    assert [file.id for file in api.files.list(purpose="fine-tune-results")] == []
    assert api.files.retrieve(first.id) == first
    assert api.files.wait_for_processing(first.id).id == first.id
    assert api.files.content(second.id).read() == rows(3)
    assert api.files.delete(second.id).deleted
    for call in (api.files.retrieve, api.files.content, api.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object") as caught:
            call(second.id)
        assert caught.value.param == "id"


def test_the_same_content_lies_there_once(api: Any, own_home: Path) -> None:
    first, second = upload(api), upload(api)
    assert first.id != second.id
    assert content_of(own_home) == [".jsonl"]
    api.files.delete(first.id)
    assert api.files.content(second.id).read() == rows()
    api.files.delete(second.id)
    assert content_of(own_home) == []


def test_a_second_try_of_an_upload_finds_the_first(api: Any) -> None:
    first = upload(api)
    again = api.files.create(
        file=("train.jsonl", rows()), purpose="fine-tune", extra_headers={"x-stainless-retry-count": "1"}
    )
    assert again.id == first.id


@pytest.mark.parametrize(
    ("content", "options", "param"),
    [
        (rows(2), {"purpose": "assistants"}, "purpose"),
        (b"", {}, "file"),
        (b"a,b\n1,2\n", {}, "file"),
        (b"[1, 2]\n", {}, "file"),
        (rows(2), {"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after"),
        (rows(2), {"extra_body": {"colour": "red"}}, "colour"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_its_field(
    api: Any, content: bytes, options: dict[str, Any], param: str, own_home: Path
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.files.create(**({"file": ("train.jsonl", content), "purpose": "fine-tune"} | options))
    assert caught.value.param == param
    assert content_of(own_home) == []


def test_a_file_expires(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = api.files.create(
        file=("a.jsonl", rows(2)), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == pytest.approx(file.created_at + 3600, abs=1)
    now = time.time()
    monkeypatch.setattr("llmtune.server.tuning.state.time.time", lambda: now + 3700)
    with pytest.raises(openai.NotFoundError):
        api.files.retrieve(file.id)


def test_deleting_a_file_takes_nothing_from_a_job_that_has_begun(
    server: TuningServer, vendor: Fake, own_home: Path
) -> None:
    vendor.walks = Fake.walks | {
        "success": (Phase("queued"), Phase("training", looks=15, training=True), Phase("succeeded"))
    }
    with client(server) as api:
        file = upload(api)
        job = api.fine_tuning.jobs.create(model=BASE, training_file=file.id)
        api.files.delete(file.id)
        assert content_of(own_home) == [".jsonl"]
        assert wait(api, job.id).status == "succeeded"
        assert content_of(own_home) == [".csv"]


def test_files_and_jobs_outlive_the_server(vendor: Fake) -> None:
    with TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(yes=True)) as server, client(server) as api:
        file = upload(api)
        job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=file.id).id)
    with TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(yes=True)) as server, client(server) as api:
        assert api.files.retrieve(file.id) == file
        assert api.fine_tuning.jobs.retrieve(job.id) == job
        assert api.models.retrieve(job.fine_tuned_model)


def test_what_is_cut_off_leaves_nothing(server: TuningServer, own_home: Path) -> None:
    httpx = pytest.importorskip("httpx")
    headers = {"authorization": f"Bearer {KEY}", "content-type": "multipart/form-data; boundary=x"}
    body = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + rows(3)
    response = httpx.post(f"{server.url}/files", content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "the body is not complete multipart/form-data"
    assert content_of(own_home) == []
