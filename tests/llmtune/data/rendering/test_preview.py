"""What is shown of a row: which of its tokens are reasoning, and which of those are learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("transformers")

from llmtune.data.example import Example, Message, Preference, chat
from llmtune.data.rendering.preview import TokenPreview, as_html, as_text, preview

ASK = Message("user", "When does it sail?")
THOUGHT = Message("assistant", "At eight.", reasoning="The board says eight.")


#: A template of a model that reasons, with marks of its own around reasoning.
OWN_MARKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}[thought]{{ m.reasoning_content }}[/thought]{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def own_marks(new_tokenizer: Callable[..., Any]) -> Any:
    return new_tokenizer(OWN_MARKS, ("<|im_start|>", "<|im_end|>"), None, "<|im_end|>")


def shown(tokenizer: Any, example: Example, **options: Any) -> list[TokenPreview]:
    return list(preview([example], tokenizer, **options))


def reasoning_of(view: TokenPreview, *, trained: bool) -> str:
    return "".join(piece.text for piece in view.tokens if piece.reasoning and piece.trained is trained)


def test_learned_reasoning_is_shown_as_such(tokenizers: Callable[[str], Any]) -> None:
    (view,) = shown(tokenizers("thinking"), Example((ASK, THOUGHT)))
    assert reasoning_of(view, trained=True) == "<think>\nThe board says eight.\n</think>"
    assert reasoning_of(view, trained=False) == ""
    total, learned = view.reasoning
    assert 0 < total == learned < view.trained
    assert view.counts == f"{view.total} tokens, {view.trained} learned; reasoning: {total}, {total} learned"
    assert view.as_dict()["reasoning"] == {"total": total, "trained": total}
    assert 'class="t r"' in as_html([view], "rows")
    assert any("italic" in str(span.style) for span in as_text(view).spans)


def test_reasoning_in_other_marks_is_found_by_its_words(own_marks: Any) -> None:
    (view,) = shown(own_marks, Example((ASK, THOUGHT)))
    assert "The board says eight." in reasoning_of(view, trained=True)
    assert "At eight." not in reasoning_of(view, trained=True)


def test_a_thought_in_the_text_is_reasoning_to_a_template_that_has_other_marks(
    own_marks: Any, tokenizers: Callable[[str], Any]
) -> None:
    written = Example((ASK, Message("assistant", "<think>The board says eight.</think>At eight.")))
    assert shown(own_marks, written) == shown(own_marks, Example((ASK, THOUGHT)))
    (view,) = shown(tokenizers("chatml"), written)
    assert "<think>The board says eight.</think>At eight." in "".join(piece.text for piece in view.tokens)


def test_a_row_without_reasoning_says_nothing_of_it(tokenizers: Callable[[str], Any]) -> None:
    (view,) = shown(tokenizers("chatml"), chat(("user", "one"), ("assistant", "A")))
    assert view.reasoning == (0, 0)
    assert view.counts == f"{view.total} tokens, {view.trained} learned"


def test_the_empty_thought_is_learned_unless_it_is_masked(tokenizers: Callable[[str], Any]) -> None:
    row = chat(("user", "one"), ("assistant", "A"))
    (learned,) = shown(tokenizers("thinking"), row)
    assert reasoning_of(learned, trained=True) == "<think>\n\n</think>"
    (masked,) = shown(tokenizers("thinking"), row, mask_empty_thinking=True)
    assert reasoning_of(masked, trained=True) == ""
    assert reasoning_of(masked, trained=False) == "<think>\n\n</think>"
    assert "".join(piece.text for piece in masked.tokens if piece.trained) == "A<|im_end|>"
    assert [piece.ids for piece in masked.tokens] == [piece.ids for piece in learned.tokens]


def test_both_answers_of_a_pair_are_shown(tokenizers: Callable[[str], Any]) -> None:
    pair = Example((ASK,), preference=Preference((THOUGHT,), (Message("assistant", "No idea."),)))
    preferred, rejected = shown(tokenizers("thinking"), pair, mask_empty_thinking=True)
    assert preferred.reasoning[1] > 0
    assert rejected.reasoning[1] == 0 < rejected.reasoning[0]
