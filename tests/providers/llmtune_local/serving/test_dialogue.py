"""What a server knows of conversations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.example import Message
from llmtune.data.rendering.tokenize import Renderer
from llmtune_local.serving.dialogue import read_dialogue, set_options


def test_options_are_set_whatever_a_server_passes(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("thinking")
    options = {"enable_thinking": False}
    expected = Renderer(tokenizer, template_options=options).render_prompt((Message(role="user", content="a"),))
    template = set_options(tokenizer.chat_template, options)
    messages = [{"role": "user", "content": "a"}]
    for passed in ({}, {"enable_thinking": True}):
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False, **passed
        )
        assert text == expected


@pytest.mark.parametrize(
    "value",
    [True, False, None, 3, 1.5, 'a "quoted" \\ text\nof two lines {{ x }} {% y %}', [1, [None]], {"a": {"b": "c"}}],
)
def test_values_of_options(value: Any) -> None:
    from jinja2 import Environment

    template = set_options("{{ v | tojson }}", {"v": value})
    reference = Environment().from_string("{{ v | tojson }}").render(v=value)
    assert Environment().from_string(template).render() == reference


def test_marks_of_training_are_left_out(tokenizers: Callable[[str], Any]) -> None:
    assert "generation %}" not in set_options(tokenizers("marked").chat_template, {})
    assert "add_generation_prompt" in set_options(tokenizers("marked").chat_template, {})


def test_how_prompts_begin(tokenizers: Callable[[str], Any], new_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    """The beginning token is put in front where both conversations and plain text have it."""
    written = tokenizers("headers").chat_template
    unwritten = tokenizers("chatml").chat_template
    for template, adds, begins in (
        (written, True, True),
        (written, False, False),
        (unwritten, True, False),
        (None, True, True),
    ):
        renderer = Renderer(new_tokenizer(template, (), "<|begin_of_text|>", "</s>", add_bos=adds))
        dialogue = read_dialogue(renderer, None, tmp_path)
        assert dialogue.begins is begins
        assert set(dialogue.ends) == set(renderer.stop_ids)
