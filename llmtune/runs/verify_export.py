"""Whether an export answers as the run's model does, where it can be served on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import NotJudged
from llmtune.provider.abilities import ExportsForServers, ServedExport
from llmtune.provider.generation import Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef
from llmtune.runs import evaluation, reference_model, verifications
from llmtune.runs.reference_model import Say
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

if TYPE_CHECKING:
    from llmtune.provider.abilities import ExportFormat, Precision
    from llmtune.verifications.endpoint import Server
    from llmtune.verifications.results import Verification
    from llmtune.verifications.verify import Reference

#: Seconds that each side may answer rows for in the verification of an export; rows that neither reached are left out.
EXPORT_SECONDS = 300.0

#: Seconds that one answer of an export may take: it is asked several questions at the same time, and gives one by one.
EXPORT_ANSWER_SECONDS = 600.0


def verify_export(
    store: Store,
    record: RunRecord,
    provider: Provider,
    folder: Path,
    format: ExportFormat,
    *,
    precision: Precision | None,
    rows: int,
    say: Say,
) -> Verification:
    """Verify that an exported model answers as the run's own does, and put the result into the run's report.

    Args:
        store: where runs are stored.
        record: the run that was exported.
        provider: its provider, which serves its exports.
        folder: where its export is.
        format: the form of the export.
        precision: that of GGUF files; None for other forms.
        rows: held-out rows that are asked, at most. >= 1.
        say: receives progress messages.

    Raises:
        NotJudged: nothing on this machine serves the export, or it answers no questions.
        InvalidJob: the run's model answers no conversations.
        InvalidData: there are no held-out rows.
        LlmtuneError: the server breaks off.
    """
    from llmtune.verifications.results import VerifiedExport
    from llmtune.verifications.verify import verify_endpoint

    model = store.ref(record.id, "model", ModelRef)
    assert model is not None
    assert isinstance(provider, ExportsForServers)
    reference_model.check_method(record)
    serve = provider.serve_export(model, folder)
    if isinstance(serve, Unavailable):
        hint = f"once a server has it: llmtune verify ADDRESS --run {record.id}"
        raise NotJudged(serve.reason, hint=hint)
    say(f"verifying it: up to {rows} held-out rows are asked of the tuned model, and of the export")
    with (
        reference_model.open_reference(store, record, provider, rows, say, seconds=EXPORT_SECONDS) as reference,
        serve(_count_tokens(reference)) as served,
    ):
        result = verify_endpoint(_open_server(served), reference, seconds=EXPORT_SECONDS)
    export = VerifiedExport(format=format, precision=precision, folder=str(folder.absolute()), program=served.program)
    result = result.model_copy(update={"endpoint": export.folder, "model": "", "export": export})
    verifications.keep_export(store, record.id, result, export)
    evaluation.write_report(store, record, provider)
    return result


def _open_server(served: ServedExport) -> Server:
    from llmtune.verifications.endpoint import Endpoint
    from llmtune.verifications.generator_server import GeneratorServer

    if served.address is not None:
        return Endpoint(served.address, model="tuned", key=served.key, timeout=EXPORT_ANSWER_SECONDS)
    assert served.generator is not None
    return GeneratorServer(served.program, served.generator, served.prompt_tokens)


def _count_tokens(reference: Reference) -> int:
    """Return how many tokens the longest row has, with the longest answer that it may get."""
    if (renderer := reference.renderer) is None:
        raise NotJudged("the template of the tuned model is not at hand")
    return max(
        len(renderer.render(request.messages, request.tools).tokens) + (request.max_tokens or 0)
        for request in reference.requests
    )
