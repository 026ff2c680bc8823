"""The model of a run as the reference of a verification: its greedy answers to held-out rows, and what it can tell."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from llmtune.errors import InvalidData, InvalidJob, LlmtuneError
from llmtune.provider.abilities import RendersPrompts
from llmtune.provider.generation import AnswerScorer, Generation, GenerationRequest, Generator, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef
from llmtune.runs import evaluation, finalize
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store
from llmtune.runs.tuned_model import no_model_error

if TYPE_CHECKING:
    from llmtune.verifications.verify import Reference

Say = Callable[[str], None]


def check_method(record: RunRecord) -> None:
    """Raise `InvalidJob` where the model of a run is not asked by conversations."""
    if record.tuning_job.method == "classification":
        raise InvalidJob(
            f"run {record.id} tuned a classifier, which answers no conversations", hint="verify asks chat completions"
        )


@contextmanager
def open_reference(
    store: Store, record: RunRecord, provider: Provider, rows: int, say: Say, *, seconds: float = math.inf
) -> Iterator[Reference]:
    """Open the model of a run as the reference of a verification, with its greedy answers to so many held-out rows.

    Rows that it has not answered in `seconds` are left out.
    """
    from llmtune.evaluation.sampling import build_requests, subsample, token_limit
    from llmtune.verifications.verify import Reference

    record = finalize.refresh_missing_model(store, record, provider)
    model = store.ref(record.id, "model", ModelRef)
    if model is None:
        raise no_model_error(record)
    job = record.tuning_job
    check_method(record)
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
                hint=f"llmtune evaluate {record.id} asks it{sampled}",
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
            run=record.id,
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
