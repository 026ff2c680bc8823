"""`verify`: whether a server answers as a run's model does on held-out rows; the result goes into the run's report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from llmtune.errors import InvalidJob, LlmtuneError, NotJudged
from llmtune.provider.abilities import Exporting
from llmtune.runs import evaluation, reference_model, verifications
from llmtune.runs.options import check_keywords
from llmtune.runs.reference_model import Say

if TYPE_CHECKING:
    from llmtune.runs.run import Run
    from llmtune.verifications.endpoint import Endpoint
    from llmtune.verifications.results import Verification
    from llmtune.verifications.verify import Reference


@check_keywords()
def verify(
    endpoint: str,
    run: str | Run,
    *,
    rows: int | None = None,
    margin: float | None = None,
    model: str | None = None,
    key_from: str | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Verification:
    """Verify that a server answers as a run's tuned model does, and put the result into the run's report.

    The server is asked held-out rows, and a few questions beside them, by chat completions. Compared are the
    tokens of prompts where it shows or counts them, greedy answers, their ends, tool calls, streams and likelihoods,
    and the scores with the interval of their difference. A model on this machine answers the rows itself; of a vendor's
    model the answers of its evaluation are used, and it is not asked.

    Args:
        endpoint: its address, "http://127.0.0.1:8080" or one that ends in /v1.
        run: the run, or its id, name or key.
        rows: held-out rows that are asked, >= 1; None is 60.
        margin: how much worse its answers may be: percentage points of a share, else the metric's own unit. None is 5.
        model: the name to ask the server for; None takes its only one.
        key_from: the environment variable that holds the server's key; None sends none.
        on_progress: receives progress messages.

    Returns:
        The verdict ("same", "drift" or "unclear"), and every difference by its kind.

    Raises:
        NotJudged: nothing answers at the address, or the server refuses the questions.
        MissingCredentials: the server wants a key, or does not accept it.
        InvalidJob: the run's model answers no conversations, or the margin is below 0.
        InvalidData: there are no held-out rows, or a vendor's model was not evaluated on them.
        LlmtuneError: the run has no model.
    """
    from llmtune.runs.api import attach
    from llmtune.verifications.endpoint import Endpoint
    from llmtune.verifications.verify import MARGIN, ROWS, verify_endpoint

    if margin is not None and not margin >= 0:
        raise InvalidJob(f"a margin is 0 or more, not {margin:g}", where="margin")
    if rows is not None and rows < 1:
        raise InvalidJob(f"rows is 1 or more, not {rows}", where="rows")
    say = on_progress or (lambda _: None)
    tuned_run = attach(run) if isinstance(run, str) else run
    server = Endpoint(endpoint, model=model, key_from=key_from)
    reference_model.check_method(tuned_run.record)
    choose_model(server, tuned_run)
    with open_reference(tuned_run, ROWS if rows is None else rows, say) as reference:
        say(f"asking {server.address} for {server.model}: {len(reference.rows)} held-out rows")
        name = verifications.begin(
            tuned_run._store, tuned_run.id, endpoint=server.address, model=server.model or "", rows=len(reference.rows)
        )
        result = verify_endpoint(server, reference, margin=MARGIN if margin is None else margin)
    verifications.keep(tuned_run._store, tuned_run.id, name, result)
    evaluation.write_report(tuned_run._store, tuned_run.record, tuned_run.provider)
    return result


def choose_model(server: Endpoint, run: Run) -> str:
    """Choose the model that a server is asked for. Raises `NotJudged`, with what to start, where nothing answers."""
    try:
        return server.choose_model(run.name)
    except NotJudged as error:
        if error.hint is None:
            error.hint = _suggest_server(run)
        raise


def _suggest_server(run: Run) -> str:
    command = f"start a server first, such as: llmtune serve {run.id}"
    model = run.model_ref
    if isinstance(run.provider, Exporting) and model is not None:
        try:
            served = run.provider.serving_command(model, run.name)
        except LlmtuneError:  # its files are gone, which the next step says
            served = None
        command += f"; or: {served}" if served else ""
    return command


def open_reference(run: Run, rows: int, say: Say) -> AbstractContextManager[Reference]:
    """Open the model of a run as the reference of a verification, with its greedy answers to so many held-out rows."""
    return reference_model.open_reference(run._store, run.record, run.provider, rows, say)
