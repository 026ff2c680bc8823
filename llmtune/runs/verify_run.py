"""Whether a server, or an export, answers as a run's model does on held-out rows; the result is in the run's report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.errors import InvalidData, InvalidJob, LlmtuneError, NotJudged
from llmtune.provider.abilities import Exporting, ExportsForServers, RendersPrompts, ServedExport
from llmtune.provider.generation import AnswerScorer, Generation, GenerationRequest, Generator, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef
from llmtune.runs import evaluation, finalize, verifications
from llmtune.runs.options import check_keywords
from llmtune.runs.store.records import RunRecord
from llmtune.runs.tuned_model import no_model_error

if TYPE_CHECKING:
    from llmtune.provider.abilities import ExportFormat, Precision
    from llmtune.runs.run import Run
    from llmtune.verifications.endpoint import Endpoint, Server
    from llmtune.verifications.results import Verification
    from llmtune.verifications.verify import Reference

#: Seconds that each side may answer rows for in the verification of an export; rows that neither reached are left out.
EXPORT_SECONDS = 300.0

#: Seconds that one answer of an export may take: it is asked several questions at the same time, and gives one by one.
EXPORT_ANSWER_SECONDS = 600.0

Say = Callable[[str], None]


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


def verify_export(
    run: Run, folder: Path, format: ExportFormat, *, precision: Precision | None, rows: int, say: Say
) -> Verification:
    """Verify that an exported model answers as the run's own does, and put the result into the run's report.

    Args:
        run: the run that was exported.
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

    model, provider = run.model_ref, run.provider
    assert model is not None
    assert isinstance(provider, ExportsForServers)
    check_asked(run)
    serve = provider.serve_export(model, folder)
    if isinstance(serve, Unavailable):
        hint = f"llmtune verify ADDRESS --run {run.id} asks the server that has it"
        raise NotJudged(serve.reason, hint=hint)
    say(f"verifying it: up to {rows} held-out rows are asked of the tuned model, and of the export")
    with open_reference(run, rows, say, seconds=EXPORT_SECONDS) as reference, serve(_count_tokens(reference)) as served:
        result = verify_endpoint(_open_server(served), reference, seconds=EXPORT_SECONDS)
    export = VerifiedExport(format=format, precision=precision, folder=str(folder.absolute()), program=served.program)
    result = result.model_copy(update={"endpoint": export.folder, "model": "", "export": export})
    verifications.keep_export(run._store, run.id, result, export)
    evaluation.write_report(run._store, run.record, provider)
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


# --- the model that was measured -------------------------------------------------------------------------------------
def check_asked(run: Run) -> None:
    """Raise `InvalidJob` where the model of a run is not asked by conversations."""
    if run.record.tuning_job.method == "classification":
        raise InvalidJob(
            f"run {run.id} tuned a classifier, which answers no conversations", hint="verify asks chat completions"
        )


@contextmanager
def open_reference(run: Run, rows: int, say: Say, *, seconds: float = math.inf) -> Iterator[Reference]:
    """Open the model of a run as the reference of a verification, with its greedy answers to so many held-out rows.

    Rows that it has not answered in `seconds` are left out.
    """
    from llmtune.evaluation.sampling import build_requests, subsample, token_limit
    from llmtune.verifications.verify import Reference

    store, provider = run._store, run.provider
    record = finalize.refresh_missing_model(store, run.record, provider)
    model = store.ref(run.id, "model", ModelRef)
    if model is None:
        raise no_model_error(record)
    job = record.tuning_job
    check_asked(run)
    dataset = evaluation.load_same_dataset(record)
    if not dataset.test:
        raise InvalidData("the job has no held-out rows to ask", hint="give dataset.test, or a split with a test share")
    if any(row.text is not None for row in dataset.test):
        raise InvalidData("the held-out rows are plain text, which no conversation asks for")
    spec = job.evaluation.model_copy(update={"temperature": 0.0, "top_p": None, "top_k": None})
    chosen = [dataset.test[number] for number in subsample(dataset.test, rows)]
    limit = token_limit(dataset.test, spec)
    requests = build_requests(chosen, spec, max_tokens=limit, seed=job.seed or 0)
    with ExitStack() as stack:
        model_answers = _ModelAnswers(record, provider, model, stack, say)
        answers = model_answers.tuned(requests, seconds)
        pairs = [
            (row, request, answer) for row, request, answer in zip(chosen, requests, answers, strict=True) if answer
        ]
        if not pairs:
            sampled = " greedily" if job.evaluation.temperature > 0 else ""
            raise InvalidData(
                f"{record.provider}'s model has no stored answers to the held-out rows, and is not asked for them here",
                hint=f"llmtune evaluate {run.id} asks it{sampled}",
            )
        yield Reference(
            source=model_answers.source,
            rows=[row for row, _, _ in pairs],
            requests=[request for _, request, _ in pairs],
            answers=[answer for _, _, answer in pairs],
            renderer=provider.prompt_renderer(model) if isinstance(provider, RendersPrompts) else None,
            scorer=model_answers.scorer(),
            base_answers=model_answers.base,
            spec=spec,
            labels=dataset.labels,
            seed=job.seed or 0,
            run=run.id,
        )


