"""Causes of other prompts, by a template of words: each is named from tokens, and from their numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from llmtune.data.example import Message
from llmtune.provider.abilities import RenderedPrompt
from llmtune.provider.generation import GenerationRequest
from llmtune.verifications.prompts import PROBES, SeenPrompt, explain_prompts, last_turn, without_system

BEGIN = 1


class WordRenderer:
    """A template whose tokens are words, and that begins with a beginning token."""

    begin_token: int | None = BEGIN
    end_tokens = frozenset({3})

    def __init__(self) -> None:
        self._words: list[str] = ["", "<s>", "[", "]"]

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generation_prompt: bool = True
    ) -> RenderedPrompt:
        turns = "".join(f"[ {turn.role} {turn.words} ] " for turn in messages)
        offered = f"[ tools {len(tools)} ] " if tools else ""
        text = f"<s> {offered}{turns}{'[ assistant ' if generation_prompt else ''}"
        return RenderedPrompt(text=text, tokens=self.tokenize(text))

    def tokenize(self, text: str, *, special_tokens: bool = True) -> tuple[int, ...]:
        tokens = []
        for word in text.split():
            if word not in self._words:
                self._words.append(word)
            tokens += [self._words.index(word)] if special_tokens or word not in ("<s>", "[", "]") else [0, 0]
        return tuple(tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(f"{self._words[token]} " for token in tokens)


Change = Callable[[WordRenderer, GenerationRequest], tuple[int, ...]]


def system_added(renderer: WordRenderer, request: GenerationRequest) -> tuple[int, ...]:
    turns = request.messages
    added = () if turns[0].role == "system" else (Message("system", "be a helpful one"),)
    return renderer.render((*added, *turns), request.tools).tokens


CAUSES: dict[str, Change] = {
    "beginning_token_twice": lambda r, q: (BEGIN, *r.render(q.messages, q.tools).tokens),
    "beginning_token_missing": lambda r, q: r.render(q.messages, q.tools).tokens[1:],
    "generation_prompt_missing": lambda r, q: r.render(q.messages, q.tools, generation_prompt=False).tokens,
    "system_turn_added": system_added,
    "system_turn_dropped": lambda r, q: r.render(without_system(q.messages), q.tools).tokens,
    "earlier_turns_dropped": lambda r, q: r.render(last_turn(q.messages), q.tools).tokens,
    "tools_not_rendered": lambda r, q: r.render(q.messages).tokens,
    "special_tokens_as_text": lambda r, q: r.tokenize(r.render(q.messages, q.tools).text, special_tokens=False),
    "generation_prompt_differs": lambda r, q: (*r.render(q.messages, q.tools).tokens, *r.tokenize("<think> </think>")),
    "prompt_cut": lambda r, q: r.render(q.messages, q.tools).tokens[-14:],
}
REQUESTS = [
    GenerationRequest(messages=(Message("user", "where is my lamp"),)),
    GenerationRequest(messages=(Message("user", "what is the weather"),), tools=({"name": "weather"},)),
    GenerationRequest(
        messages=(Message("system", "turn orders into data"), Message("user", "two cups and then one more"))
    ),
    *(GenerationRequest(messages=messages) for messages in PROBES),
]


def see(change: Change, by_tokens: bool) -> tuple[list[SeenPrompt], WordRenderer]:
    renderer = WordRenderer()
    seen = []
    for row, request in enumerate(REQUESTS, start=1):
        tokens = change(renderer, request)
        shown: dict[str, Any] = {"tokens": tokens} if by_tokens else {"count": len(tokens)}
        seen.append(SeenPrompt(row, request, renderer.render(request.messages, request.tools).tokens, **shown))
    return seen, renderer


@pytest.mark.parametrize("by_tokens", [True, False], ids=["tokens", "counts"])
@pytest.mark.parametrize("kind", CAUSES)
def test_a_cause_is_named(kind: str, by_tokens: bool) -> None:
    seen, renderer = see(CAUSES[kind], by_tokens)
    (difference,) = explain_prompts(seen, renderer)
    assert difference.kind == kind, difference.says
    assert difference.drift
    assert difference.rows == tuple(prompt.row for prompt in seen if not prompt.same)


@pytest.mark.parametrize("by_tokens", [True, False], ids=["tokens", "counts"])
def test_the_same_prompts_are_no_difference(by_tokens: bool) -> None:
    seen, renderer = see(lambda r, q: r.render(q.messages, q.tools).tokens, by_tokens)
    assert explain_prompts(seen, renderer) == []


def test_nothing_is_said_of_prompts_that_the_server_does_not_show() -> None:
    seen, renderer = see(CAUSES["prompt_cut"], True)
    hidden = [SeenPrompt(prompt.row, prompt.request, prompt.expected) for prompt in seen]
    assert explain_prompts(hidden, renderer) == []


def test_another_template_is_shown_by_where_it_differs() -> None:
    seen, renderer = see(lambda r, q: r.tokenize("<s> USER: " + q.messages[-1].words), True)
    (difference,) = explain_prompts(seen, renderer)
    assert difference.kind == "template_differs"
    assert "USER:" in difference.says
