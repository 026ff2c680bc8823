"""A run's tuned model as files: written by its provider, and verified where it can be run here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import InvalidJob, LlmtuneError, NotJudged
from llmtune.provider.abilities import Exporting, ExportsForServers

if TYPE_CHECKING:
    from llmtune.provider.abilities import ExportFormat, Precision
    from llmtune.provider.protocol import Provider
    from llmtune.provider.types import ModelRef
    from llmtune.runs.store.records import RunRecord
    from llmtune.runs.store.store import Store

#: Held-out rows on which an exported model is verified against the tuned one.
CHECK_ROWS = 60
#: The precision of GGUF files where none is given.
DEFAULT_PRECISION: Precision = "f16"
#: The formats that are GGUF files.
GGUF_FORMATS = ("gguf", "gguf-adapter", "ollama")


def export(
    provider: Provider, model: ModelRef, format: ExportFormat, into: Path, *, precision: Precision | None
) -> tuple[str, ...]:
    """Write the model to a new folder; return sentences on how to serve it. Raises `LlmtuneError`."""
    if precision is not None and format not in GGUF_FORMATS:
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


def describe_verification(
    store: Store,
    record: RunRecord,
    provider: Provider,
    folder: Path,
    format: ExportFormat,
    *,
    precision: Precision | None,
    rows: int,
    say: Callable[[str], None],
) -> tuple[str, ...]:
    """Verify an exported model on `rows` held-out rows against the run's own; return the result in sentences.

    The result is in the run's report too. An export stands where it cannot be verified; the sentence says why.
    """
    from llmtune.report.verification import result_lines
    from llmtune.runs.verify_export import verify_export

    if rows == 0 or format == "adapter" or not isinstance(provider, ExportsForServers):
        return ()
    if precision is None and format in GGUF_FORMATS:
        precision = DEFAULT_PRECISION
    try:
        result = verify_export(store, record, provider, folder, format, precision=precision, rows=rows, say=say)
    except LlmtuneError as problem:
        hint = f"; {problem.hint}" if isinstance(problem, NotJudged) and problem.hint else ""
        return (f"not verified: {problem.message}{hint}",)
    return tuple(result_lines(result))
