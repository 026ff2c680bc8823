"""The judge of a run's evaluation: found, opened, and held to what the run's budget leaves."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from llmtune.config import home
from llmtune.errors import InvalidJob, LlmtuneError, OverBudget
from llmtune.graders.judging import LOWEST, JudgePrompt
from llmtune.planning.judge import JudgeHost, find_judge, find_obstacle
from llmtune.provider.generation import Generator, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef
from llmtune.runs.backend import provider_of
from llmtune.runs.store.store import open_store

if TYPE_CHECKING:
    from llmtune.evaluation.cache import AnswerCache
    from llmtune.evaluation.judge.measure import JudgeRun, JudgeSource
    from llmtune.job.graders import JudgeGrader
    from llmtune.job.judge import JudgeModel, JudgeSpec
    from llmtune.metrics.points import NotReported
    from llmtune.runs.store.records import RunRecord

#: The environment variable with the key of a judge that is named by its address.
KEY = "LLMTUNE_JUDGE_KEY"


def find_run(name: str) -> tuple[Provider, ModelRef, str]:
    """Return backend, tuned model and base model's id of a run, by its id or name.

    Raises:
        RunNotFound: there is no such run.
        InvalidJob: it has no model.
    """
    store = open_store()
    record = store.get(store.resolve(name))
    ref = store.ref(record.id, "model", ModelRef)
    if ref is None:
        raise InvalidJob(f"run {record.id} has no model to judge with: it is {record.state}", where="judge")
    return provider_of(record), ref, record.model


def open_source(judge: JudgeModel) -> JudgeSource:
    """Return a judge that can be asked, or one that says why it cannot.

    Raises:
        LlmtuneError: there is no such provider or run, or nothing answers at the address.
    """
    from llmtune.evaluation.evaluate import model_identity
    from llmtune.evaluation.judge.measure import JudgeSource

    host = find_judge(judge, find_run)
    if host.backend is None:
        generator, identity = _open_server(judge)
    elif isinstance(host.ref, ModelRef):
        generator, identity = _open_model(judge, host), model_identity(host.backend.name, host.ref)
    else:
        generator, identity = Unavailable(find_obstacle(judge, host) or "it names no model"), judge.model
    return JudgeSource(generator, judge.model, host.location, f"judge {identity}", host.leaves_machine, host.price)


def _open_model(judge: JudgeModel, host: JudgeHost) -> Generator | Unavailable:
    if (obstacle := find_obstacle(judge, host)) is not None:
        return Unavailable(obstacle)
    assert host.backend is not None
    assert isinstance(host.ref, ModelRef)
    return host.backend.generator(host.ref)


def _open_server(judge: JudgeModel) -> tuple[Generator | Unavailable, str]:
    from llmtune.verifications.endpoint import Endpoint, EndpointGenerator

    endpoint = Endpoint(judge.model, model=judge.served_model, key_from=KEY if os.environ.get(KEY) else None)
    name = judge.served_model or endpoint.choose_model("default")
    return EndpointGenerator(endpoint), f"{endpoint.address} {name}"


def open_judge(spec: JudgeSpec | None, record: RunRecord) -> JudgeRun | NotReported | None:
    """Return the judge of a run's evaluation; the reason where it cannot be asked, None where there is none."""
    from llmtune.evaluation.judge.labels import choose_labels, read_labels
    from llmtune.evaluation.judge.measure import JudgeRun
    from llmtune.metrics.points import NotReported

    if spec is None:
        return None
    try:
        labels = [] if spec.labels is None else choose_labels(read_labels(spec.labels, spec.mode), spec.max_labels)
        return JudgeRun(spec, open_source(spec), labels, get_allowance(record))
    except LlmtuneError as error:  # it was there when the run was planned; the rows are evaluated all the same
        return NotReported(error.message)


def get_allowance(record: RunRecord) -> float | None:
    """Return the USD that a judge may cost: what the budget leaves beside the rest of the run; None without one."""
    if record.budget is None:
        return None
    from llmtune.planning.bill import compare_bill

    plan = record.plan
    judge = sum(line.high or 0.0 for line in plan.cost.lines if line.name == "judge")
    others = (plan.cost.total or judge) - judge
    if record.hosted:
        bill = compare_bill(plan, record.billed, record.resolved.get("epochs"))
        others += bill.difference or 0.0
    return record.budget - others


