"""The request that a worker reads: the receipt's values, with our own defaults where the job left a field open."""

from __future__ import annotations

from typing import Any

from llmtune.provider import Converted, Declarations, Files, Receipt, Sent
from llmtune.provider.receipt import set_path
from llmtune_local import declarations

#: Models that the evaluation asks each row: tuned and base, and for sft the base with examples; an encoder has no base
#: that could answer.
ASKED_MODELS = {"sft": 3, "dpo": 2, "classification": 1, "reinforcement": 3}


#: Models that are asked a panel: base and tuned.
PANEL_MODELS = 2


def count_questions(receipt: Receipt) -> int:
    """Return how many answers the evaluation asks for: of the test rows, and of a panel."""
    panel = receipt.panel.questions * PANEL_MODELS if receipt.panel is not None else 0
    return (receipt.data.evaluated or 0) * ASKED_MODELS.get(receipt.target.method, 1) + panel


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
    if target.method == "reinforcement":
        body["grader"] = receipt["grader"].encoded
    samples = next((row for row in receipt.fields if row.field == "evaluation.samples"), None)
    if samples is not None and samples.support == "sent":
        body["samples"] = samples.effective
    if receipt.data.evaluated:
        body["evaluated_rows"] = count_questions(receipt)
    add_parameters(body, receipt, declarations.capabilities(target).parameters)
    return body


def add_parameters(body: dict[str, Any], receipt: Receipt, declared: Declarations) -> None:
    """Add the declared training parameters to a request: our defaults where the job leaves a field open, its values."""
    for name, entry in declared.items():
        row = receipt[name]
        if (
            isinstance(entry, Sent)
            and entry.where == "training"
            and row.support == "default"
            and row.effective is not None
        ):
            set_path(body, entry.request_path, row.effective)
    for row in receipt.fields:
        sent = isinstance(declared.get(row.field), (Sent, Converted)) and row.where == "training"
        if sent and row.is_sent and row.wire:
            set_path(body, row.wire, row.encoded)
