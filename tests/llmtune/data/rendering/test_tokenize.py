"""Which tokens are completion: checked on the chat templates of well-known families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune.data.example import Example, ImagePart, Message, Preference, TextPart, ToolCall, chat
from llmtune.data.rendering.tokenize import RenderedRow, Renderer, render_prompt
from llmtune.errors import InvalidData

ALL = ["chatml", "chatml_tools", "headers", "model_role", "thinking", "inst", "marked", "channels"]
WITH_SYSTEM = ["chatml", "chatml_tools", "headers", "thinking", "marked", "channels"]
ONE_PIECE = ["chatml", "chatml_tools", "headers", "model_role", "inst", "marked"]


def completions(tokenizer: Any, row: RenderedRow) -> list[str]:
    """Return the decoded runs of completion tokens, by the mask alone."""
    texts, run = [], []
    for token, trained in zip((*row.ids, -1), (*row.completion_mask, False), strict=True):
        if trained:
            run.append(token)
        elif run:
            texts.append(tokenizer.decode(run))
            run = []
    return texts


def answer(name: str, text: str, end: str) -> str:
    """Return the text that a model family's assistant has to produce for this answer."""
    lead = {"inst": " ", "thinking": "<think>\n\n</think>\n\n", "channels": "<|channel|>final<|message|>"}
    end = "<|return|>" if name == "channels" else end
    return lead.get(name, "") + text + end


@pytest.mark.parametrize("name", ALL)
def test_one_turn(name: str, tokenizers: Callable[[str], Any], turn_ends: dict[str, str]) -> None:
    tokenizer = tokenizers(name)
    example = chat(("user", "What is the capital of France?"), ("assistant", "Paris, naïvely."), line=7)
    (row,) = Renderer(tokenizer).render(example)
    assert completions(tokenizer, row) == [answer(name, "Paris, naïvely.", turn_ends[name])]
    assert row.line == 7
    assert len(row.spans) == 1
    span = row.spans[0]
    assert row.text[span.start : span.end] == answer(name, "Paris, naïvely.", turn_ends[name])
    assert all(row.completion_mask[span.first : span.stop])
    assert row.trained_tokens == span.stop - span.first


@pytest.mark.parametrize("name", ALL)
def test_training_follows_what_inference_sends(name: str, tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers(name)
    renderer = Renderer(tokenizer)
    example = chat(("user", "Hi 🎉"), ("assistant", "Hello"), ("user", "More\n\nplease"), ("assistant", "  Sure thing"))
    renderer.check_against_inference(example)
    last = renderer.render(example)[-1]
    prompt = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "Hi 🎉"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "More\n\nplease"},
        ],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(last.prompt_ids) == prompt
    assert renderer.prompt_ids(example.prompt()) == tuple(prompt)
    assert render_prompt(tokenizer, example.prompt()) == tokenizer.decode(prompt)


@pytest.mark.parametrize("name", ONE_PIECE)
def test_several_turns_in_one_piece(name: str, tokenizers: Callable[[str], Any], turn_ends: dict[str, str]) -> None:
    tokenizer = tokenizers(name)
    example = chat(("user", "one"), ("assistant", "A"), ("user", "two"), ("assistant", "B"), ("user", "three"))
    rows = Renderer(tokenizer).render(example)
    assert len(rows) == 1
    assert completions(tokenizer, rows[0]) == [answer(name, text, turn_ends[name]) for text in "AB"]
    assert tokenizer.decode(rows[0].ids) == rows[0].text


@pytest.mark.parametrize("name", ["thinking", "channels"])
def test_a_template_that_rewrites_history_gives_one_piece_per_turn(
    name: str, tokenizers: Callable[[str], Any], turn_ends: dict[str, str]
) -> None:
    tokenizer = tokenizers(name)
    example = chat(("user", "one"), ("assistant", "A"), ("user", "two"), ("assistant", "B"), line=3)
    rows = Renderer(tokenizer).render(example)
    assert [row.piece for row in rows] == [0, 1]
    assert [row.line for row in rows] == [3, 3]
    assert [completions(tokenizer, row) for row in rows] == [[answer(name, text, turn_ends[name])] for text in "AB"]
    # As history the first answer stands as inference shows it, not as it was trained.
    assert ("<think>" in rows[1].text.partition("two")[0]) is False
    assert "<|return|>" not in rows[1].text.partition("two")[0]


