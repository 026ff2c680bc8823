"""A run's tuned model as files: written by its provider, and compared with the tuned model where it can be run here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import InvalidJob, LlmtuneError
from llmtune.provider.abilities import Exporting, ExportsForServers

if TYPE_CHECKING:
    from llmtune.provider.abilities import ExportFormat, Precision
    from llmtune.provider.protocol import Provider
    from llmtune.provider.types import ModelRef
    from llmtune.runs.store.records import RunRecord

#: Held-out rows on which an exported model is compared with the tuned one.
CHECK_ROWS = 60
#: The precision of GGUF files where none is given.
DEFAULT_PRECISION: Precision = "f16"


def export(
    provider: Provider, model: ModelRef, format: ExportFormat, into: Path, *, precision: Precision | None
) -> tuple[str, ...]:
    """Write the model to a new folder; return sentences on how to serve it. Raises `LlmtuneError`."""
    if precision is not None and format in ("adapter", "merged", "vllm"):
        raise InvalidJob(
            f"a precision is chosen for GGUF files, and --format {format} writes none",
            where="precision",
            hint="leave it out, or use --format gguf or ollama",
        )
    if not isinstance(provider, Exporting):
        raise LlmtuneError(
            f"{provider.name} does not hand out the weights of its tuned models",
            hint="models that were trained on this machine can be exported",
        )
    if format == "adapter" or format == "merged":
        return tuple(provider.export(model, format, into))
    if not isinstance(provider, ExportsForServers):
        raise LlmtuneError(
            f"{provider.name} hands out its tuned models as they are trained, not as --format {format}",
            hint="use --format adapter or merged",
        )
    return tuple(provider.export_for_server(model, format, into, precision or DEFAULT_PRECISION))


def check(record: RunRecord, provider: Provider, model: ModelRef, folder: Path, rows: int) -> tuple[str, ...]:
    """Compare an exported model with the tuned one on `rows` held-out rows; return sentences on what was seen.

    An export stands where it cannot be compared; the sentence says why.
    """
    from llmtune.runs.evaluation import load_same_dataset

    if rows == 0 or not isinstance(provider, ExportsForServers):
        return ()
    try:
        examples = load_same_dataset(record).test[:rows]
        if not examples:
            return ("not compared with the tuned model: the dataset has no test rows",)
        return tuple(provider.check_export(model, folder, examples))
    except LlmtuneError as problem:
        return (f"not compared with the tuned model: {problem.message}",)
