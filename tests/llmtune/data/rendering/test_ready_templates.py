"""Ready chat templates: every turn is rendered for training as inference sends it, ends, and loses nothing."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.data.example import Example, Message, chat
from llmtune.data.rendering.ready_templates import TEMPLATES, ReadyTemplate, resolve_template, suggest_template
from llmtune.errors import InvalidData

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")


def tokenizer_of(ready: ReadyTemplate | None) -> Any:
    """Build a tokenizer of single bytes, which has the template's end of a turn."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    own_end = ready is not None and ready.end and ready.name != "deepseek-r1"
    eos = ready.end if ready is not None and ready.name == "deepseek-r1" else "</s>"
    tokens = ["<s>", eos, *([ready.end] if ready is not None and own_end else [])]
    core.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token=eos)
    tokenizer.chat_template = None if ready is None else resolve_template(ready.name)
    return tokenizer


ROWS = [
    chat(("user", "When does it leave?"), ("assistant", "At eight.")),
    chat(
        ("system", "Be brief."),
        ("user", "When?"),
        ("assistant", "At eight."),
        ("user", "And back?"),
        ("assistant", "At six."),
    ),
    chat(
        ("user", " spaces \n\n kept "),
        ("assistant", "<think>\nthought\n</think>\n\nAt eight."),
        ("user", "q"),
        ("assistant", "a"),
    ),
]


@pytest.mark.parametrize("ready", TEMPLATES, ids=lambda ready: ready.name)
@pytest.mark.parametrize("example", ROWS)
def test_rows_are_rendered_as_inference_asks(ready: ReadyTemplate, example: Example) -> None:
    from llmtune.data.rendering.tokenize import Renderer

    tokenizer = tokenizer_of(ready)
    renderer = Renderer(tokenizer)
    renderer.check_against_inference(example)
    (row,) = renderer.render(example)
    answers = [tokenizer.decode(row.ids[span.first : span.stop]) for span in row.spans]
    expected = [turn.words for turn in example.messages if turn.role == "assistant"]
    assert [answer.removesuffix(ready.end or "</s>") for answer in answers] == expected
    assert row.ids.count(tokenizer.bos_token_id) <= 1
    assert all(text.words in row.text for text in example.messages)


@pytest.mark.parametrize("ready", TEMPLATES, ids=lambda ready: ready.name)
def test_each_has_a_source_and_is_found_by_its_end(ready: ReadyTemplate) -> None:
    assert ready.source.startswith("https://")
    assert suggest_template(tokenizer_of(ready)) == (ready.name if ready.end else "plain")


def test_a_template_that_is_given_as_itself_stays() -> None:
    assert resolve_template("{{ messages }}") == "{{ messages }}"


def test_a_model_without_a_template_is_told_of_one_that_fits() -> None:
    from llmtune.data.rendering.tokenize import Renderer

    with pytest.raises(InvalidData) as raised:
        Renderer(tokenizer_of(None)).render(Example((Message("user", "q"), Message("assistant", "a"))))
    assert "chat_template: plain" in str(raised.value.hint)
