"""No answer of Google's services, and no file from Cloud Storage, takes more memory, disk or time than its bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmtune.errors import TransientError
from llmtune.provider import http
from llmtune.provider.types import JobRef
from llmtune.testing import endless, trickle
from llmtune_vertex import VertexProvider, metrics
from llmtune_vertex.fake.service import FakeVertex
from tests.providers.llmtune_vertex.conftest import encoded

JOB = JobRef(id="projects/my-project/locations/us-central1/tuningJobs/1")


def poll(provider: VertexProvider, _: Path) -> None:
    provider.poll(JOB, None)


def find_file(provider: VertexProvider, folder: Path) -> None:
    provider.find_upload(encoded(folder).sha256)


def read_curves(provider: VertexProvider, _: Path) -> None:
    metrics.read(provider._sdk, "projects/my-project/locations/us-central1/metadataStores/default/contexts/1")


@pytest.mark.parametrize("read", [poll, find_file, read_curves])
def test_an_endless_answer_and_one_that_trickles_are_broken_off(
    vendor: FakeVertex,
    provider: VertexProvider,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[VertexProvider, Path], None],
    tmp_path: Path,
) -> None:
    provider.upload(encoded(tmp_path))
    monkeypatch.setattr(http, "ANSWER_BYTES", 1024**2)
    vendor.faults.add(endless(64 * 1024**2))
    with pytest.raises(TransientError, match="longer than 1 MB"):
        read(provider, tmp_path)
    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.2)
    vendor.faults.add(trickle(0.05))
    with pytest.raises(TransientError, match=r"not whole within 0\.2 s"):
        read(provider, tmp_path)


def test_a_download_has_bounds_of_its_own(
    vendor: FakeVertex, provider: VertexProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = encoded(tmp_path, content=b'{"contents": [2]}\n' * 200)
    stored = provider.upload(file)
    monkeypatch.setattr(http, "ANSWER_BYTES", 1000)  # a file is longer than what is kept in memory
    monkeypatch.setattr(provider._storage, "size", lambda *_: file.bytes)
    assert provider.download(stored.id, tmp_path / "down").read_bytes() == file.path.read_bytes()
    monkeypatch.setattr(http, "DOWNLOAD_BYTES", 2000)
    with pytest.raises(TransientError, match="it was not read on"):
        provider.download(stored.id, tmp_path / "down")
    monkeypatch.setattr(http, "DOWNLOAD_BYTES", 10**9)
    monkeypatch.setattr(http, "DOWNLOAD_SECONDS", 0.2)
    vendor.faults.add(trickle(0.05), route="download")
    with pytest.raises(TransientError, match=r"not whole within 0\.2 s"):
        provider.download(stored.id, tmp_path / "down")


def test_the_sdk_makes_no_request_of_its_own(
    vendor: FakeVertex, provider: VertexProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[dict[str, object]] = []
    cache = "google.cloud.storage._bucket_metadata_cache"  # where the SDK starts a thread that asks for the bucket
    monkeypatch.setattr(
        f"{cache}.threading", SimpleNamespace(Lock=threading.Lock, Thread=lambda **call: started.append(call))
    )
    provider.find_upload(encoded(tmp_path).sha256)
    assert not started
    assert [call.path.rpartition("/o/")[0] for call in vendor.requests] == ["/storage/v1/b/my-bucket"]
