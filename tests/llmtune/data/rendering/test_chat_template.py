"""Chat templates that never come to an end: they come with a model, or in a configuration that was imported."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from llmtune.data.example import Example, Message
from llmtune.data.rendering.chat_template import ChatTemplate
from llmtune.errors import InvalidData

load_tokenizer: Any = pytest.importorskip("llmtune_local.models.loading").load_tokenizer
pytest.importorskip("transformers")

ROW = Example(messages=(Message("user", "Is it open?"), Message("assistant", "yes")))
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}"
ENDLESS = {
    "nested loops": LOOP,
    "a loop for every turn": "{% for message in messages %}{{ message.content }}" + LOOP + "{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "a tower of powers": "{{ 9 ** 9 ** 9 }}",
    "a power of a variable": "{% set x = 99999999 %}{{ (x)**x }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_template_is_one_sentence_after_little_computing(name: str) -> None:
    ChatTemplate(load_tokenizer("tiny")).render(ROW)  # what loading takes is not counted
    template = ChatTemplate(load_tokenizer("tiny", None, ENDLESS[name]))
    begun = time.process_time()
    for ask in (lambda: template.render(ROW), lambda: template.prompt(ROW.messages[:1])):
        with pytest.raises(InvalidData, match=r"the chat template takes more than 1 second, .* endless loop"):
            ask()
    # The first row is waited for, and none after it.
    for _ in range(1000):
        with pytest.raises(InvalidData):
            template.render(ROW)
    assert time.process_time() - begun < 5


def test_it_is_so_in_a_thread_too() -> None:
    problems: list[BaseException] = []

    def render() -> None:
        try:
            ChatTemplate(load_tokenizer("tiny", None, LOOP)).render(ROW)
        except InvalidData as error:
            problems.append(error)

    thread = threading.Thread(target=render)
    thread.start()
    thread.join(120)
    assert "endless loop" in str(problems[0])


def test_stars_in_texts_and_in_calls_are_no_powers() -> None:
    plain = load_tokenizer("tiny").chat_template
    for harmless in (
        "**bold** ",
        "{{ '**' }}",
        '{{ "a**b" }}',
        "{{ dict(**{'a': 1}) and '' }}",
        "{{ 2 * 3 }} ** {{ 4 }}",
    ):
        template = ChatTemplate(load_tokenizer("tiny", None, harmless + plain))
        assert template.render(ROW).turns[0].answer.startswith("yes")
