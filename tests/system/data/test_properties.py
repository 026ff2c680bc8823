"""Whatever the rows hold: none is lost, none invented, and what a format can carry comes back as it was."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmtune.data.convert import is_fatal, write
from llmtune.data.example import Example, Message, Preference, ToolCall
from llmtune.data.findings import Finding
from llmtune.data.formats.registry import all_formats, get_format
from llmtune.data.io.reading import read
from llmtune.data.split import split

#: Text with what breaks readers: line separators that are no line ends, quotes, control characters, empty ends.
TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c\r\n\t\"\\'{}[]<>\ufeff\u200b🎉é"),
    ),
    min_size=1,
    max_size=40,
).filter(str.strip)
CALLS = st.tuples(
    st.text("abc123", min_size=1, max_size=6),
    st.text("abc_", min_size=1, max_size=8),
    st.dictionaries(st.text("xy", min_size=1), st.integers(-(2**53), 2**53) | TEXTS, max_size=2).map(
        lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    ),
).map(lambda call: ToolCall(*call))


@st.composite
def conversations(draw: st.DrawFn, *, weights: bool = True, calls: bool = True) -> tuple[Message, ...]:
    messages = [Message("system", draw(TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(TEXTS)))
        weight = draw(st.sampled_from([None, 0, 1])) if weights else None
        if calls and draw(st.integers(0, 3)) == 0:
            made = tuple(draw(st.lists(CALLS, min_size=1, max_size=2, unique_by=lambda call: call.id)))
            messages.append(Message("assistant", None, made, weight=weight))
            messages += [Message("tool", draw(TEXTS), tool_call_id=call.id) for call in made]
        messages.append(Message("assistant", draw(TEXTS), weight=weight))
    return tuple(messages)


CHATS = conversations().map(Example)
PLAIN_CHATS = conversations(weights=False, calls=False).map(Example)
PAIRS = st.tuples(TEXTS, TEXTS, TEXTS).map(
    lambda texts: Example(
        (Message("user", texts[0]),),
        preference=Preference((Message("assistant", texts[1]),), (Message("assistant", texts[2]),)),
    )
)
SINGLES = st.tuples(TEXTS, TEXTS).map(
    lambda texts: Example((Message("user", texts[0]), Message("assistant", texts[1])))
)
PLAIN_TEXTS = TEXTS.map(lambda text: Example(text=text))
ANY = st.one_of(CHATS, PLAIN_CHATS, PAIRS, SINGLES, PLAIN_TEXTS)

slow_enough = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def examples_of(path: Path, format: str = "auto") -> list[Example]:
    items = list(read(path, format))
    assert [item for item in items if isinstance(item, Finding) and item.is_error] == []
    return [item.replace(line=None) for item in items if isinstance(item, Example)]


@slow_enough
@given(
    rows=st.lists(CHATS, min_size=1, max_size=6), suffix=st.sampled_from([".jsonl", ".json", ".jsonl.gz", ".jsonl.xz"])
)
def test_chat_rows_come_back_from_every_container(rows: list[Example], suffix: str, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("rows") / f"rows{suffix}"
    assert write(rows, path, "chat").rows == len(rows)
    assert examples_of(path, "chat") == rows


@slow_enough
@given(
    rows=st.lists(PAIRS, min_size=1, max_size=5),
    name=st.sampled_from(["preference", "preference_pair", "preference_messages"]),
)
def test_preference_rows_come_back_in_every_shape(rows: list[Example], name: str, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write(rows, path, name)
    assert examples_of(path) == rows


@slow_enough
@given(rows=st.lists(SINGLES, min_size=1, max_size=5), suffix=st.sampled_from([".csv", ".tsv", ".parquet", ".jsonl"]))
def test_questions_and_answers_come_back_from_tables(rows: list[Example], suffix: str, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("rows") / f"rows{suffix}"
    write(rows, path, "prompt_completion")
    assert examples_of(path) == rows


@settings(max_examples=300)
@given(example=ANY, name=st.sampled_from(sorted(all_formats())))
def test_what_a_format_can_carry_comes_back(example: Example, name: str) -> None:
    fmt = get_format(name)
    problems = fmt.problems(example)
    if any(is_fatal(problem, allow_lossy=False) for problem in problems):
        # refused for a reason: the format says which, and with what to do
        assert all(problem.message for problem in problems)
        return
    faults: list[Finding] = []
    back = fmt.read(orjson.loads(orjson.dumps(fmt.write(example))), None, faults)
    assert [fault for fault in faults if fault.is_error] == []
    changed = {problem.code for problem in problems}
    if not changed:
        # a label is read where a short answer was written as one; the turns are what counts
        assert _meant(back.replace(label=None)) == _meant(example)
    elif changed == {"changed-tool-ids"}:
        assert [_without_ids(turn) for turn in back.messages] == [_without_ids(turn) for turn in example.messages]


def _meant(example: Example) -> Example:
    """Weight 1 on an answer says what no weight says."""
    return example.replace(
        messages=tuple(
            turn.replace(weight=None) if turn.role == "assistant" and turn.weight == 1 else turn
            for turn in example.messages
        )
    )


def _without_ids(turn: Message) -> Any:
    calls = [(call.name, json.loads(call.arguments)) for call in turn.tool_calls]
    words: Any = turn.words
    if turn.role == "tool":
        try:
            words = json.loads(turn.words)
        except ValueError:
            words = turn.words
    return turn.role, words, calls


@slow_enough
@given(
    rows=st.lists(SINGLES, min_size=1, max_size=8),
    end=st.sampled_from([b"\n", b"\r\n"]),
    final=st.booleans(),
    blanks=st.lists(st.integers(0, 8), max_size=3),
    packed=st.booleans(),
)
def test_line_ends_blank_lines_and_compression_lose_nothing(
    rows: list[Example], end: bytes, final: bool, blanks: list[int], packed: bool, tmp_path_factory: Any
) -> None:
    fmt = get_format("chat")
    lines = [orjson.dumps(fmt.write(row)) for row in rows]
    for place in blanks:
        lines.insert(min(place, len(lines)), b"" if place % 2 else b"  ")
    data = end.join(lines) + (end if final else b"")
    path = tmp_path_factory.mktemp("rows") / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(data) if packed else data)
    items = list(read(path))
    found = [item for item in items if isinstance(item, Example)]
    assert [item.replace(line=None) for item in found] == rows
    split_lines = data.split(b"\n")
    for item, row in zip(found, rows, strict=True):
        assert item.line is not None
        assert orjson.loads(split_lines[item.line - 1]) == fmt.write(row)
    codes = {item.code for item in items if isinstance(item, Finding)}
    assert ("line-endings" in codes) == (b"\r\n" in data)
    assert codes <= {"line-endings", "blank-line"}


@slow_enough
@given(
    good=st.lists(SINGLES, min_size=1, max_size=6),
    bad=st.lists(
        st.tuples(
            st.integers(0, 6),
            st.sampled_from([b'{"messages": [', b"nonsense", b"[1, 2]", b'{"messages": 7}', b"\xff\xfe\xfd"]),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_every_bad_line_is_told_and_no_good_one_lost(
    good: list[Example], bad: list[tuple[int, bytes]], tmp_path_factory: Any
) -> None:
    fmt = get_format("chat")
    lines = [orjson.dumps(fmt.write(row)) for row in good]
    for place, line in bad:
        lines.insert(1 + min(place, len(lines) - 1), line)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    items = list(read(path))
    assert [item.replace(line=None) for item in items if isinstance(item, Example)] == good
    told = {item.line for item in items if isinstance(item, Finding) and item.is_error}
    assert told == {number for number, line in enumerate(lines, 1) if line in {text for _, text in bad}}


@settings(max_examples=40)
@given(
    questions=st.lists(st.text("abcdefgh ", min_size=3, max_size=12).filter(str.strip), min_size=4, max_size=40),
    groups=st.lists(st.sampled_from("pqrs"), min_size=40, max_size=40),
    seed=st.integers(0, 5),
    near=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_no_prompt_or_group_lies_on_two_sides_whatever_the_order(
    questions: list[str], groups: list[str], seed: int, near: bool, order: Any
) -> None:
    rows = [
        Example(
            (Message("user", text), Message("assistant", "x")), line=number, group=groups[number] if seed % 2 else None
        )
        for number, text in enumerate(questions)
    ]
    parts = split(rows, (0.6, 0.2, 0.2), seed=seed, keep_similar=near)
    side_of: dict[str, int] = {}
    for side, part in enumerate(parts[:3]):
        for row in part:
            keys = [" ".join(row.messages[0].words.split())] + ([f"group {row.group}"] if row.group else [])
            for key in keys:
                assert side_of.setdefault(key, side) == side
    assert sum(len(part) for part in parts[:3]) == len(rows)
    shuffled = list(rows)
    order.shuffle(shuffled)
    again = split(shuffled, (0.6, 0.2, 0.2), seed=seed, keep_similar=near)
    for one, other in zip(parts[:3], again[:3], strict=True):
        assert {row.line for row in one} == {row.line for row in other}


def test_a_row_of_26_kilobytes_and_one_of_three_megabytes(tmp_path: Path) -> None:
    rows = [
        Example((Message("user", "q" * size), Message("assistant", "a\u2028b"))) for size in (26_000, 3_000_000, 10)
    ]
    path = tmp_path / "rows.jsonl"
    write(rows, path, "chat")
    assert examples_of(path) == rows


@pytest.mark.slow
def test_a_million_rows_stream_through_in_bounded_memory(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        for start in range(0, 1_000_000, 10_000):
            file.write(
                b"".join(
                    b'{"messages":[{"role":"user","content":"%d\\u2028?"},{"role":"assistant","content":"%d"}]}\n'
                    % (number, number)
                    for number in range(start, start + 10_000)
                )
            )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = total = 0
    for item in read(path):
        assert isinstance(item, Example)
        count += 1
        total += int(item.completion())
        assert item.line == count
    assert (count, total) == (1_000_000, 499_999_500_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kilobytes


@settings(max_examples=200)
@given(
    example=st.one_of(ANY, st.tuples(ANY, TEXTS).map(lambda pair: pair[0].replace(extra={"key": pair[1]}))),
    name=st.sampled_from(sorted(all_formats())),
)
def test_a_row_whose_features_need_no_check_has_no_findings(example: Example, name: str) -> None:
    from llmtune.data.checks.per_row import _check_closely
    from llmtune.data.formats.row_features import PLAIN, features

    bits = features(example)
    if not bits & ~PLAIN:
        assert list(_check_closely(example, None)) == []
    fmt = get_format(name)
    if not bits & ~fmt.lossless_features:
        assert fmt.problems(example) == []
