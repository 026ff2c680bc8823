"""Tokens without a tokenizer: within a tenth or so of what real tokenizers count, in every script, at no great cost."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.data.example import Example, Message
from llmtune.data.rendering.token_count import RULE, Counter, estimate_tokens
from llmtune_openai.rows import write_tools

ENGLISH = (
    "The delivery was due last Tuesday. It has not arrived, and nobody answers the phone; please send the order again"
    " or return the money to my account within two weeks."
)
SUMS = "Natalia sold 48/2 = 24 clips in May. Natalia sold 48+24 = 72 clips altogether in April and May. #### 72"


#: What o200k_base (tiktoken 0.14.0) counts, on 2026-12-01.
@pytest.mark.parametrize(
    ("text", "counted"),
    [(ENGLISH, 34), (SUMS, 33)],
)
def test_an_estimate_is_near_what_a_tokenizer_counts(text: str, counted: int) -> None:
    assert estimate_tokens(text) == pytest.approx(counted, rel=0.15)


@pytest.mark.parametrize("text", ["a", "?", "é", "я", "你", "한", "🙂", "\ud800", "\x00", " "])
def test_any_text_has_a_token_and_none_has_none(text: str) -> None:
    assert estimate_tokens(text) >= 1
    assert estimate_tokens("") == 0


def test_text_without_spaces_has_tokens_by_its_length() -> None:
    assert estimate_tokens("a" * 600) == 100
    assert estimate_tokens("https://example.com/" + "path/" * 20) >= 20


def test_scripts_weigh_what_they_cost_and_not_their_bytes() -> None:
    russian, chinese = "Заказ не пришёл вовремя. " * 4, "订单没有按时送达。" * 4
    assert estimate_tokens(russian) < len(russian.encode()) / 4
    assert len(chinese) / 2 < estimate_tokens(chinese) <= len(chinese)


def test_the_rule_is_said_and_turns_count() -> None:
    row = Example(messages=(Message("user", "Hello"), Message("assistant", "Hello, how can I help?")))
    counter = Counter()
    assert counter.rule == RULE
    assert counter.row(row).total == 2 * 4 + estimate_tokens("Hello") + estimate_tokens("Hello, how can I help?")


TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "find_order",
            "description": "Find an order.\nBy its number.",
            "parameters": {
                "type": "object",
                "properties": {
                    "number": {"type": "integer", "description": "Six digits"},
                    "states": {"type": "array", "items": {"type": "string", "enum": ["open", "sent"]}},
                    "buyer": {"type": "object", "properties": {"name": {"type": ["string", "null"]}}},
                },
                "required": ["number"],
            },
        },
    },
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}},
)


def test_tools_count_as_the_vendor_writes_them() -> None:
    text = write_tools(TOOLS)
    assert "// Find an order.\n// By its number.\ntype find_order = (_: {\n// Six digits\nnumber: number,\n" in text
    assert 'states?: "open" | "sent"[],\n' in text
    assert "buyer?: {\nname?: string | null,\n},\n" in text
    assert "type stop = () => any;" in text
    row = Example(messages=(Message("user", "Where is 123456?"), Message("assistant", "On its way.")), tools=TOOLS)
    as_json, as_types = Counter().row(row), Counter(write_tools=write_tools).row(row)
    assert as_types.total < as_json.total
    assert as_types.assistant == as_json.assistant


def test_odd_schemas_are_written_all_the_same() -> None:
    nested: dict[str, object] = {"type": "object"}
    for _ in range(500):
        nested = {"type": "object", "properties": {"more": nested}}
    assert "any" in write_tools([{"function": {"name": "deep", "parameters": nested}}])
    odd: list[Any] = [None, [], {"properties": 3}, {"properties": {"a": 1}}, {"properties": {"a": {"enum": None}}}]
    for parameters in odd:
        assert "type odd = " in write_tools([{"function": {"name": "odd", "parameters": parameters}}])
