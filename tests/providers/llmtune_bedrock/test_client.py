"""Wire truth at the transport: what boto3 really sends is the plan's body, and what was declared moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import TransientError
from llmtune.provider import http
from llmtune.provider.declarations import Converted, Sent
from llmtune.provider.types import JobRef, RunKey
from llmtune.testing import endless, trickle
from llmtune.testing.wire_check import CANDIDATES, COMPANIONS, moved_paths
from llmtune_bedrock import BedrockProvider
from llmtune_bedrock.capabilities import FAMILIES
from llmtune_bedrock.fake.service import FakeBedrock
from llmtune_bedrock.requests import with_key
from tests.providers.llmtune_bedrock.conftest import receipt_for
from tests.providers.llmtune_bedrock.test_declarations import FILES, MODELS


def sent(vendor: FakeBedrock, provider: BedrockProvider, number: int, model: str, fields: dict[str, Any]) -> Any:
    key = RunKey(f"lt{number:010}")
    request = provider.build(receipt_for(provider, model, **fields), FILES)
    provider.submit(request, key)
    body = [call.data for call in vendor.requests if call.role == "submit"][-1]
    assert body == with_key(request.body, key)  # exactly the body of the plan, and the key
    for carrier in ("jobName", "customModelName", "clientRequestToken", "customModelTags"):
        body.pop(carrier)
    body["jobTags"] = [tag for tag in body["jobTags"] if tag["value"] != key]
    return body | {"name": request.body["customModelName"]}


@pytest.mark.parametrize("family", MODELS)
def test_what_is_declared_is_what_boto3_sends(vendor: FakeBedrock, provider: BedrockProvider, family: str) -> None:
    vendor.objects = {
        ("my-bucket", file.id.removeprefix("s3://my-bucket/")): {"content": b"", "etag": "", "meta": {}, "time": 0.0}
        for file in FILES.values()
    }
    number = 0
    for field, declared in FAMILIES[family].parameters.items():
        is_parameter = isinstance(declared, (Sent, Converted))
        went_out = False
        for value, companions in tries(field):
            row = receipt_for(provider, MODELS[family], **companions, **{field: value})
            if row.refusals or receipt_for(provider, MODELS[family], **companions).refusals:
                continue
            number += 2
            before = sent(vendor, provider, number, MODELS[family], companions)
            moved = moved_paths(
                before, sent(vendor, provider, number + 1, MODELS[family], {**companions, field: value})
            )
            wire = row[field].wire if row[field].is_sent and row[field].where == "training" else None
            assert moved <= {"name" if field == "name" else wire}, (field, value)
            went_out = went_out or bool(moved)
            if went_out or not is_parameter:
                break
        assert went_out is (is_parameter and getattr(declared, "where", "") == "training"), field
    assert vendor.complaints == []


def tries(field: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield values for a field, with what must be set beside it, and alone."""
    companions = {key: value for key, value in COMPANIONS.get(field, {}).items() if key != field}
    for value in (*CANDIDATES[field], *({"warmup_ratio": (0.005,)}.get(field, ()))):
        yield value, companions
        yield value, {}


JOB = JobRef(id="arn:aws:bedrock:us-east-1:123456789012:model-customization-job/amazon.nova/abcdefghijkl")


def test_an_endless_answer_is_broken_off(
    vendor: FakeBedrock, provider: BedrockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ANSWER_BYTES", 1024**2)
    vendor.faults.add(endless(64 * 1024**2), role="poll", times=9)
    with pytest.raises(TransientError, match="longer than 1 MB"):
        provider.poll(JOB, None)


def test_an_answer_that_trickles_is_broken_off(
    vendor: FakeBedrock, provider: BedrockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.2)
    vendor.faults.add(trickle(0.05), role="poll", times=9)
    with pytest.raises(TransientError, match=r"not whole within 0\.2 s"):
        provider.poll(JOB, None)


def test_a_download_has_bounds_of_its_own(
    vendor: FakeBedrock, provider: BedrockProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vendor.objects["my-bucket", "llmtune/data/a.jsonl"] = {
        "content": b"x" * 3000, "etag": '"e"', "meta": {}, "time": 0.0,
    }  # fmt: skip
    monkeypatch.setattr(http, "ANSWER_BYTES", 1000)  # a file is longer than what is kept in memory
    path = provider.download("s3://my-bucket/llmtune/data/a.jsonl", tmp_path)
    assert path.read_bytes() == b"x" * 3000
    monkeypatch.setattr(http, "DOWNLOAD_BYTES", 2000)
    with pytest.raises(TransientError, match="it was not read on"):
        provider.download("s3://my-bucket/llmtune/data/a.jsonl", tmp_path)
    monkeypatch.setattr(http, "DOWNLOAD_BYTES", 10**9)
    monkeypatch.setattr(http, "DOWNLOAD_SECONDS", 0.2)
    vendor.faults.add(trickle(0.05), route="get_object", times=9)
    with pytest.raises(TransientError, match=r"not whole within 0\.2 s"):
        provider.download("s3://my-bucket/llmtune/data/a.jsonl", tmp_path)


def test_a_table_of_curves_without_end_is_broken_off(
    vendor: FakeBedrock, provider: BedrockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "out/model-customization-job-abc/training_artifacts/step_wise_training_metrics.csv"
    vendor.objects["my-bucket", key] = {"content": b"step_number,epoch_number,training_loss\n" + b"1,0,0.5\n" * 9000}
    vendor.objects["my-bucket", key] |= {"etag": '"e"', "meta": {}, "time": 0.0}
    assert len(list(provider._storage.curves("s3://my-bucket/out/", "abc"))) > 0  # type: ignore[attr-defined]
    monkeypatch.setattr(http, "ANSWER_BYTES", 20_000)
    with pytest.raises(TransientError, match="it was not read on"):
        list(provider._storage.curves("s3://my-bucket/out/", "abc"))  # type: ignore[attr-defined]
