"""What graders pay for single answers, at the edges."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidData, InvalidJob
from llmtune.graders import Answer, GraderProcess, Score, make_grader, read_answers, read_rows, scoring
from llmtune.graders.python_process import MOST_TIMEOUTS, PythonProcess
from llmtune.graders.scoring import read_tool_calls


def score(answer: str | Answer, row: dict[str, Any], **fields: Any) -> Score:
    with GraderProcess(make_grader(fields)) as process:
        return process.score(row, Answer(answer) if isinstance(answer, str) else answer)


@pytest.mark.parametrize(
    ("operation", "reference", "answer", "expected"),
    [
        ("exact", "billing", " billing\n", 1.0),
        ("exact", "billing", "Billing", 0.0),
        ("normalised", "billing", '"Billing."', 1.0),
        ("contains", "billing", "it is billing, I think", 1.0),
        ("numeric", "#### 1,000", "that makes $1000.00", 1.0),
        ("numeric", "7", "no number", 0.0),
        ("json", '{"a": 1, "b": [true]}', 'Here: {"b": [true], "a": 1}', 1.0),
        ("json", '{"a": 1}', '{"a": true}', 0.0),
        ("json", '{"a": 1}', '{"a": 1, "b": 2}', 0.0),
        ("json", '{"a": 1}', "{", 0.0),
    ],
)
def test_match(operation: str, reference: str, answer: str, expected: float) -> None:
    assert score(answer, {"r": reference}, kind="match", operation=operation, reference="r") == Score(expected)


def test_a_tolerance_is_in_units_of_the_number() -> None:
    fields = {"kind": "match", "operation": "numeric", "reference": "r", "tolerance": 0.5}
    assert score("3.5", {"r": 3}, **fields).value == 1.0
    assert score("3.6", {"r": 3}, **fields).value == 0.0


def test_partial_json_counts_the_references_fields() -> None:
    row = {"r": {"city": "Oslo", "zip": "0150", "code": None}}
    fields = {"kind": "match", "operation": "json", "partial": True, "reference": "r"}
    assert score('{"city": "Oslo", "zip": 150, "code": null, "more": 1}', row, **fields).value == pytest.approx(2 / 3)
    assert score("no json", row, **fields).value == 0.0


def test_a_part_that_is_not_there_earns_the_lowest_score() -> None:
    fields = {
        "kind": "python",
        "source": "def grade(row, answer): return 1",
        "lowest": -1,
        "answer_from": {"regex": "#+ (.*)"},
    }
    assert score("no mark", {}, **fields).value == -1
    assert score("## 3", {}, **fields).value == 1


def test_of_several_matches_the_last_is_taken() -> None:
    fields = {"kind": "match", "reference": "r", "answer_from": {"regex": r"(\d+)"}}
    assert score("first 1 then 2", {"r": 2}, **fields).value == 1.0


def test_a_schema_pays_what_it_allows() -> None:
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"enum": [1, 2]}}}
    assert [score(text, {}, kind="schema", json_schema=schema).value for text in ('{"a": 1}', '{"a": 3}', "text")] == [
        1,
        0,
        0,
    ]
    unresolved = score("{}", {}, kind="schema", json_schema={"$ref": "http://127.0.0.1:9/none.json"})
    assert unresolved.value is None
    with pytest.raises(InvalidJob, match="no JSON Schema"):
        score("{}", {}, kind="schema", json_schema={"type": "thing"})


def test_weights_are_of_the_whole() -> None:
    parts = [
        {"weight": 3, "grader": {"kind": "regex", "pattern": "a"}},
        {"weight": 1, "grader": {"kind": "python", "source": "def grade(r, a): return 6", "lowest": 2, "highest": 10}},
    ]
    assert score("a", {}, kind="weighted", parts=parts).value == pytest.approx((3 + 0.5) / 4)
    assert score("b", {}, kind="weighted", parts=parts).value == pytest.approx(0.5 / 4)


@pytest.mark.parametrize(
    "body",
    [
        "import ctypes; ctypes.CDLL(None).system(b'true')",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import os; os.kill(os.getppid(), 0)",
        "import os; os.open('made.txt', os.O_CREAT | os.O_WRONLY)",
        "import pathlib; pathlib.Path('made.txt').write_text('')",
        "import os; os.remove('/tmp/no-such-file')",
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import http.client; http.client.HTTPConnection('127.0.0.1', 9).request('GET', '/')",
    ],
)
def test_a_python_grader_has_no_way_out(body: str) -> None:
    result = score("a", {}, kind="python", source=f"def grade(row, answer):\n    {body}\n    return 1.0")
    assert result.value is None
    assert "PermissionError: a grader" in result.error


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by the system's own limits")
def test_a_python_grader_has_two_gigabytes() -> None:
    result = score("a", {}, kind="python", source="def grade(row, answer): return float(len(bytearray(3 * 1024**3)))")
    assert result == Score(None, "it takes more than 2 GB of memory")


@pytest.mark.parametrize(("returned", "error"), [("True", ""), ("None", "NoneType"), ("'1'", "str"), ("1e999", "inf")])
def test_what_is_no_number_is_said(returned: str, error: str) -> None:
    result = score("a", {}, kind="python", source=f"def grade(row, answer): return {returned}")
    assert (result.value is None) == bool(error)
    assert error in result.error


def test_answers_of_a_model_are_read_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(
        '{"answer": "a"}\n{"answers": ["b", {"text": "c"}]}\n'
        '{"content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\\"x\\": 1}"}}]}\n'
    )
    assert read_answers(path, 3) == [[Answer("a")], [Answer("b"), Answer("c")], [Answer("", (("f", {"x": 1}),))]]
    with pytest.raises(InvalidData, match="3 lines, and there are 4 rows"):
        read_answers(path, 4)
    path.write_text('{"score": 1}\n')
    with pytest.raises(InvalidData, match="line 1 has no answer"):
        read_answers(path, 1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "empty"), ("[1, 2]\n", "not an object"), ('{"a": \n', "rows.jsonl:1"), (None, "does not exist")],
)
def test_rows_that_cannot_be_read_are_a_sentence(tmp_path: Path, text: str | None, sentence: str) -> None:
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidData, match=sentence):
        read_rows(path)


def test_arguments_of_tools_are_compared_as_json_is() -> None:
    row = {"r": [{"name": "f", "arguments": {"on": True, "n": 1}}]}
    fields = {"kind": "tool_call", "reference": "r"}
    assert score(Answer("", (("f", {"n": 1.0, "on": True}),)), row, **fields).value == 1.0
    assert score(Answer("", (("f", {"n": 1, "on": 1}),)), row, **fields).value == 0.0


def test_numbers_beyond_what_decimals_subtract_are_wrong_or_right() -> None:
    assert score("1e9999999", {"a": "3"}, kind="match", operation="numeric", reference="a").value == 0.0
    assert score("1e9999999", {"a": "1e9999999"}, kind="match", operation="numeric", reference="a").value == 1.0


def test_arguments_that_are_nested_too_deeply_are_another_call() -> None:
    calls = read_tool_calls([{"name": "find", "arguments": "[" * 100_000}])
    row = {"a": [{"name": "find", "arguments": "{}"}]}
    assert score(Answer("", tuple(calls)), row, kind="tool_call", reference="a").value == 0.0


def test_the_words_of_a_last_turn_in_parts_are_the_reference() -> None:
    parts = [{"type": "text", "text": "for"}, {"type": "text", "text": "ty"}]
    row = {"messages": [{"role": "assistant", "content": parts}]}
    assert score("forty", row, kind="match").value == 1.0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "regex", "pattern": "(a+)+$"}, "its pattern takes longer than 0.2 s"),
        ({"kind": "match", "answer_from": {"regex": "(a+)+$"}, "reference": "a"}, "answer_from.regex takes longer"),
    ],
)
def test_a_regular_expression_without_an_end_is_given_up(
    fields: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "REGEX_SECONDS", 0.2)
    with GraderProcess(make_grader(fields)) as process:
        assert sentence in process.score({"a": "b"}, Answer("a" * 64 + "!")).error


def test_a_grader_that_never_ends_is_asked_no_more() -> None:
    starts = []
    with PythonProcess("def grade(row, answer):\n    while True: pass", 0.02) as process:
        start = process._start
        process._start = lambda: (starts.append(1), start())  # type: ignore[method-assign,assignment,func-returns-value]
        scores = [process.grade({}, "") for _ in range(100)]
    assert {sentence for _, sentence in scores} == {"it took longer than 0.02 s, or its process ended"}
    assert len(starts) == MOST_TIMEOUTS - 1


def test_what_a_grader_writes_beside_its_answers_is_a_sentence() -> None:
    source = """
import os
def grade(row, answer):
    for place in range(3, 20):
        try: os.write(place, b"junk\\n")
        except OSError: pass
    return 1.0
"""
    with PythonProcess(source, 10.0) as process:
        assert process.grade({}, "")[0] is None


def test_a_function_that_no_package_can_call_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    function = "arn:aws:lambda:us-east-1:123456789012:function:grade"
    with pytest.raises(InvalidJob, match="no installed package can call"):
        score("a", {}, kind="lambda", function=function)
