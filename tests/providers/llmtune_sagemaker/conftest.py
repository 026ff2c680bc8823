"""A fake SageMaker for each test, and the provider that talks to it through the real boto3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import botocore.session
import pytest

from llmtune.provider.receipt import Receipt
from llmtune.provider.translate import translate
from llmtune.provider.types import EncodedFile, Target
from llmtune.testing.wire_check import job_with
from llmtune_sagemaker import SageMakerProvider
from llmtune_sagemaker.fake.service import FakeSageMaker
from llmtune_sagemaker.settings import SageMakerSettings

ROLE = "arn:aws:iam::123456789012:role/llmtune"
QWEN = "huggingface-reasoning-qwen3-8b"
LLAMA = "meta-textgeneration-llama-3-2-1b-instruct"
NOVA = "nova-textgeneration-lite-v2"
MLFLOW = "arn:aws:sagemaker:us-east-1:123456789012:mlflow-app/app-1"

#: botocore's service models, read once: every client reads megabytes of them otherwise.
_LOADER = botocore.loaders.Loader(extra_search_paths=[str(Path(boto3.__file__).parent / "data")])


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(botocore.session, "create_loader", lambda data_path=None: _LOADER)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFAKE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))


@pytest.fixture
def vendor() -> Iterator[FakeSageMaker]:
    with FakeSageMaker() as fake:
        yield fake


@pytest.fixture
def provider(vendor: FakeSageMaker) -> SageMakerProvider:
    return provider_at(vendor)


def provider_at(vendor: FakeSageMaker, **more: Any) -> SageMakerProvider:
    values: dict[str, Any] = {
        "region": "us-east-1",
        "bucket": "my-bucket",
        "role_arn": ROLE,
        "model_package_group": "llmtune",
        "base_url": vendor.url,
        "storage_url": vendor.storage_url,
        "mlflow_url": vendor.mlflow_url,
        "pricing_url": vendor.pricing_url,
        "lambda_url": vendor.lambda_url,
        "timeout": 5.0,
    }
    return SageMakerProvider(settings=SageMakerSettings(**(values | more)))


def encoded(tmp_path: Path, role: Any = "train", content: bytes = b'{"messages": []}\n') -> EncodedFile:
    import hashlib

    digest = hashlib.sha256(content).hexdigest()
    path = tmp_path / f"{role}-{digest[:16]}.jsonl"
    path.write_bytes(content)
    return EncodedFile(role=role, path=path, sha256=digest, rows=1, bytes=len(content), format="test")


def receipt_for(provider: SageMakerProvider, model: str = QWEN, **fields: Any) -> Receipt:
    target = Target(
        provider=provider.name,
        kind="sagemaker",
        model=model,
        method=fields.pop("method", "sft"),
        adapter=fields.pop("adapter", "lora"),
        options=fields.pop("options", {}),
    )
    return translate(job_with(target, fields), target, provider.capabilities(target), rows=1000)
