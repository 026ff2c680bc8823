"""Uploads in parts: joined in the order that the client names, checked, and completed in one step."""

from __future__ import annotations

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmtune.runs.planned import StartOptions
from llmtune.server.tuning import receive, uploads
from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning.conftest import BASE, KEY, client, rows, wait

openai = pytest.importorskip("openai")
CONTENT = rows(200)
HALF = len(CONTENT) // 2


def announce(api: Any, size: int = len(CONTENT), **fields: Any) -> Any:
    values = {"filename": "train.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl"}
    return api.uploads.create(bytes=size, **(values | fields))


def parts_on_disk(own_home: Path) -> list[Path]:
    return list((own_home / "tuning" / "uploads").glob("*/*"))


def test_parts_become_a_file_in_the_order_that_is_named(api: Any, own_home: Path) -> None:
    upload = announce(api, expires_after={"anchor": "created_at", "seconds": 7200})
    assert (upload.status, upload.bytes, upload.purpose, upload.file) == ("pending", len(CONTENT), "fine-tune", None)
    assert upload.expires_at == upload.created_at + 3600
    second = api.uploads.parts.create(upload.id, data=CONTENT[HALF:])
    first = api.uploads.parts.create(upload.id, data=CONTENT[:HALF])
    api.uploads.parts.create(upload.id, data=b"not named, not used")
    assert (first.object, first.upload_id) == ("upload.part", upload.id)
    done = api.uploads.complete(
        upload.id, part_ids=[first.id, second.id], md5=hashlib.md5(CONTENT, usedforsecurity=False).hexdigest().upper()
    )
    assert done.status == "completed"
    assert (done.file.filename, done.file.bytes, done.file.status) == ("train.jsonl", len(CONTENT), "processed")
    assert done.file.expires_at == pytest.approx(done.file.created_at + 7200, abs=1)
    assert api.files.content(done.file.id).read() == CONTENT
    assert [file.id for file in api.files.list()] == [done.file.id]
    assert parts_on_disk(own_home) == []
    job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=done.file.id).id)
    assert job.status == "succeeded"


def test_the_clients_own_helpers_upload_a_file(server: TuningServer, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(CONTENT)
    with client(server) as api:
        done = api.uploads.upload_file_chunked(
            file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=len(CONTENT) // 5
        )
        assert api.files.content(done.file.id).read() == CONTENT

    async def chunked() -> Any:
        async with openai.AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0) as api:
            done = await api.uploads.upload_file_chunked(file=path, mime_type="text/jsonl", purpose="fine-tune")
            return done.file

    assert asyncio.run(chunked()).bytes == len(CONTENT)


