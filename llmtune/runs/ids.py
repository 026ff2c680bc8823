"""Names that outlive a crash: a run's id and key, and the fingerprint by which the same job is known again."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import Receipt
from llmtune.provider.types import EncodedFile, RunKey, UploadRef

_ALPHABET = string.ascii_lowercase + string.digits
_KEY = re.compile(r"lt[a-z0-9]{10}")


def new_run_id() -> str:
    """Ten random characters of [a-z0-9]."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(10))


def run_key(run_id: str) -> RunKey:
    """The key that a run carries at the vendor: `lt` and its id, so that whoever sees one knows the other."""
    key = f"lt{run_id}"
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a run id: {run_id!r}")
    return RunKey(key)


def fingerprint(provider: Provider, receipt: Receipt, files: Sequence[EncodedFile]) -> str:
    """Hash of provider, resolved model, request without tags, encoded files and seed: the same paid work."""
    placeholders: dict[str, UploadRef] = {
        file.role: UploadRef(id=f"<{file.role} file>", digest=file.sha256, role=file.role) for file in files
    }
    request = provider.build(untagged(receipt), placeholders)
    return digest(
        {
            "provider": [provider.name, provider.kind],
            "model": receipt.target.model,
            "request": [request.operation, request.body],
            "files": {file.role: file.sha256 for file in files},
            "seed": receipt["seed"].requested,
        }
    )


def untagged(receipt: Receipt) -> Receipt:
    """The receipt of the same job without tags, which say nothing about the work."""
    fields = tuple(
        row
        if row.field != "tags"
        else row.model_copy(update={"support": "default", "requested": None, "encoded": None})
        for row in receipt.fields
    )
    return receipt.model_copy(update={"fields": fields})


def digest(data: Mapping[str, Any]) -> str:
    """SHA-256 of JSON data, the same whatever the order of its keys."""
    return hashlib.sha256(orjson.dumps(data, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()
