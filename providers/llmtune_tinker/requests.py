"""The request that the loop's worker reads: the receipt's values, and our defaults for fields that are open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtune.provider import Files, Receipt
from llmtune_local.requests import add_parameters
from llmtune_tinker.declarations import declarations

#: Options that shape rows; the others say which layers are trained.
_ROW_OPTIONS = ("chat_template", "template_options", "mask_empty_thinking")


def build(receipt: Receipt, files: Files, service: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `request.json`, with the address of the `service` and without its key. Pure."""
    target, options = receipt.target, dict(receipt.target.options)
    body: dict[str, Any] = {
        "schema": 1,
        "model": target.model,
        "method": target.method,
        "adapter": target.adapter,
        "files": {role: str(ref.data.get("path", ref.id)) for role, ref in files.items()},
        "on_too_long": receipt.effective("dataset.on_too_long", "error"),
        "hyperparameters": {},
        "options": {name: options.pop(name) for name in _ROW_OPTIONS if name in options},
        "service": dict(service),
        **options,
    }
    if receipt.data.evaluated:
        body["evaluated_rows"] = receipt.data.evaluated
    add_parameters(body, receipt, declarations(target.method))
    return body
