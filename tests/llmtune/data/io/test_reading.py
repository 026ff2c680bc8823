"""Reading: formats told apart, containers opened, and every fault named with its line and remedy."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmtune.data.example import Example, ImagePart, Message, OtherPart, TextPart, ToolCall
from llmtune.data.findings import Finding
from llmtune.data.io.reading import Reading, load, read
from llmtune.errors import InvalidData, MissingExtra, UnknownName

OTHER = [{"role": "assistant", "content": "b"}]
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
PAIR = (Message("user", "q"), Message("assistant", "a"))


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (CHAT, PAIR),
        ({"prompt": "q", "completion": "a"}, PAIR),
        ({"question": "q", "answer": "a"}, PAIR),
        ({"prompt": "q", "response": "a", "system": "s"}, (Message("system", "s"), *PAIR)),
        ({"text": "q", "ground_truth": "a"}, PAIR),
        ({"instruction": "q", "input": "", "output": "a"}, PAIR),
        ({"instruction": "q", "input": "more", "output": "a"}, (Message("user", "q\n\nmore"), PAIR[1])),
        (
            {"instruction": "q", "output": "a", "system": "s", "history": [["h", "i"]]},
            (Message("system", "s"), Message("user", "h"), Message("assistant", "i"), *PAIR),
        ),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, PAIR),
        ({"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, PAIR),
        ({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, PAIR),
        ({"text": "q", "label": "a"}, PAIR),
        ({"sentence": "q", "intent": "a"}, PAIR),
        ({"messages": [{"role": "User", "content": "q"}, {"role": "Chatbot", "content": "a"}]}, PAIR),
        ({"contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}]}, PAIR),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"text": "q"}]},
                    {"role": "assistant", "content": [{"text": "a"}]},
                ]
            },
            PAIR,
        ),
        ({"system": "s", **CHAT}, (Message("system", "s"), *PAIR)),
    ],
)
def test_formats_are_told_apart(row: dict[str, Any], messages: tuple[Message, ...], rows_file: Any) -> None:
    (example,) = load(rows_file([row]))
    assert example.messages == messages
    assert example.line == 1


@pytest.mark.parametrize(
    "row",
    [
        {
            "input": {"messages": CHAT["messages"][:1]},
            "preferred_output": CHAT["messages"][1:],
            "non_preferred_output": OTHER,
        },
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": CHAT["messages"][:1], "chosen": CHAT["messages"][1:], "rejected": OTHER},
        {"chosen": CHAT["messages"], "rejected": CHAT["messages"][:1] + OTHER},
        {"chosen_messages": CHAT["messages"], "rejected_messages": CHAT["messages"][:1] + OTHER},
        {
            "contents": [{"role": "user", "parts": [{"text": "q"}]}],
            "completions": [
                {"score": 0, "completion": {"role": "model", "parts": [{"text": "b"}]}},
                {"score": 1, "completion": {"role": "model", "parts": [{"text": "a"}]}},
            ],
        },
    ],
)
def test_preference_rows_of_every_shape(row: dict[str, Any], rows_file: Any) -> None:
    (example,) = load(rows_file([row]))
    assert example.messages == PAIR[:1]
    assert example.preference == ((PAIR[1],), (Message("assistant", "b"),))
    assert example.completion() == "a"
    assert example.prompt() == PAIR[:1]


def test_everything_a_chat_row_may_hold_is_kept(rows_file: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    row = {
        "messages": [
            {"role": "developer", "content": "s"},
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image_url", "image_url": {"url": "https://a/b.png", "detail": "low"}},
                ],
            },
            {"role": "assistant", "weight": 0, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "..."}}]},
            {"role": "assistant", "content": "done", "refusal": "no"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
        "parallel_tool_calls": False,
        "id": 7,
    }
    (example,) = load(rows_file([row]))
    system, user, calling, answer, sound, done = example.messages
    assert (system.role, system.raw_role) == ("system", "developer")
    assert user.content == (TextPart("see"), ImagePart("https://a/b.png", None, "low"))
    assert user.name == "ann"
    assert user.words == "see"
    assert len(user.images) == 1
    assert calling.tool_calls == (ToolCall("c1", "f", '{"x": 1}'),)
    assert not calling.trained
    assert (answer.role, answer.tool_call_id) == ("tool", "c1")
    assert isinstance(sound.content, tuple)
    assert isinstance(sound.content[0], OtherPart)
    assert done.extra == {"refusal": "no"}
    assert example.extra == {"parallel_tool_calls": False, "id": 7}
    from llmtune.data.formats.registry import get_format

    assert get_format("chat").write(example) == row


@pytest.mark.parametrize(
    ("content", "code", "phrases"),
    [
        (b'{"messages": [}', "json", "column 15"),
        (b"{'messages': 1}", "json", "double quotes"),
        (b'{"messages": NaN}', "json", "finite"),
        (b'{"messages": "\\ud83d"}', "json", "surrogate"),
        (b'{"messages": [', "json", "one line"),
        ('{"messages": "caf\xe9"}'.encode("latin-1"), "encoding", "ISO-8859-1"),
        (b'{"messages": "it\x92s"}', "encoding", "WINDOWS-1252"),
        (b'{"messages": "\xed\xa0\xbd\xed\xb8\x80"}', "encoding", "CESU-8"),
        (b'{"messages": "\xed\xa0\xbd"}', "encoding", "half"),
        (b"[1]", "row-shape", "a list"),
        (b"7", "row-shape", "a number"),
        (b'{"messages": {}}', "row-shape", "a list of messages"),
        (b'{"messages": []}', "empty-messages", "empty"),
        (b'{"messages": [{"role": "human", "content": "x"}]}', "role", "human"),
        (b'{"messages": [{"content": "x"}]}', "role", "no role"),
        (b'{"messages": [{"role": "user"}]}', "content", "no content"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "content", "a number"),
        (b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', "content", "text"),
        (b'{"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}', "weight", "0 or 1"),
        (b'{"messages": [{"role": "assistant", "content": "x", "weight": true}]}', "weight", "0 or 1"),
        (b'{"messages": [{"role": "assistant", "content": "x", "loss_weight": 0.5}]}', "weight", "0.5"),
        (b'{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "tool-call", "no function"),
        (
            b'{"messages": [{"role": "assistant", "tool_calls":'
            b' [{"id": "1", "function": {"name": "f", "arguments": "x"}}]}]}',
            "tool-arguments",
            "JSON object",
        ),
        (b'{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}', "tools", "no function"),
        (b'{"messages": [{"role": "user", "content": "x"}], "tools": {}}', "row-shape", "a list of tools"),
        (b'{"prompt": "x", "completion": "y"}', "mixed-formats", "prompt_completion"),
        (b'{"other": "x"}', "row-shape", "'other'"),
    ],
)
def test_faults_are_named_with_line_and_remedy(
    content: bytes, code: str, phrases: str, rows_file: Any, both: Any
) -> None:
    path = rows_file([CHAT, CHAT, content, CHAT])
    examples, findings = both(path)
    assert len(examples) == 3
    assert {(finding.code, finding.line) for finding in findings} == {(code, 3)}
    text = f"{findings[0].message} {findings[0].remedy}"
    assert phrases in text
    assert findings[0].file == str(path)
    assert str(findings[0]).startswith(f"{path}:3: error[{code}]")


def test_all_faults_of_a_row_in_one_pass(rows_file: Any, both: Any) -> None:
    row = {"messages": [{"role": "x", "content": 1}, "hi", {"role": "assistant", "content": "a", "weight": 3}]}
    _, findings = both(rows_file([row]))
    assert sorted(finding.code for finding in findings) == ["content", "role", "row-shape", "weight"]


def test_load_raises_with_the_first_place_and_all_findings(rows_file: Any) -> None:
    path = rows_file([CHAT, b"{", {"messages": []}, CHAT])
    with pytest.raises(InvalidData, match=r":2: broken JSON.*and 1 more") as refused:
        load(path)
    assert [finding.line for finding in refused.value.findings] == [2, 3]
    assert refused.value.hint


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_refused_with_the_command(encoding: str, tmp_path: Path, both: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"messages": []}\n'.encode(encoding))
    _, (finding,) = both(path)
    assert finding.code == "encoding"
    assert "iconv -f UTF-" in finding.remedy
    assert finding.line == 1


def test_a_byte_order_mark_is_a_warning(tmp_path: Path, both: Any) -> None:
    for name, text in (("rows.jsonl", '{"text": "x"}\n'), ("rows.json", '[{"text": "x"}]'), ("rows.csv", "text\nx\n")):
        path = tmp_path / name
        path.write_bytes(text.encode("utf-8-sig"))
        examples, (finding,) = both(path)
        assert [example.text for example in examples] == ["x"]
        assert (finding.code, finding.severity) == ("byte-order-mark", "warning")


def test_bare_carriage_returns_are_explained(tmp_path: Path, both: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "x"}\r{"text": "y"}\r')
    _, (finding,) = both(path)
    assert "tr '\\r' '\\n'" in finding.remedy


def test_json_arrays_and_objects_over_several_lines(tmp_path: Path, both: Any) -> None:
    import json

    for text in (json.dumps([CHAT, CHAT], indent=2), "\n".join(json.dumps(CHAT, indent=1) for _ in range(2))):
        path = tmp_path / "rows.json"
        path.write_text(text)
        examples, findings = both(path)
        assert [example.line for example in examples] == [1, 2]
        assert findings == []
    path.write_text('[{"text": "a"},\n {"text": "b" "c"},\n {"text": "d"}]')
    examples, (finding,) = both(path)
    assert len(examples) == 1
    assert "line 2, column 15" in finding.message
    path.write_text('[{"text": "a"}, {"text": "b"}')
    examples, (finding,) = both(path)
    assert len(examples) == 2
    assert "not closed" in finding.message


def test_a_large_array_is_read_in_pieces(tmp_path: Path) -> None:
    import json

    rows = [{"text": f'{number} {"é" * (number % 7)} \\ " ]'} for number in range(60_000)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False))
    assert path.stat().st_size > 1 << 20
    assert [example.text for example in load(path)] == [row["text"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), ("", gzip.compress)],
)
def test_compression_is_told_by_content(suffix: str, pack: Callable[[bytes], bytes], tmp_path: Path, both: Any) -> None:
    data = b'{"text": "x"}\n' * 150_000
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(pack(data))
    assert len(load(path)) == 150_000
    path.write_bytes(pack(data)[:-9])
    examples, findings = both(path)
    assert findings[-1].code == "unreadable"
    assert examples


def test_zstd(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "x"}\n'))
    assert load(path)[0].text == "x"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  "])
def test_empty_files_are_errors(content: bytes, tmp_path: Path, both: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    examples, findings = both(path)
    assert not examples
    assert "empty-file" in {finding.code for finding in findings if finding.is_error}


def test_what_is_no_dataset_is_named(tmp_path: Path, both: Any) -> None:
    for name, content, code in (
        ("a.jsonl", b'{"problem": "x", "solution": "y"}\n', "reinforcement-rows"),
        ("b.json", b'{"type": "score_model", "model": "m", "input": []}', "grader-config"),
        ("c.json", b'{"data": [{"text": "x"}]}', "unknown-format"),
        ("d.jsonl", b'{"prompt": "x", "completion": "y", "label": true}\n', "unpaired-preference"),
        ("e.bin", b"PK\x03\x04....", "container"),
        ("f.log", b"just words", "container"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        examples, findings = both(path)
        assert not examples
        assert [finding.code for finding in findings] == [code]
    assert both(tmp_path / "nowhere")[1][0].code == "unreadable"


def test_own_names_of_columns(rows_file: Any, both: Any) -> None:
    path = rows_file([{"problem": "q", "solution": "a", "prompt": "kept"}])
    (example,) = load(path, columns={"prompt": "problem", "completion": "solution"})
    assert example.messages == PAIR
    assert example.extra == {"original_prompt": "kept"}
    (example,) = load(rows_file([{"utt": "q", "kind": "a"}]), label_column="kind")
    assert (example.messages, example.label) == (PAIR, "a")
    _, (finding,) = both(rows_file([{"utt": "q"}]), label_column="kind")
    assert "no column 'kind'" in finding.message


def test_group_by(rows_file: Any, both: Any) -> None:
    path = rows_file([{**CHAT, "customer": 5}, CHAT])
    examples, (finding,) = both(path, group_by="customer")
    assert [example.group for example in examples] == ["5"]
    assert (finding.code, finding.line) == ("group", 2)


def test_labels_of_every_kind(rows_file: Any, both: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "q", "label": label} for label in ("a", 3, 2.0, True, ["x", "y"], 1.5, None, "")
    ]
    examples, findings = both(rows_file(rows))
    assert [example.label for example in examples] == ["a", "3", "2", "True", ("x", "y")]
    assert [finding.line for finding in findings] == [6, 7, 8]


def test_legacy_functions(rows_file: Any) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
            {"role": "assistant", "content": "a"},
        ],
        "functions": [{"name": "f", "parameters": {"type": "object", "properties": {}}}],
    }
    (example,) = load(rows_file([row]))
    assert example.messages[1].tool_calls == (ToolCall("call_1", "f", "{}"),)
    assert (example.messages[2].role, example.messages[2].tool_call_id) == ("tool", "call_1")
    assert example.tools[0]["type"] == "function"


def test_unknown_format_names_are_answered(rows_file: Any) -> None:
    with pytest.raises(UnknownName, match="did you mean 'chat'"):
        load(rows_file([CHAT]), "chta")


def test_a_reader_stops_when_its_user_does(rows_file: Any) -> None:
    items = read(rows_file([CHAT] * 10))
    assert isinstance(next(items), Example)
    items.close()  # type: ignore[attr-defined]


def test_a_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1....")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="pyarrow") as missing:
        load(path)
    assert missing.value.hint == "pip install 'llmtune-sdk[data]'"


def test_findings_speak_in_one_line() -> None:
    finding = Finding("json", "error", "broken", "fix it", "rows.jsonl", 3)
    assert str(finding) == "rows.jsonl:3: error[json] broken (fix it)"
    assert finding.as_dict()["line"] == 3


def findings_of(tmp_path: Path, rows: Any, name: str = "rows.jsonl", **options: Any) -> list[Finding]:
    path = tmp_path / name
    path.write_bytes(rows if isinstance(rows, bytes) else b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return [row for row in read(path, **options) if isinstance(row, Finding)]


@pytest.mark.parametrize("key", ["audio", "audios", "videos", "images", "image", "video"])
def test_media_beside_the_messages_are_told(tmp_path: Path, key: str) -> None:
    turns = [{"from": "human", "value": "What is said?"}, {"from": "gpt", "value": "Hello"}]
    (finding,) = findings_of(tmp_path, [{"conversations": turns, key: ["a.wav"]}])
    assert (finding.code, finding.severity, finding.line) == ("media-beside", "warning", 1)
    assert repr(key) in finding.message


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b'// my rows\n{"text": "a"}\n', "rows.jsonl"),
        (b'{"text": "a"}\n// more\n{"text": "b"}\n', "rows.jsonl"),
        (b'[\n  // first\n  {"text": "a"}\n]\n', "rows.json"),
        (b'[{"text": /* here */ "a"}]\n', "rows.json"),
        (b"# rows\n", "rows"),
    ],
)
def test_json_with_comments_is_called_that(tmp_path: Path, text: bytes, name: str) -> None:
    findings = findings_of(tmp_path, text, name)
    assert any("JSON with comments" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([{"nr": "1", "frage": "Wann?", "antwort": "Um acht."}], "--column prompt=frage --column completion=antwort"),
        (
            [{"satz": f"Satz Nummer {number}", "art": "ab"[number % 2]} for number in range(8)],
            "--column text=satz --column label=art",
        ),
        ([{"dialog": [{"role": "user", "content": "q"}], "x": "y"}], "--column messages=dialog"),
    ],
)
def test_the_hint_names_columns_that_work(tmp_path: Path, rows: Any, options: str) -> None:
    (finding,) = findings_of(tmp_path, rows)
    assert finding.code == "unknown-format"
    assert options in finding.remedy
    columns = dict(option.removeprefix("--column ").strip().split("=") for option in options.split(" --column "))
    again = findings_of(tmp_path, rows, columns=columns)
    assert not [finding for finding in again if finding.is_error and finding.code != "role"]


def test_the_columns_that_are_read_are_named_as_the_file_has_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"utterance": "late again", "intent": "complaint", "id": 1}\n')
    assert Reading(path).columns() == {"text": "utterance", "label": "intent"}
    path.write_bytes(b'{"frage": "Wann?", "context": "Holm", "antwort": "Um acht.", "id": 1}\n')
    reading = Reading(path, columns={"prompt": "frage", "completion": "antwort"})
    assert reading.columns() == {"prompt": "frage + context", "completion": "antwort"}


LONG = 314159265358979323846264338327
CALLED = [
    {"role": "user", "parts": [{"text": "q"}]},
    {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"n": LONG}}}]},
    {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"n": 1}}}]},
    {"role": "model", "parts": [{"text": "a"}]},
]
ANSWERED = [
    *CALLED[:1],
    {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
    {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"n": LONG}}}]},
    *CALLED[3:],
]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": LONG}}}


@pytest.mark.parametrize(
    "row",
    [
        {"contents": CALLED},
        {"contents": ANSWERED},
        CHAT | {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
        {"text": "t", "label": LONG},
    ],
)
def test_a_number_of_which_digits_are_lost_refuses_its_row(rows_file: Any, row: dict[str, Any]) -> None:
    (finding,) = read(rows_file([json.dumps(row).encode()]))
    assert isinstance(finding, Finding)
    assert (finding.is_error, finding.line) == (True, 1)
    rows = read(rows_file([json.dumps(CHAT | {"id": LONG}).encode()], "b.jsonl"))
    assert all(isinstance(row, Example) for row in rows), "a key that is not read loses nothing that is learned"


@pytest.mark.parametrize("name", ["Question", "question", "QUESTION"])
@pytest.mark.parametrize("table", [True, False])
def test_a_named_column_is_found_in_any_case(name: str, table: bool, tmp_path: Path) -> None:
    path = tmp_path / ("rows.csv" if table else "rows.jsonl")
    path.write_text("Question,My reply\nq,a\n" if table else '{"Question": "q", "My reply": "a"}\n')
    (finding,) = read(path)
    assert isinstance(finding, Finding)
    assert "--column completion='My reply'" in finding.remedy
    assert load(path, columns={"prompt": name, "completion": "my reply"})[0].messages == PAIR


def test_a_hint_names_no_column_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id;What they say;Kind of it\n100001;hello;x\n100002;hi you;y\n")
    (finding,) = read(path)
    assert isinstance(finding, Finding)
    assert "--column prompt='What they say' --column completion='Kind of it'" in finding.remedy
