"""The Modelfile renders conversations as the model's own template does; templates that do more are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.example import Message
from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidJob
from llmtune_local.serving.dialogue import Dialogue, read_dialogue
from llmtune_local.serving.ollama import TurnTexts, read_turn_texts, write_modelfile

DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FOLDED = (
    "{{ bos_token }}{% set ns = namespace(s='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.s = m.content + '\n\n' %}{% else %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (ns.s if m.role == 'user' else '') + m.content + '<end_of_turn>\n' }}"
    "{% set ns.s = '' if m.role == 'user' else ns.s %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


#: The actions that stand in our Go templates -> Jinja's words for them. Others would stay, and break the rendering.
ACTIONS = {
    "{{ $first := true }}": "{% set ns = namespace(first=true) %}",
    "{{ range $i, $message := .Messages }}": "{% for message in messages %}",
    "{{ $last := eq (len (slice $.Messages $i)) 1 }}": "",
    '{{ if eq $message.Role "user" }}': "{% if message.role == 'user' %}",
    '{{ else if eq $message.Role "assistant" }}': "{% elif message.role == 'assistant' %}",
    "{{ if $first }}": "{% if ns.first %}",
    "{{ $first = false }}": "{% set ns.first = false %}",
    "{{ if $.System }}": "{% if system %}",
    "{{ $.System }}": "{{ system }}",
    "{{ $message.Content }}": "{{ message.content }}",
    "{{ if $last }}": "{% if loop.last %}",
    "{{ if not $last }}": "{% if not loop.last %}",
    "{{ else }}": "{% else %}",
    "{{ end }}": "{% endif %}",
}


def go_render(template: str, system: str, messages: list[tuple[str, str]]) -> str:
    """Render a Go template over Ollama's fields."""
    from jinja2 import Environment

    for action, word in ACTIONS.items():
        template = template.replace(action, word)
    template = template.removesuffix("{% endif %}") + "{% endfor %}"
    turns = [{"role": role, "content": content} for role, content in messages]
    return Environment(keep_trailing_newline=True).from_string(template).render(system=system, messages=turns)


def texts_of(tokenizer: Any, folder: Path) -> tuple[Renderer, Dialogue, TurnTexts]:
    renderer = Renderer(tokenizer)
    dialogue = read_dialogue(renderer, None, folder)
    return renderer, dialogue, read_turn_texts(renderer, dialogue)


def tokenizer_of(name: str, tokenizers: Callable[[str], Any], new_tokenizer: Callable[..., Any]) -> Any:
    if name == "default system":
        return new_tokenizer(DEFAULT_SYSTEM, ("<|im_start|>", "<|im_end|>"), None, "<|im_end|>")
    if name == "folded":
        return new_tokenizer(FOLDED, ("<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>")
    if name == "beginning in front":
        specials = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
        template = tokenizers("headers").chat_template
        return new_tokenizer(template, specials, "<|begin_of_text|>", "<|end_of_text|>", add_bos=True)
    return tokenizers(name)


@pytest.mark.parametrize(
    "name", ["chatml", "headers", "model_role", "inst", "default system", "folded", "beginning in front"]
)
def test_the_go_template_renders_what_ours_renders(
    name: str, tokenizers: Callable[[str], Any], new_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(name, tokenizers, new_tokenizer)
    renderer, dialogue, texts = texts_of(tokenizer, tmp_path)
    turns = [("user", "How {{ much }}?"), ("assistant", "Four."), ("user", "And\n\nnow?")]
    for system in ("", "You are terse.") if texts.system is not None else ("",):
        for messages in (turns[:1], turns):
            opening = (Message(role="system", content=system),) if system else ()
            expected = renderer.render_prompt(
                (*opening, *(Message(role=role, content=content) for role, content in messages))  # type: ignore[arg-type]
            )
            rendered = go_render(texts.to_go(), system, messages)
            assert dialogue.begins is (name == "beginning in front")
            # Ollama puts the beginning token in front by itself.
            assert (tokenizer.bos_token if dialogue.begins else "") + rendered == expected
    assert (texts.system is None) == (name in ("model_role", "inst"))


def test_a_begun_answer_is_continued(tokenizers: Callable[[str], Any], tmp_path: Path) -> None:
    _, _, texts = texts_of(tokenizers("chatml"), tmp_path)
    rendered = go_render(texts.to_go(), "", [("user", "a"), ("assistant", "It is")])
    assert rendered.endswith("<|im_start|>assistant\nIt is")


@pytest.mark.parametrize("name", ["channels", "thinking"])
def test_a_template_is_written_only_where_it_renders_alike(
    name: str, tokenizers: Callable[[str], Any], tmp_path: Path
) -> None:
    """`channels` generates from another text than its answers begin with: that is three texts too."""
    renderer, _, texts = texts_of(tokenizers(name), tmp_path)
    messages = [
        Message(role="user", content="a"),
        Message(role="assistant", content="b"),
        Message(role="user", content="c"),
    ]
    assert texts.render(messages) == renderer.render_prompt(messages)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "leaves turns out"),
        ("{{ messages | length }}{% for m in messages %}<{{ m.content }}>{% endfor %}", "by what comes later"),
        (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if loop.index > 3 %}!{% endif %}{% endfor %}<a>",
            "renders [56] turns",
        ),
    ],
)
def test_templates_that_do_more_are_refused(
    template: str, message: str, new_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    renderer = Renderer(new_tokenizer(template))
    with pytest.raises(InvalidJob, match=message):
        read_turn_texts(renderer, Dialogue(template, False, ()))


def test_the_modelfile(tokenizers: Callable[[str], Any], tmp_path: Path) -> None:
    _, _, texts = texts_of(tokenizers("chatml"), tmp_path)
    modelfile = write_modelfile(texts, file="model-f16.gguf", ends=["<|im_end|>", 'a"b\\'], context=32768)
    assert modelfile.startswith('FROM ./model-f16.gguf\nTEMPLATE """{{ $first')
    lines = modelfile.splitlines()
    assert "PARAMETER temperature 0" in lines
    assert "PARAMETER num_ctx 8192" in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert 'PARAMETER stop "a\\"b\\\\"' in lines
    odd = TurnTexts('"""', None, "", "", "", "")
    with pytest.raises(InvalidJob, match="cannot quote"):
        write_modelfile(odd, file="x", ends=[], context=None)
