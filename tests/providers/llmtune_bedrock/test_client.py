"""Wire truth at the transport: what boto3 really sends is the plan's body, and what was declared moves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmtune.provider.declarations import Converted, Sent
from llmtune.provider.types import RunKey
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
        knob = isinstance(declared, (Sent, Converted))
        went_out = False
        for value, beside in tries(field):
            row = receipt_for(provider, MODELS[family], **beside, **{field: value})
            if row.refusals or receipt_for(provider, MODELS[family], **beside).refusals:
                continue
            number += 2
            before = sent(vendor, provider, number, MODELS[family], beside)
            moved = moved_paths(before, sent(vendor, provider, number + 1, MODELS[family], {**beside, field: value}))
            wire = row[field].wire if row[field].moves and row[field].where == "training" else None
            assert moved <= {"name" if field == "name" else wire}, (field, value)
            went_out = went_out or bool(moved)
            if went_out or not knob:
                break
        assert went_out is (knob and getattr(declared, "where", "") == "training"), field
    assert vendor.complaints == []


def tries(field: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Values for a field, with what must be set beside it, and alone."""
    beside = {key: value for key, value in COMPANIONS.get(field, {}).items() if key != field}
    for value in (*CANDIDATES[field], *({"warmup_ratio": (0.005,)}.get(field, ()))):
        yield value, beside
        yield value, {}
