"""A tuned model takes texts and OpenAI-shaped conversations, one or many, and answers in their order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Self

import pytest

from llmtune import LlmtuneError, Message
from llmtune.errors import InvalidData
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.provider.types import ModelRef
from llmtune.runs.tuned_model import TunedModel


class Echo:
    """Repeats the turns that it was asked."""

    def __init__(self, max_concurrency: int = 1) -> None:
        self.max_concurrency = max_concurrency
        self.calls: list[int] = []
        self.together = threading.Barrier(max_concurrency, timeout=10) if max_concurrency > 1 else None

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        self.calls.append(len(requests))
        if self.together is not None:
            self.together.wait()
        texts = ["|".join(f"{turn.role}:{turn.words}" for turn in request.messages) for request in requests]
        return [Generation(text=text, finish_reason="stop") for text in texts]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class Scorer(Echo):
    """Finds the label likely that the last turn names."""

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        return [[0.0 if label in request.messages[-1].words else -3.0 for label in labels] for request in requests]


def test_prompts_are_decided_by_a_schema() -> None:
    model = TunedModel(Scorer(), ModelRef(id="m"))
    one = model.decide("the red one", {"enum": ["red", "blue"]})
    assert (one["answer"].answer, one["answer"].calibrated) == ("red", False)
    several = model.decide(["blue", "red"], {"enum": ["red", "blue"]})
    assert [decisions["answer"].answer for decisions in several] == ["blue", "red"]
    with pytest.raises(InvalidData, match="schema is missing"):
        model.decide("red")
    with pytest.raises(InvalidData, match="a prompt is a text or a list of turns"):
        model.decide(7, {"type": "boolean"})  # type: ignore[call-overload]


def test_a_model_without_likelihoods_decides_nothing() -> None:
    with pytest.raises(LlmtuneError, match="reports no likelihoods"):
        TunedModel(Echo(), ModelRef(id="m")).decide("red", {"enum": ["red", "blue"]})


def ask(prompt: Any, generator: Echo | None = None) -> Any:
    return TunedModel(generator or Echo(), ModelRef(id="m")).generate(prompt)


TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Hi", "user:Hi"),
        (TURNS, "system:Be brief.|user:Hi"),
        ([Message("user", "Hi")], "user:Hi"),
        ((Message("system", "Be brief."), {"role": "user", "content": "Hi"}), "system:Be brief.|user:Hi"),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "user:Hi"),
        ([{"role": "developer", "content": "Hi"}], "system:Hi"),
    ],
)
def test_one_prompt_has_one_answer(prompt: Any, text: str) -> None:
    assert ask(prompt).text == text


def test_several_prompts_have_a_list_of_answers_in_their_order() -> None:
    assert [answer.text for answer in ask(["a", "b", "c"])] == ["user:a", "user:b", "user:c"]
    assert [answer.text for answer in ask([TURNS, [Message("user", "b")]])] == ["system:Be brief.|user:Hi", "user:b"]
    assert [answer.text for answer in ask(["a"])] == ["user:a"]


def test_a_local_model_is_asked_once_and_a_vendor_in_parallel() -> None:
    here, vendor = Echo(), Echo(max_concurrency=3)
    ask(["a", "b", "c"], here)
    assert here.calls == [3]
    ask(["a", "b", "c"], vendor)  # its barrier opens only to three calls at once
    assert vendor.calls == [1, 1, 1]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt: a prompt is a text or a list of turns, not an empty list"),
        (5, "not int"),
        ({"role": "user", "content": "Hi"}, "not dict"),
        (Message("user", "Hi"), "not Message"),
        (["a", 5], r"prompt\[1\]: a prompt is a text or a list of turns, not int"),
        ([{"rol": "user"}], r"prompt\[0\]: there is no role"),
        ([TURNS, [{"role": "usr", "content": ""}]], r"prompt\[1\]\[0\].role is 'usr'"),
        ([["a"]], r"prompt\[0\]\[0\] is a string"),
    ],
)
def test_what_is_no_prompt_is_refused_in_a_sentence(prompt: Any, message: str) -> None:
    generator = Echo()
    with pytest.raises(InvalidData, match=message) as refused:
        ask(prompt, generator)
    assert refused.value.hint
    assert not generator.calls


def test_a_refusal_of_one_prompt_is_raised() -> None:
    class Refusing(Echo):
        def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
            raise LlmtuneError("refused")

    with pytest.raises(LlmtuneError, match="refused"):
        ask(["a", "b"], Refusing(2))
