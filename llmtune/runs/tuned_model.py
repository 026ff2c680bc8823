"""Asking a tuned model: `with run.model() as model: model.generate(...)`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast, overload

from llmtune.data.example import Message
from llmtune.data.findings import Finding
from llmtune.data.formats.chat import read_messages, write_message
from llmtune.errors import InvalidData, LlmtuneError
from llmtune.metrics.decision_schema import plan_decisions
from llmtune.metrics.decisions import Decision, DecisionRules
from llmtune.provider.generation import Generation, GenerationRequest, Generator, LabelScorer, Unavailable
from llmtune.provider.intake import generate
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef, RunState
from llmtune.runs import evaluation, finalize, settling
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

log = logging.getLogger("llmtune")

#: One turn: `{"role": "user", "content": "..."}`, as chat completions take it, or a `Message`.
Turn = Mapping[str, Any] | Message

#: A prompt: one user message as text, or a conversation.
Prompt = str | Sequence[Turn]

#: What the error for a wrong prompt suggests.
PROMPT_HINT = 'such as [{"role": "user", "content": "..."}]; several prompts are a list of those'

#: Calls of one `generate` at once, however many the backend accepts at the same time.
MAX_THREADS = 16


class TunedModel:
    """A tuned model that can be asked. Created by `Run.model()`."""

    def __init__(self, generator: Generator, ref: ModelRef, rules: DecisionRules | None = None) -> None:
        self.generator = generator
        self.ref = ref
        self.rules = rules
        """How its labels are decided, by its evaluation; None where it was not calibrated."""

    # A `Message` is a tuple, so a conversation could be read as a list of lists; the first of the two has precedence.
    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompt: Prompt,
        *,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...] | Sequence[Sequence[Turn]],
        *,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> list[Generation]: ...

    def generate(
        self,
        prompt: Prompt | list[str] | tuple[str, ...] | Sequence[Sequence[Turn]],
        *,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> Generation | list[Generation]:
        """Generate one answer, or one for each of several prompts. None leaves a setting to the backend.

        Args:
            prompt: one user message as text, or a conversation: a list of turns, each as chat completions take
                it (`{"role": "user", "content": "..."}`) or a `Message`. Several prompts are a list of texts or a list
                of conversations; their answers come as a list, in the same order.
            temperature: of sampling, >= 0; 0 is greedy.
            top_p: nucleus sampling, in (0, 1].
            top_k: sample among the k likeliest tokens only, >= 1.
            max_tokens: longest answer in tokens, >= 1.
            seed: makes sampling repeatable where the backend can.

        Raises:
            InvalidData: a prompt is not one; says which turn and why.
            VendorError: the backend refuses a prompt, or is unavailable (`TransientError`).
        """
        several = _is_several(prompt)
        prompts = cast(Sequence[Prompt], prompt) if several else [cast(Prompt, prompt)]
        requests = [
            GenerationRequest(
                messages=_read_prompt(entry, f"prompt[{index}]" if several else "prompt"),
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                max_tokens=max_tokens,
                seed=seed,
            )
            for index, entry in enumerate(prompts)
        ]
        answers = self._ask(requests)
        return answers if several else answers[0]

    @overload
    def decide(  # type: ignore[overload-overlap]
        self, prompt: Prompt, schema: Mapping[str, Any] | None = None
    ) -> dict[str, Decision]: ...

    @overload
    def decide(
        self, prompt: list[str] | tuple[str, ...] | Sequence[Sequence[Turn]], schema: Mapping[str, Any] | None = None
    ) -> list[dict[str, Decision]]: ...

    def decide(
        self,
        prompt: Prompt | list[str] | tuple[str, ...] | Sequence[Sequence[Turn]],
        schema: Mapping[str, Any] | None = None,
    ) -> dict[str, Decision] | list[dict[str, Decision]]:
        """Decide a prompt, or each of several: every question's answer with the probabilities of all its answers.

        The probabilities are calibrated, and answers withheld, as the run's evaluation has found right.

        Args:
            prompt: as in `generate`.
            schema: a JSON Schema of the answers (`enum`, `boolean`, bounded `integer`, or an object of these); None
                takes the labels that the model was evaluated on.

        Returns:
            The decisions by question; a model that is asked one question answers "answer". For several prompts a list.

        Raises:
            InvalidData: a prompt is not one, or there is no schema and the model has no labels of its own.
            LlmtuneError: the backend reports no likelihoods.
        """
        if not isinstance(self.generator, LabelScorer):
            raise LlmtuneError("this model's backend reports no likelihoods of answers, so it decides nothing")
        plan = plan_decisions(schema, self.rules)
        several = _is_several(prompt)
        prompts = cast(Sequence[Prompt], prompt) if several else [cast(Prompt, prompt)]
        requests = [
            GenerationRequest(messages=_read_prompt(entry, f"prompt[{index}]" if several else "prompt"))
            for index, entry in enumerate(prompts)
        ]
        decisions = [plan.decide(row) for row in self.generator.score_labels(requests, plan.labels)]
        return decisions if several else decisions[0]

    def _ask(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        threads = min(self.generator.max_concurrency, MAX_THREADS, len(requests))
        if threads < 2:
            return generate(self.generator, requests)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="llmtune-generate")
        try:
            return list(pool.map(lambda request: generate(self.generator, [request])[0], requests))
        finally:
            pool.shutdown(cancel_futures=True)


def _is_several(prompt: object) -> bool:
    """Return whether this is a list of prompts rather than one: its entries are texts or lists, not turns."""
    if isinstance(prompt, str | Message) or not isinstance(prompt, Sequence) or not prompt:
        return False
    return isinstance(prompt[0], Sequence) and not isinstance(prompt[0], Message)


def _read_prompt(prompt: Prompt, where: str) -> tuple[Message, ...]:
    """Return a prompt as messages. Raises `InvalidData` where it is not one."""
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | Message) or not prompt:
        wrong = "an empty list" if prompt == [] else type(prompt).__name__
        raise InvalidData(f"{where}: a prompt is a text or a list of turns, not {wrong}", hint=PROMPT_HINT)
    turns = [write_message(turn) if isinstance(turn, Message) else turn for turn in prompt]
    findings: list[Finding] = []
    messages = read_messages([dict(turn) if isinstance(turn, Mapping) else turn for turn in turns], findings, where)
    if errors := [finding for finding in findings if finding.is_error]:
        raise InvalidData(errors[0].message, findings=errors, hint=errors[0].remedy)
    return tuple(turn if isinstance(turn, Message) else read for turn, read in zip(prompt, messages, strict=True))


@contextmanager
def open_model(
    store: Store, record: RunRecord, provider: Provider, *, checkpoint: str | None = None, deploy: bool | None = None
) -> Iterator[TunedModel]:
    """Open the tuned model (or a checkpoint) of a run, with a temporary deployment where that is needed and allowed."""
    if checkpoint is None:
        finalize.refresh_missing_model(store, record, provider)
    ref = _get_model_ref(store, record, checkpoint)
    lease = Lease(store, f"model:{record.id}")
    if not lease.acquire(wait=5):
        raise LlmtuneError(f"the model of run {record.id} is held by another process right now")
    with lease, finalize.open_target(store, record, provider, ref, lease, allow=deploy) as target:
        generator = settling.open_generator(store, record, provider, target, log.warning)
        if isinstance(generator, Unavailable):
            raise LlmtuneError(f"the model of run {record.id} cannot be asked: {generator.reason}")
        rules = evaluation.read_decision_rules(store, record, provider, ref, final=checkpoint is None)
        with generator as opened:
            yield TunedModel(opened, ref, rules)


def no_model_error(record: RunRecord) -> LlmtuneError:
    """Return the error for a run without a tuned model."""
    if record.state is RunState.SUCCEEDED:
        return LlmtuneError(
            f"run {record.id} has no tuned model: {record.provider} says that its job has succeeded, and has not named"
            " the model",
            hint=f"llmtune runs attach {record.id} asks again",
        )
    return LlmtuneError(f"run {record.id} has no tuned model: it is {record.state}")


def _get_model_ref(store: Store, record: RunRecord, checkpoint: str | None) -> ModelRef:
    name = "model" if checkpoint is None else f"checkpoint:{checkpoint}"
    ref = store.ref(record.id, name, ModelRef)
    if ref is not None:
        return ref
    if checkpoint is None:
        raise no_model_error(record)
    checkpoint_ids = [
        ref_name.partition(":")[2] for ref_name in store.refs(record.id) if ref_name.startswith("checkpoint:")
    ]
    raise LlmtuneError(
        f"run {record.id} has no checkpoint {checkpoint!r}; it has {', '.join(checkpoint_ids) or 'none'}"
    )