# --- graders ---------------------------------------------------------------------------------------------------------
@dataclass
class ReplyCount:
    """Replies of judges, their tokens, and what these cost in USD (None where a price is not known)."""

    replies: int = 0
    stored: int = 0
    """Of these, replies that were stored and not asked again; their tokens are not counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    amount: float | None = 0.0

    def describe(self) -> str:
        """Describe them: "70 replies (12 stored), 9,000 tokens asked, 700 replied, 0.0041 USD"."""
        cost = "a price that is not known" if self.amount is None else f"{self.amount:,.4f} USD"
        stored = f" ({self.stored:,} stored)" if self.stored else ""
        tokens = f"{self.prompt_tokens:,} tokens asked, {self.completion_tokens:,} replied"
        return f"{self.replies:,} replies{stored}, {tokens}, {cost}"


@dataclass
class CountingJudge:
    """Counts what graders would ask of their judges, and sends nothing; each reply is counted at its longest."""

    total: ReplyCount = field(default_factory=ReplyCount)
    hosts: dict[str, JudgeHost] = field(default_factory=dict)
    """The judges by their models."""

    def ask(self, judge: JudgeGrader, prompt: JudgePrompt) -> str:
        """Count one question."""
        from llmtune.evaluation.judge.measure import count_prompt_tokens

        if judge.model not in self.hosts:
            self.hosts[judge.model] = find_judge(judge, find_run)
        self._add(judge, count_prompt_tokens(prompt))
        return json.dumps({"id": prompt.id, "score": LOWEST})

    def _add(self, judge: JudgeGrader, prompt_tokens: int) -> None:
        from llmtune.evaluation.judge.measure import price_replies

        priced = price_replies(self.hosts[judge.model].price, prompt_tokens, judge.max_tokens)
        self.total.replies += 1
        self.total.prompt_tokens += prompt_tokens
        self.total.completion_tokens += judge.max_tokens
        if priced is None:
            self.total.amount = None
        elif self.total.amount is not None:
            self.total.amount += priced[0]


class GraderJudge:
    """Asks the judges of graders, stores their replies, and keeps to a budget. Use as a context manager.

    `budget` are the USD that they may cost; None is any amount.
    """

    def __init__(self, budget: float | None = None) -> None:
        self._budget = budget
        self._exit = ExitStack()
        self._opened: dict[tuple[str, str | None], tuple[Generator, JudgeSource]] = {}
        self._cache: AnswerCache | None = None
        self.total = ReplyCount()

    def __enter__(self) -> Self:
        from llmtune.evaluation.cache import FileCache

        self._cache = FileCache(home() / "answers" / "judges")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def ask(self, judge: JudgeGrader, prompt: JudgePrompt) -> str:
        """Return the reply of a judge, a stored one where there is one.

        Raises:
            OverBudget: the next reply may cost more than is left of the budget.
            VendorError: the judge's backend refuses, or stays unavailable (`TransientError`).
        """
        from llmtune._retry import RetryPolicy
        from llmtune.evaluation.cache import answer_key
        from llmtune.evaluation.inference import generate_answers
        from llmtune.evaluation.judge.measure import build_request, count_prompt_tokens, price_replies

        generator, source = self._open(judge)
        request = build_request(prompt, judge)
        assert self._cache is not None
        if self._cache.get(answer_key(source.identity, "text", request)) is None:
            most = price_replies(source.price, count_prompt_tokens(prompt), judge.max_tokens)
            spent = self.total.amount or 0.0
            if self._budget is not None and most is not None and spent + most[0] > self._budget + 1e-9:
                raise OverBudget(
                    f"the judge {judge.model} has cost {spent:,.4f} USD, and its next reply may exceed the budget of"
                    f" {self._budget:,.2f} USD",
                    hint="raise the budget; what was replied is stored, and is not asked again",
                )
        answer = generate_answers(
            generator,
            [request],
            model=source.identity,
            cache=self._cache,
            patience=RetryPolicy(),
            progress=lambda done, total: None,
        )[0]
        generation = answer.generation
        assert generation is not None  # a refusal of the only row is raised
        self.total.replies += 1
        if answer.cached:
            self.total.stored += 1
            return generation.text
        counted = generation.prompt_tokens, generation.completion_tokens
        into, out = (count_prompt_tokens(prompt), judge.max_tokens) if None in counted else counted
        priced = price_replies(source.price, into or 0, out or 0)
        self.total.prompt_tokens += into or 0
        self.total.completion_tokens += out or 0
        if priced is None:
            self.total.amount = None
        elif self.total.amount is not None:
            self.total.amount += priced[0]
        return generation.text

    def _open(self, judge: JudgeGrader) -> tuple[Generator, JudgeSource]:
        key = (judge.model, judge.served_model)
        if key not in self._opened:
            source = open_source(judge)
            if isinstance(source.generator, Unavailable):
                raise LlmtuneError(f"the judge {judge.model} cannot be asked: {source.generator.reason}")
            self._opened[key] = self._exit.enter_context(source.generator), source
        return self._opened[key]
