"""Names that outlive a crash: a run's id and key, and the fingerprint by which the same job is recognised."""

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
    """Return a new run id: ten random characters of [a-z0-9]."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(10))


def run_key(run_id: str) -> RunKey:
    """Return the key that a run carries at the vendor: `lt` and its id, so that each can be found by the other."""
    key = f"lt{run_id}"
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a run id: {run_id!r}")
    return RunKey(key)


def fingerprint(provider: Provider, receipt: Receipt, files: Sequence[EncodedFile]) -> str:
    """Hash provider, resolved model, request without tags, encoded files and seed: the same paid work."""
    placeholders: dict[str, UploadRef] = {
        file.role: UploadRef(id=f"<{file.role} file>", digest=file.sha256, role=file.role) for file in files
    }
    request = provider.build(_keep_work(receipt), placeholders)
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
    """Return the receipt without the job's tags, which do not change the work."""
    fields = tuple(
        row
        if row.field != "tags"
        else row.model_copy(update={"support": "default", "requested": None, "encoded": None})
        for row in receipt.fields
    )
    return receipt.model_copy(update={"fields": fields})


def _keep_work(receipt: Receipt) -> Receipt:
    """Return the receipt without what changes nothing of the training: tags, and how much is evaluated."""
    data = receipt.data.model_copy(update={"evaluated": None})
    return untagged(receipt).model_copy(update={"data": data, "panel": None})


def digest(data: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(orjson.dumps(data, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()
