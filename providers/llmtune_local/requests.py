"""The request that a worker reads: the receipt's values, with our own defaults where the job left a field open."""

from __future__ import annotations

from typing import Any

from llmtune.provider import Converted, Files, Receipt, Sent
from llmtune.provider.receipt import place
from llmtune_local import declarations


def build(receipt: Receipt, files: Files) -> dict[str, Any]:
    """Return the content of `request.json`. Pure."""
    target, options = receipt.target, dict(receipt.target.options)
    body: dict[str, Any] = {
        "schema": 1,
        "model": target.model,
        "method": target.method,
        "adapter": target.adapter,
        "files": {role: str(ref.data.get("path", ref.id)) for role, ref in files.items()},
        "on_too_long": receipt.effective("dataset.on_too_long", "error"),
        "hyperparameters": {},
    }
    if target.method == "classification" and (labels := receipt.effective("evaluation.labels")):
        body["labels"] = list(labels)
    if revision := options.pop("revision", None):
        body["revision"] = revision
    body["options"] = options
    declared = declarations.capabilities(target.adapter, target.method).parameters
    for name, entry in declared.items():
        unset = receipt[name].support == "default"
        if isinstance(entry, Sent) and entry.where == "training" and unset and entry.default is not None:
            place(body, entry.wire, entry.default)
    for row in receipt.fields:
        sent = isinstance(declared.get(row.field), (Sent, Converted)) and row.where == "training"
        if sent and row.moves and row.wire:
            place(body, row.wire, row.encoded)
    return body
