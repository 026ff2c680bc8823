"""Uploads against moto's S3, which is somebody else's idea of S3: one part, many parts, nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmtune.errors import VendorError
from llmtune_bedrock import BedrockProvider
from llmtune_bedrock.settings import BedrockSettings
from tests.providers.llmtune_bedrock.conftest import ROLE, encoded


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = pytest.importorskip("moto.server")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def provider(s3: str) -> BedrockProvider:
    import boto3

    settings = BedrockSettings(region="us-east-1", bucket="my-bucket", role_arn=ROLE, storage_url=s3)
    boto3.client("s3", endpoint_url=s3, region_name="us-east-1").create_bucket(Bucket="my-bucket")
    return BedrockProvider(settings=settings)


@pytest.mark.parametrize("size", [10, 9 * 1024 * 1024])
def test_a_file_arrives_whole_and_once(provider: BedrockProvider, tmp_path: Path, size: int) -> None:
    file = encoded(tmp_path, content=b"y" * size + b"\n")
    ref = provider.upload(file)
    assert provider.find_upload(file.sha256) is not None
    assert provider.upload(file).id == ref.id
    back = provider.download(ref.id, tmp_path / "back")
    assert hashlib.sha256(back.read_bytes()).hexdigest() == file.sha256
    provider.delete(ref)
    assert provider.find_upload(file.sha256) is None


def test_a_half_uploaded_file_is_sent_again(provider: BedrockProvider, tmp_path: Path) -> None:
    file = encoded(tmp_path)
    bucket, key = "my-bucket", f"llmtune/data/{file.sha256}.jsonl"
    provider._sdk.s3.put_object(Bucket=bucket, Key=key, Body=b"half")
    assert provider.upload(file).data["bytes"] == file.bytes
    assert provider._sdk.s3.get_object(Bucket=bucket, Key=key)["Body"].read() == file.path.read_bytes()


def test_a_missing_object_is_one_sentence(provider: BedrockProvider, tmp_path: Path) -> None:
    with pytest.raises(VendorError, match="not found") as caught:
        provider.download("s3://my-bucket/nothing.jsonl", tmp_path)
    assert "\n" not in caught.value.message


def test_the_buckets_region_is_read(provider: BedrockProvider) -> None:
    assert provider._storage.check_region() is None