def test_parts_may_come_at_the_same_time(api: Any) -> None:
    upload = announce(api)
    step = -(-len(CONTENT) // 12)
    pieces = [CONTENT[at : at + step] for at in range(0, len(CONTENT), step)]
    with ThreadPoolExecutor(12) as pool:
        parts = list(pool.map(lambda piece: api.uploads.parts.create(upload.id, data=piece), pieces))
    done = api.uploads.complete(upload.id, part_ids=[part.id for part in parts])
    assert api.files.content(done.file.id).read() == CONTENT


def test_asked_again_it_is_the_same_upload_and_the_same_file(api: Any) -> None:
    upload = announce(api)
    assert announce(api).id != upload.id
    with pytest.raises(openai.BadRequestError):
        announce(api, 0)
    retried = announce(api, extra_headers={"x-stainless-retry-count": "1"})
    named = [announce(api, extra_headers={"idempotency-key": "k"}).id for _ in range(2)]
    assert named[0] == named[1] != upload.id
    part = api.uploads.parts.create(retried.id, data=CONTENT)
    done = [api.uploads.complete(retried.id, part_ids=[part.id]) for _ in range(2)]
    assert done[0] == done[1]
    assert len(list(api.files.list())) == 1
    with pytest.raises(openai.BadRequestError, match="the upload is completed, not pending") as caught:
        api.uploads.complete(retried.id, part_ids=["part_other"])
    assert caught.value.code == "upload_not_pending"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"size": 0}, "bytes"),
        ({"size": (8 << 30) + 1}, "bytes"),
        ({"size": True}, "bytes"),
        ({"filename": ""}, "filename"),
        ({"mime_type": 7}, "mime_type"),
        ({"purpose": "assistants"}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after"),
        ({"expires_after": {"anchor": "x", "seconds": 3600}}, "expires_after"),
        ({"expires_after": [3600]}, "expires_after"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(api: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        announce(api, **fields)
    assert caught.value.param == param


def test_what_does_not_fit_the_announcement_completes_nothing(api: Any, own_home: Path) -> None:
    upload = announce(api)
    part = api.uploads.parts.create(upload.id, data=CONTENT)
    cut = api.uploads.parts.create(upload.id, data=CONTENT[:-1])
    other = announce(api)
    stranger = api.uploads.parts.create(other.id, data=CONTENT)
    for part_ids, md5, param in (
        ([cut.id], None, "part_ids"),
        ([stranger.id], None, "part_ids"),
        (["../../files"], None, "part_ids"),
        (["part_" + "a" * 22], None, "part_ids"),
        ([part.id, part.id], None, "part_ids"),
        ([], None, "part_ids"),
        ([part.id], "0" * 32, "md5"),
        ([part.id], "x", "md5"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            api.uploads.complete(upload.id, part_ids=part_ids, **({} if md5 is None else {"md5": md5}))
        assert caught.value.param == param, part_ids
    assert list(api.files.list()) == []
    assert list((own_home / "tuning" / "content").iterdir()) == []
    assert api.uploads.complete(upload.id, part_ids=[part.id]).file.bytes == len(CONTENT)


def test_what_is_no_training_file_is_refused_when_it_is_complete(api: Any) -> None:
    upload = announce(api, 8)
    part = api.uploads.parts.create(upload.id, data=b"a,b\n1,2\n")
    with pytest.raises(openai.BadRequestError) as caught:
        api.uploads.complete(upload.id, part_ids=[part.id])
    assert caught.value.code == "invalid_file_format"


def test_parts_are_bounded(api: Any, monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    upload = announce(api, 1000)
    with pytest.raises(openai.BadRequestError) as empty:
        api.uploads.parts.create(upload.id, data=b"")
    assert empty.value.param == "data"
    monkeypatch.setattr(uploads, "MAX_PART_BYTES", 900)
    with pytest.raises(openai.APIStatusError, match="a part may have at most") as caught:
        api.uploads.parts.create(upload.id, data=b"x" * 901)
    assert (caught.value.status_code, caught.value.param) == (413, "data")
    for _ in range(2):
        api.uploads.parts.create(upload.id, data=b"x" * 900)
    with pytest.raises(openai.APIStatusError, match="of which 1800 are here"):
        api.uploads.parts.create(upload.id, data=b"x" * 900)
    monkeypatch.setattr(uploads, "MAX_PARTS", 2)
    with pytest.raises(openai.BadRequestError, match="at most 2 parts"):
        api.uploads.parts.create(upload.id, data=b"x")
    assert len(parts_on_disk(own_home)) == 2
    monkeypatch.setattr(uploads, "MAX_PENDING", 1)
    with pytest.raises(openai.RateLimitError) as limited:
        announce(api)
    assert limited.value.code == "upload_limit_exceeded"
    monkeypatch.setattr(uploads, "MAX_PARALLEL", 0)
    with pytest.raises(openai.RateLimitError, match="are under way already"):
        api.uploads.parts.create(upload.id, data=b"x")


def test_a_cancelled_upload_takes_nothing_more(api: Any, own_home: Path) -> None:
    upload = announce(api)
    part = api.uploads.parts.create(upload.id, data=CONTENT)
    assert api.uploads.cancel(upload.id).status == "cancelled"
    assert api.uploads.cancel(upload.id).status == "cancelled"
    assert parts_on_disk(own_home) == []
    for call in (
        lambda: api.uploads.parts.create(upload.id, data=CONTENT),
        lambda: api.uploads.complete(upload.id, part_ids=[part.id]),
    ):
        with pytest.raises(openai.BadRequestError, match="the upload is cancelled, not pending"):
            call()
    done = announce(api)
    api.uploads.complete(done.id, part_ids=[api.uploads.parts.create(done.id, data=CONTENT).id])
    with pytest.raises(openai.BadRequestError, match="the upload is completed, not pending"):
        api.uploads.cancel(done.id)
    with pytest.raises(openai.NotFoundError, match="No such Upload object"):
        api.uploads.cancel("upload_none")


def test_an_upload_expires_and_its_parts_go(api: Any, monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    upload = announce(api)
    api.uploads.parts.create(upload.id, data=CONTENT)
    now = time.time()
    monkeypatch.setattr("llmtune.server.tuning.uploads.time.time", lambda: now + 3700)
    with pytest.raises(openai.BadRequestError, match="the upload is expired, not pending"):
        api.uploads.parts.create(upload.id, data=CONTENT)
    announce(api)
    assert parts_on_disk(own_home) == []
    monkeypatch.setattr("llmtune.server.tuning.uploads.time.time", lambda: now + 3600 + 86400 + 60)
    announce(api)
    with pytest.raises(openai.NotFoundError):
        api.uploads.cancel(upload.id)


def test_uploads_outlive_the_server(vendor: Fake, own_home: Path) -> None:
    def serve() -> TuningServer:
        return TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(yes=True))

    with serve() as server, client(server) as api:
        upload = announce(api)
        first = api.uploads.parts.create(upload.id, data=CONTENT[:HALF])
        (own_home / "tuning" / "uploads" / upload.id / ".part_x.tmp").write_bytes(b"half")
        (own_home / "tuning" / "uploads" / "upload_unknown").mkdir()
    with serve() as server, client(server) as api:
        second = api.uploads.parts.create(upload.id, data=CONTENT[HALF:])
        assert api.uploads.complete(upload.id, part_ids=[first.id, second.id]).file.bytes == len(CONTENT)
        assert not (own_home / "tuning" / "uploads" / "upload_unknown").exists()


def test_a_full_disk_is_no_fault_of_the_request(api: Any, monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    import errno

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    upload = announce(api)
    with monkeypatch.context() as patched:
        patched.setattr(receive, "open_private", full)
        with pytest.raises(openai.InternalServerError, match="the disk of this endpoint is full") as caught:
            api.uploads.parts.create(upload.id, data=CONTENT)
        assert (caught.value.status_code, caught.value.code) == (507, "disk_full")
    assert parts_on_disk(own_home) == []