class _ModelAnswers:
    """Answers of a run's tuned and base model: stored ones, and those that a model on this machine still gives."""

    def __init__(self, record: RunRecord, provider: Provider, model: ModelRef, stack: ExitStack, say: Say) -> None:
        from llmtune.evaluation.cache import FileCache

        self._record, self._provider, self._model, self._stack, self._say = record, provider, model, stack, say
        self._cache = FileCache(evaluation.answers_folder(record))
        self._opened: dict[str, Generator] = {}
        self.source = (
            "the answers of the evaluation" if provider.hosted else "the run's own model, asked on this machine"
        )

    def tuned(self, requests: Sequence[GenerationRequest], seconds: float) -> list[Generation | None]:
        """Return the tuned model's answers; None where a vendor's model was not asked, and behind so many `seconds`."""
        from llmtune.verifications.verify import TIMED_ROWS

        deadline = time.monotonic() + seconds
        step = len(requests) if math.isinf(seconds) else TIMED_ROWS
        answers: list[Generation | None] = []
        while len(answers) < len(requests) and (not answers or time.monotonic() < deadline):
            answers += self._answer(self._model, requests[len(answers) : len(answers) + step])
        return answers + [None] * (len(requests) - len(answers))

    def base(self, requests: Sequence[GenerationRequest]) -> list[Generation | None]:
        """Return the base model's answers; None where there are none."""
        base = self._provider.base_model(self._record.plan)
        return [None] * len(requests) if isinstance(base, Unavailable) else self._answer(base, requests)

    def scorer(self) -> AnswerScorer | None:
        """Return the tuned model as one that scores answers, where it is on this machine and can."""
        if self._provider.hosted:
            return None
        generator = self._open(self._model)
        return generator if isinstance(generator, AnswerScorer) else None

    def _answer(self, model: ModelRef, requests: Sequence[GenerationRequest]) -> list[Generation | None]:
        from llmtune._retry import RetryPolicy
        from llmtune.evaluation.cache import answer_key
        from llmtune.evaluation.evaluate import model_identity
        from llmtune.evaluation.inference import generate_answers

        identity = model_identity(self._record.provider, model)
        if self._provider.hosted:
            stored = [
                request for request in requests if self._cache.get(answer_key(identity, "text", request)) is not None
            ]
            generator: Generator = _Nobody()
        else:
            stored = list(requests)
            generator = self._open(model)
        answers = generate_answers(
            generator,
            stored,
            model=identity,
            cache=self._cache,
            patience=RetryPolicy(),
            progress=lambda done, total: None,
        )
        by_key = {
            answer_key("", "text", request): answer.generation for request, answer in zip(stored, answers, strict=True)
        }
        return [by_key.get(answer_key("", "text", request)) for request in requests]

    def _open(self, model: ModelRef) -> Generator:
        if model.id not in self._opened:
            generator = self._provider.generator(model)
            if isinstance(generator, Unavailable):
                raise LlmtuneError(f"the model of run {self._record.id} cannot be asked: {generator.reason}")
            self._opened[model.id] = self._stack.enter_context(generator)
        return self._opened[model.id]


class _Nobody:
    """The generator of a vendor's model, which is not asked: all its answers are stored."""

    max_concurrency = 1

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Answer nothing."""
        return []

    def __enter__(self) -> _Nobody:
        return self

    def __exit__(self, *_: object) -> None:
        return None
