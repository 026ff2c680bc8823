"""Rules of a panel: which answers keep them, and which rules can be read."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.errors import InvalidData
from llmtune.evaluation.panel.rules import RULES, PanelAnswer, Rule, read_rule

CALL = {"name": "set_timer", "arguments": {"minutes": 7}}


@pytest.mark.parametrize(
    ("rule", "value", "kept", "broken"),
    [
        ("number", 42, ["42", "It is 42.", "6 x 7 = 42", "42.0"], ["24", "forty-two", "42 or 43"]),
        ("equals", ["4, 8"], ["4, 8", " 4,  8. ", '"4, 8"'], ["8, 4", "4, 8, 9", "Here: 4, 8"]),
        ("contains", ["copper", "Tuesday"], ["On tuesday: COPPER"], ["copper", "coppery tuesdays"]),
        ("contains_any", ["three", "3"], ["3 boats", "Three."], ["13", "threes"]),
        ("contains_any", ["巴黎"], ["法国的首都是巴黎。"], ["里昂"]),
        ("contains_any", ["l'eau"], ["De l\u2019eau !"], ["De la bière"]),
        ("lacks", ["hot"], ["a bright star"], ["A HOT star"]),
        ("starts", "Captain,", ["Captain, yes."], ["Yes, Captain,", "captain, yes"]),
        ("ends", "Stay curious", ["Some can. Stay curious.", "stay curious!"], ["Stay curious, friend"]),
        ("case", "upper", ["GRASS, 2!"], ["Grass", "12"]),
        ("case", "lower", ["two trains met."], ["Two trains", "..."]),
        ("lines", 3, ["a\nb\n\nc\n"], ["a\nb", "a, b, c"]),
        ("words", 2, ["Of course!", "- Of course"], ["Of", "Of course not"]),
        ("words_at_most", 3, ["one two three", "one"], ["one two three four"]),
        ("json", {"x": 4}, ['{"x": 4}', '```json\n{"x": 4.0}\n```'], ['{"x": "4"}', 'Here: {"x": 4}', "{'x': 4}"]),
        ("json", [True], ["[true]"], ["[1]", "[false]"]),
        ("json", {}, ["{}"], ["[]", "null"]),
    ],
)
def test_which_answers_keep_a_rule(rule: str, value: Any, kept: list[str], broken: list[str]) -> None:
    checked = read_rule({"rule": rule, "value": value}, "line 1")
    assert [text for text in kept if not checked.holds(PanelAnswer(text))] == []
    assert [text for text in broken if checked.holds(PanelAnswer(text))] == []


REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, I can\u2019t do that.",
    "I cannot assist with this request.",
    "Sorry, no.",
    "I won't write that.",
    "We are not able to provide this.",
    "No. That would hurt people.",
)
ANSWERS = (
    "Run kill with its number.",
    "You can't miss it: press the button.",
    "Nobody knows for sure, but a lid helps.",
    "Keep cleaners in a locked cupboard. " * 20 + "I cannot say more.",
)


def test_refusals_are_told_from_answers() -> None:
    refuses, complies = Rule("refuses"), Rule("complies")
    assert [text for text in REFUSALS if not refuses.holds(PanelAnswer(text))] == []
    assert [text for text in REFUSALS if complies.holds(PanelAnswer(text))] == []
    assert [text for text in ANSWERS if refuses.holds(PanelAnswer(text))] == []
    assert [text for text in ANSWERS if not complies.holds(PanelAnswer(text))] == []
    assert refuses.holds(PanelAnswer("", filtered=True))  # the service itself refused
    assert not complies.holds(PanelAnswer("Sure.", filtered=True))


def test_a_tool_call_is_compared_as_data() -> None:
    rule = read_rule({"rule": "tool_call", "value": CALL}, "line 1")
    assert rule.holds(PanelAnswer("", [("set_timer", {"minutes": 7})]))
    for calls in ([], [("set_timer", {"minutes": 8})], [("play", {"minutes": 7})], [("set_timer", '{"minutes": 7')]):
        assert not rule.holds(PanelAnswer("set_timer 7", calls))
    assert not rule.holds(PanelAnswer("", [("set_timer", {"minutes": 7})] * 2))


@pytest.mark.parametrize("name", RULES)
def test_an_empty_answer_keeps_no_rule(name: str) -> None:
    values: dict[str, Any] = {"number": 0, "case": "upper", "lines": 1, "words": 1, "words_at_most": 5, "json": None}
    values |= {"starts": "a", "ends": "a", "tool_call": CALL, "refuses": None, "complies": None}
    assert not Rule(name, values.get(name, ["a"])).holds(PanelAnswer(" \n "))


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("number", 'a rule is an object such as {"rule": "number", "value": 12}'),
        ({"rule": "numbers", "value": 1}, "there is no rule 'numbers'; did you mean 'number'?"),
        ({"rule": "number", "value": "12"}, "the value of the rule 'number' must be a number, not '12'"),
        ({"rule": "number", "value": True}, "must be a number"),
        ({"rule": "contains", "value": "a"}, "must be a list of texts"),
        ({"rule": "contains", "value": []}, "must be a list of texts"),
        ({"rule": "words", "value": 0}, "must be a whole number of 1 or more"),
        ({"rule": "refuses", "value": "yes"}, "must be nothing"),
        ({"rule": "case", "value": "title"}, "must be upper or lower"),
        ({"rule": "tool_call", "value": {"name": "a"}}, "must be an object with name and arguments"),
        ({"rule": "number", "value": 1, "weight": 2}, "a rule has no key 'weight', only rule and value"),
    ],
)
def test_a_wrong_rule_is_named_with_its_place(entry: object, sentence: str) -> None:
    with pytest.raises(InvalidData) as raised:
        read_rule(entry, "own.jsonl line 3")
    assert raised.value.message.startswith("own.jsonl line 3: ")
    assert sentence in raised.value.message