def test_only_the_last_turn_trained_needs_one_piece(tokenizers: Callable[[str], Any]) -> None:
    example = Example(
        messages=(
            Message("user", "one"),
            Message("assistant", "A", weight=0),
            Message("user", "two"),
            Message("assistant", "<think>\nhm\n</think>\n\nB"),
        )
    )
    (row,) = Renderer(tokenizers("thinking")).render(example)
    assert completions(tokenizers("thinking"), row) == ["<think>\nhm\n</think>\n\nB<|im_end|>"]


def test_template_options_hold_for_training_and_inference(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("thinking")
    renderer = Renderer(tokenizer, template_options={"enable_thinking": False})
    example = chat(("user", "one"), ("assistant", "A"))
    (row,) = renderer.render(example)
    assert completions(tokenizer, row) == ["A<|im_end|>"]
    renderer.check_against_inference(example)


def test_weight_zero_turns_are_prompt(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("chatml")
    example = Example(
        messages=(
            Message("system", "Be brief."),
            Message("user", "one"),
            Message("assistant", "wrong", weight=0),
            Message("user", "two"),
            Message("assistant", "right", weight=1),
        )
    )
    (row,) = Renderer(tokenizer).render(example)
    assert completions(tokenizer, row) == ["right<|im_end|>"]
    assert "wrong" in row.text


def test_tool_calls_are_completion_and_tool_results_prompt(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("chatml_tools")
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    example = Example(
        messages=(
            Message("user", "Weather in Paris?"),
            Message("assistant", None, tool_calls=(ToolCall("c1", "get_weather", '{"city": "Paris"}'),)),
            Message("tool", '{"sky": "sunny"}', tool_call_id="c1"),
            Message("assistant", "Sunny."),
        ),
        tools=(tool,),
    )
    (row,) = Renderer(tokenizer).render(example)
    call, answer = completions(tokenizer, row)
    assert call == ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>')
    assert answer == "Sunny.<|im_end|>"
    assert "sunny" in row.text
    Renderer(tokenizer).check_against_inference(example)


def test_generation_markers_agree_with_ours(tokenizers: Callable[[str], Any]) -> None:
    """transformers' own mask of a marked template is ours plus the newline the marker covers."""
    tokenizer = tokenizers("marked")
    turns = [("user", "one"), ("assistant", "A b c"), ("user", "two"), ("assistant", "D")]
    (row,) = Renderer(tokenizer).render(chat(*turns))
    generated = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns],
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    assert list(row.ids) == generated["input_ids"]
    trained_ids = [token for token, trained in zip(row.ids, row.completion_mask, strict=True) if trained]
    marked = [token for token, trained in zip(row.ids, generated["assistant_masks"], strict=True) if trained]
    assert tokenizer.decode(marked).replace("<|im_end|>\n", "<|im_end|>") == tokenizer.decode(trained_ids)


def test_a_token_across_the_border_is_parted_as_inference_parts_it(new_tokenizer: Callable[..., Any]) -> None:
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = new_tokenizer(template)
    example = chat(("user", "the question"), ("assistant", "the answer"))
    (row,) = Renderer(tokenizer).render(example)
    text = "user: the question\nassistant: the answer</s>"
    assert row.text == text
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(row.ids) != ids, "this template is here because ' the' crosses the border"
    assert tokenizer.decode(row.ids) == text
    assert completions(tokenizer, row) == ["the answer</s>"]
    Renderer(tokenizer).check_against_inference(example)


def test_a_prompt_tokenised_differently_by_itself_is_kept_as_inference_has_it(
    new_tokenizer: Callable[..., Any], tokenizers: Callable[[str], Any]
) -> None:
    """GPT-2's pre-tokeniser cuts the header's two newlines apart once a word follows them."""
    model = tokenizers("headers")
    specials = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer = new_tokenizer(model.chat_template, specials, "<s>", "</s>", newline_runs=False)
    example = chat(("user", "one"), ("assistant", "A"), ("user", "two"), ("assistant", "B"))
    renderer = Renderer(tokenizer)
    rows = renderer.render(example)
    assert len(rows) == 2
    assert [completions(tokenizer, row) for row in rows] == [["A<|eot_id|>"], ["B<|eot_id|>"]]
    renderer.check_against_inference(example)


def test_sentencepiece_tokenizer(new_tokenizer: Callable[..., Any], tokenizers: Callable[[str], Any]) -> None:
    tokenizer = new_tokenizer(tokenizers("inst").chat_template, (), "<s>", "</s>", sentencepiece=True)
    example = chat(("user", "the question 你好"), ("assistant", "the answer 🎉"), ("user", "q"), ("assistant", "a"))
    rows = Renderer(tokenizer).render(example)
    Renderer(tokenizer).check_against_inference(example)
    answers = [text.strip() for row in rows for text in completions(tokenizer, row)]
    assert answers == ["the answer 🎉</s>", "a</s>"]


def test_plain_text_is_all_completion(new_tokenizer: Callable[..., Any]) -> None:
    tokenizer = new_tokenizer(None, (), "<s>", "</s>", add_bos=True)
    (row,) = Renderer(tokenizer).render(Example(text="the lazy dog"))
    assert tokenizer.decode(row.ids) == "<s>the lazy dog</s>"
    assert row.completion_mask == (False,) + (True,) * (len(row.ids) - 1)
    (ended,) = Renderer(tokenizer).render(Example(text="the lazy dog</s>"))
    assert ended.ids == row.ids


def test_text_and_chat_rows_mix_in_order(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("chatml")
    examples = [
        Example(text="plain", line=1),
        chat(("user", "a"), ("assistant", "b"), line=2),
        Example(text="again", line=3),
    ]
    rows = [row for rows in Renderer(tokenizer).render_all(examples) for row in rows]
    assert [row.line for row in rows] == [1, 2, 3]
    many = examples * 200
    assert [row for (row,) in Renderer(tokenizer).render_all(many)] == [
        row for example in many for row in Renderer(tokenizer).render(example)
    ]


def test_pairs_share_the_prompt_and_train_the_answers(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("headers")
    example = Example(
        messages=(Message("user", "a"), Message("assistant", "b"), Message("user", "c")),
        preference=Preference((Message("assistant", "good"),), (Message("assistant", "bad"),)),
        line=4,
    )
    pair = Renderer(tokenizer).render_pair(example)
    assert completions(tokenizer, pair.preferred) == ["good<|eot_id|>"]
    assert completions(tokenizer, pair.rejected) == ["bad<|eot_id|>"]
    assert pair.preferred.prompt_ids == pair.rejected.prompt_ids
    assert pair.line == 4
    with pytest.raises(InvalidData, match="pair of answers"):
        Renderer(tokenizer).render(example)
    with pytest.raises(InvalidData, match="no pair"):
        Renderer(tokenizer).render_pair(chat(("user", "a"), ("assistant", "b")))


@pytest.mark.parametrize(
    ("name", "end"), [("chatml", "<|im_end|>"), ("headers", "<|eot_id|>"), ("model_role", "<end_of_turn>")]
)
def test_stop_ids_hold_the_turn_end_and_the_end_of_text(name: str, end: str, tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers(name)
    assert Renderer(tokenizer).stop_ids == {
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids(end),
    }


# refusals


def refusal(tokenizer: Any, example: Example) -> tuple[str, str]:
    with pytest.raises(InvalidData) as caught:
        Renderer(tokenizer, file="train.jsonl").render(example)
    finding = caught.value.findings[0]
    assert str(caught.value).startswith("train.jsonl:12: ")
    assert caught.value.hint
    return finding.code, finding.message


def row(*turns: tuple[str, str]) -> Example:
    return chat(*turns, line=12)


def test_refuses_a_row_without_trained_turn(tokenizers: Callable[[str], Any]) -> None:
    silent = Example(messages=(Message("user", "a"), Message("assistant", "b", weight=0)), line=12)
    assert refusal(tokenizers("chatml"), silent)[0] == "no_trained_turn"
    assert refusal(tokenizers("chatml"), row(("user", "a")))[0] == "no_trained_turn"
    assert refusal(tokenizers("chatml"), row(("assistant", "a")))[0] == "no_prompt"
    assert refusal(tokenizers("chatml"), Example(text="  ", line=12))[0] == "empty_text"


def test_refuses_a_template_that_never_ends_the_turn(new_tokenizer: Callable[..., Any]) -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}assistant:"
    code, message = refusal(new_tokenizer(template), row(("user", "a"), ("assistant", "b")))
    assert code in ("template_no_end", "template_prompt_differs")
    ending = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    code, message = refusal(new_tokenizer(ending), row(("user", "a"), ("assistant", "b")))
    assert code == "template_no_end"
    assert "never learn to stop" in message


def test_refuses_a_missing_template(new_tokenizer: Callable[..., Any]) -> None:
    code, message = refusal(new_tokenizer(None), row(("user", "a"), ("assistant", "b")))
    assert code == "template_missing"
    assert "no chat template" in message


def test_refuses_what_the_template_refuses_in_its_own_words(tokenizers: Callable[[str], Any]) -> None:
    example = row(("system", "Be kind."), ("user", "a"), ("assistant", "b"))
    code, message = refusal(tokenizers("model_role"), example)
    assert code == "template_refuses"
    assert "System role not supported" in message


def test_refuses_a_template_whose_prompt_is_another_text(new_tokenizer: Callable[..., Any]) -> None:
    template = (
        "{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant><think>' }}{% endif %}"
    )
    code, message = refusal(new_tokenizer(template), row(("user", "a"), ("assistant", "b")))
    assert code == "template_prompt_differs"
    assert "<think>" in message


def test_refuses_a_template_that_ignores_the_generation_prompt(
    new_tokenizer: Callable[..., Any], tokenizers: Callable[[str], Any]
) -> None:
    template = tokenizers("chatml").chat_template.partition("{% if add")[0]
    tokenizer = new_tokenizer(template, ("<|im_start|>", "<|im_end|>"), None, "<|im_end|>")
    assert refusal(tokenizer, row(("user", "a"), ("assistant", "b")))[0] == "template_no_generation_prompt"


def test_refuses_what_the_template_leaves_out(
    new_tokenizer: Callable[..., Any], tokenizers: Callable[[str], Any]
) -> None:
    call = Example(
        messages=(
            Message("user", "a"),
            Message("assistant", "ok", tool_calls=(ToolCall("1", "get_weather", "{}"),)),
        ),
        line=12,
    )
    assert "tool calls" in refusal(tokenizers("chatml"), call)[1]
    tools = row(("user", "a"), ("assistant", "b")).replace(tools=({"function": {"name": "get_weather"}},))
    assert "tools" in refusal(tokenizers("chatml"), tools)[1]
    no_system = tokenizers("inst").chat_template.replace("raise_exception('Only user and", "('' if 1 else '")
    tokenizer = new_tokenizer(no_system, (), "<s>", "</s>")
    code, message = refusal(tokenizer, row(("system", "Be kind."), ("user", "a"), ("assistant", "b")))
    assert code == "template_leaves_out"
    assert "system" in message
    reasoned = Example(messages=(Message("user", "a"), Message("assistant", "b", reasoning="so")), line=12)
    assert "reasoning" in refusal(tokenizers("chatml"), reasoned)[1]
    (thought,) = Renderer(tokenizers("thinking")).render(reasoned)
    assert "<think>\nso\n</think>\n\nb" in thought.text


def test_refuses_images_and_joins_text_parts(tokenizers: Callable[[str], Any]) -> None:
    image = Example(
        messages=(Message("user", (TextPart("see"), ImagePart("x.png"))), Message("assistant", "b")), line=12
    )
    assert refusal(tokenizers("chatml"), image)[0] == "not_text"
    parts = Example(messages=(Message("user", (TextPart("see"), TextPart("this"))), Message("assistant", "b")))
    (joined,) = Renderer(tokenizers("chatml")).render(parts)
    assert "see\nthis" in joined.text


# length


def test_too_long_is_refused_dropped_or_truncated(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("headers")
    renderer = Renderer(tokenizer, file="train.jsonl")
    (full,) = renderer.render(row(("user", "the " * 50), ("assistant", "one"), ("user", "again"), ("assistant", "two")))
    length = len(full.ids)
    assert renderer.fit(full, length, "error") is full
    with pytest.raises(InvalidData, match=rf"train.jsonl:12: this row has {length} tokens and the limit is 40"):
        renderer.fit(full, 40, "error")
    assert renderer.fit(full, 40, "drop") is None
    cut = renderer.fit(full, 40, "truncate")
    assert cut is not None
    assert len(cut.ids) == 40
    assert cut.ids[0] == tokenizer.bos_token_id
    assert completions(tokenizer, cut) == ["one<|eot_id|>", "two<|eot_id|>"]
    for span in cut.spans:
        assert tokenizer.decode(cut.ids[span.first : span.stop]) == full.text[span.start : span.end]


def test_truncation_never_trains_half_a_turn(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("chatml")
    renderer = Renderer(tokenizer)
    (full,) = renderer.render(
        row(("user", "q"), ("assistant", "one two three four five"), ("user", "again"), ("assistant", "two"))
    )
    first, last = full.spans
    for limit in range(1, len(full.ids)):
        if limit <= last.stop - last.first:
            with pytest.raises(InvalidData, match="leaves no room"):
                renderer.fit(full, limit, "truncate")
            continue
        cut = renderer.fit(full, limit, "truncate")
        assert cut is not None
        assert len(cut.ids) <= limit
        expected = ["one two three four five<|im_end|>", "two<|im_end|>"]
        removed = max(0, last.stop - limit)
        assert completions(tokenizer, cut) == (expected if removed <= first.first else expected[1:])


def test_a_text_that_was_rendered_before_gets_no_second_beginning_or_end(new_tokenizer: Callable[..., Any]) -> None:
    template = "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|over|>{% endfor %}"
    tokenizer = new_tokenizer(template, ("<|turn|>", "<|over|>"), "<s>", "</s>", add_bos=True)
    renderer = Renderer(tokenizer)
    begin, end, over = (tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>", "<|over|>"))
    (plain,) = renderer.render(Example(text="the lazy dog"))
    assert (plain.ids[0], plain.ids[1:].count(begin), plain.ids[-1]) == (begin, 0, end)
    (rendered,) = renderer.render(Example(text="<s><|turn|>user\nthe lazy dog<|over|>"))
    assert (rendered.ids[0], rendered.ids.count(begin), rendered.ids[-1]) == (begin, 1, over)
    (spaced,) = renderer.render(Example(text="<s><|turn|>user\nthe lazy dog<|over|>\n"))
    assert spaced.ids.count(end) == 0


def test_plain_text_is_cut_at_its_end(new_tokenizer: Callable[..., Any]) -> None:
    tokenizer = new_tokenizer(None, (), "<s>", "</s>", add_bos=True)
    renderer = Renderer(tokenizer)
    (full,) = renderer.render(Example(text="the quick brown fox jumps over the lazy dog"))
    cut = renderer.fit(full, 5, "truncate")
    assert cut is not None
    assert cut.ids == full.ids[:5]
    assert cut.completion_mask == full.completion_mask[:5]


# properties

TEXTS = st.text(
    alphabet=st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="<>|[]{}%#"), max_size=40
).map(lambda text: f"w{text}w")


@settings(max_examples=60)
@given(st.data())
def test_the_masked_tokens_are_the_answers_and_their_ends(
    tokenizers: Callable[[str], Any], turn_ends: dict[str, str], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(ALL))
    tokenizer = tokenizers(name)
    turns: list[Message] = []
    if name in WITH_SYSTEM and data.draw(st.booleans()):
        turns.append(Message("system", data.draw(TEXTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        turns.append(Message("user", data.draw(TEXTS)))
        turns.append(Message("assistant", data.draw(TEXTS), weight=data.draw(st.sampled_from([None, 0, 1]))))
    example = Example(messages=tuple(turns))
    answers = [turn.words for turn in turns if turn.trained]
    renderer = Renderer(tokenizer)
    if not answers:
        with pytest.raises(InvalidData, match="nothing to learn"):
            renderer.render(example)
        return
    rows = renderer.render(example)
    masked = [text for row in rows for text in completions(tokenizer, row)]
    assert masked == [answer(name, text, turn_ends[name]) for text in answers]
    assert [row.text[s.start : s.end] for row in rows for s in row.spans] == masked
    assert all(tokenizer.decode(row.ids) == row.text for row in rows)
    renderer.check_against_inference(example)
