"""The tuned model in hand: `with run.model() as m: m.generate(...)`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llmtune.data.example import Message
from llmtune.errors import LlmtuneError
from llmtune.provider.generation import Generation, GenerationRequest, Generator, Unavailable
from llmtune.provider.intake import generate
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef, RunState
from llmtune.runs import finalize, settling
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

log = logging.getLogger("llmtune")

#: A prompt: one user message as text, or a conversation.
Prompt = str | Sequence[Message]


class TunedModel:
    """A model that answers. Made by `Run.model()`."""

    def __init__(self, generator: Generator, ref: ModelRef) -> None:
        self.generator = generator
        self.ref = ref

    def generate(
        self,
        prompt: Prompt,
        *,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> Generation:
        """One answer. Temperature 0 is greedy; None leaves a setting to the backend."""
        messages = (Message(role="user", content=prompt),) if isinstance(prompt, str) else tuple(prompt)
        request = GenerationRequest(
            messages=messages, temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens, seed=seed
        )
        return generate(self.generator, [request])[0]


@contextmanager
def open_model(
    store: Store, record: RunRecord, provider: Provider, *, checkpoint: str | None = None, deploy: bool | None = None
) -> Iterator[TunedModel]:
    """The tuned model (or a checkpoint) of a run, deployed for the time being where that is needed and allowed."""
    if checkpoint is None:
        finalize.ask_again(store, record, provider)
    ref = _ref(store, record, checkpoint)
    lease = Lease(store, f"model:{record.id}")
    if not lease.acquire(wait=5):
        raise LlmtuneError(f"the model of run {record.id} is held by another process right now")
    with lease, finalize.deployed(store, record, provider, ref, lease, allow=deploy) as target:
        generator = settling.wait_for_answers(store, record, provider, target, log.warning)
        if isinstance(generator, Unavailable):
            raise LlmtuneError(f"the model of run {record.id} cannot be asked: {generator.reason}")
        with generator as opened:
            yield TunedModel(opened, ref)


def no_model(record: RunRecord) -> LlmtuneError:
    """Return the error for a run without a tuned model."""
    if record.state is RunState.SUCCEEDED:
        return LlmtuneError(
            f"run {record.id} has no tuned model: {record.provider} says that its job has succeeded, and has not named"
            " the model",
            hint=f"llmtune runs attach {record.id} asks again",
        )
    return LlmtuneError(f"run {record.id} has no tuned model: it is {record.state}")


def _ref(store: Store, record: RunRecord, checkpoint: str | None) -> ModelRef:
    name = "model" if checkpoint is None else f"checkpoint:{checkpoint}"
    ref = store.ref(record.id, name, ModelRef)
    if ref is not None:
        return ref
    if checkpoint is None:
        raise no_model(record)
    known = [each.partition(":")[2] for each in store.refs(record.id) if each.startswith("checkpoint:")]
    raise LlmtuneError(f"run {record.id} has no checkpoint {checkpoint!r}; it has {', '.join(known) or 'none'}")
