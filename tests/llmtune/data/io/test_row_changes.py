"""Empty answers left out and system turns folded in, as the caller asked, and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from llmtune.cli.data.app import app
from llmtune.data.checks.check import check
from llmtune.data.convert import convert
from llmtune.data.dataset import Dataset
from llmtune.data.example import Example, ImagePart, Message, TextPart
from llmtune.data.findings import Finding
from llmtune.data.io.reading import load, read
from llmtune.data.io.row_changes import fold_system, has_empty_answer
from llmtune.errors import InvalidData, UnknownName
from llmtune.job.spec import DatasetSpec


def chat(question: str, answer: Any, **keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer} | keys]}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows = [chat(f"q{number}", f"a{number}") for number in range(20)]
    rows[3:3] = [chat("empty", ""), chat("blank", "  "), {"messages": []}]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def test_rows_with_an_empty_answer_are_an_error_unless_they_are_dropped(mixed: Path) -> None:
    assert check(mixed).errors == 3
    report = check(mixed, on_empty="drop")
    assert report.errors == report.warnings == 0
    assert report.files[0].stats.rows == 20
    (finding,) = [finding for finding in report.findings if finding.code == "dropped-empty"]
    assert (finding.severity, finding.line) == ("info", 4)
    assert "3 rows with an empty answer were left out" in finding.message


def test_a_job_drops_them_too(mixed: Path) -> None:
    with pytest.raises(InvalidData):
        Dataset.from_spec(DatasetSpec(path=str(mixed)))
    dataset = Dataset.from_spec(DatasetSpec(path=str(mixed), on_empty="drop"))
    assert sum(dataset.counts.values()) == 20
    assert [finding.code for finding in dataset.findings] == ["dropped-empty"]


@pytest.mark.parametrize(
    ("row", "empty"),
    [
        ({"text": " "}, True),
        ({"prompt": "q", "chosen": "", "rejected": "b"}, True),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, False),
        ({"prompt": "", "completion": "a"}, False),
        (chat("q", "", weight=0), False),
        (chat("q", None, tool_calls=[{"id": "c", "function": {"name": "f", "arguments": "{}"}}]), False),
    ],
)
def test_what_counts_as_empty_is_what_would_be_learned(tmp_path: Path, row: dict[str, Any], empty: bool) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row) + b"\n")
    (example,) = [row for row in read(path) if isinstance(row, Example)]
    assert has_empty_answer(example) == empty


def test_a_file_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nlate,\nearly,\n", encoding="utf-8")
    codes = [finding.code for finding in read(path, on_empty="drop") if isinstance(finding, Finding)]
    assert codes == ["empty-file", "dropped-empty"]


def test_system_turns_are_folded_into_the_first_user_turn(tmp_path: Path) -> None:
    path, target = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    row = chat("Open?", "Yes.")
    row["messages"].insert(0, {"role": "system", "content": "Be brief."})
    path.write_bytes(orjson.dumps(row) + b"\n" + orjson.dumps(chat("q", "a")) + b"\n")
    done = convert(path, target, "chat", system="fold")
    assert [(finding.code, finding.severity) for finding in done.findings] == [("folded-system", "info")]
    assert "1 row has" in done.findings[0].message
    assert [[turn.content for turn in example.messages] for example in load(target)] == [
        ["Be brief.\n\nOpen?", "Yes."],
        ["q", "a"],
    ]


WORDS = st.text(min_size=1, max_size=12)


@given(system=WORDS, question=WORDS | st.lists(WORDS.map(TextPart), min_size=1).map(tuple), late_system=st.booleans())
def test_folding_loses_no_word_and_only_moves_leading_turns(system: str, question: Any, late_system: bool) -> None:
    turns = [Message("system", system), Message("user", question), Message("assistant", "a")]
    if late_system:
        turns = [*turns, Message("system", system), Message("user", "more"), Message("assistant", "b")]
    folded, _ = fold_system([Example(tuple(turns))])
    assert isinstance(folded, Example)
    assert folded.messages[1:] == tuple(turns[2:])
    assert folded.messages[0].role == "user"
    before, between = system, "\n" if isinstance(question, tuple) else "\n\n"
    assert folded.messages[0].words == before + between + turns[1].words


def test_the_commands_take_both_and_say_what_they_did(mixed: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["check", str(mixed)]).exit_code == 2
    assert run(app, ["check", str(mixed), "--on-empty", "drop"]).exit_code == 0
    done = run(app, ["split", str(mixed), "--into", str(tmp_path / "parts"), "--on-empty", "drop"])
    assert done.exit_code == 0
    assert "3 rows with an empty answer were left out" in done.stderr
    for option in ("--on-empty", "--system"):
        with pytest.raises(UnknownName, match="choice for"):
            run(app, ["check", str(mixed), option, "sometimes"], catch_exceptions=False)


@pytest.mark.parametrize("system", ["keep", "fold"])
@pytest.mark.parametrize("turns", [1, 2])
def test_findings_name_turns_by_their_place_in_the_row_folded_or_not(turns: int, system: str, tmp_path: Path) -> None:
    rules = [{"role": "system", "content": f"Rule {number}."} for number in range(turns)]
    turns_of_row = [*rules, *chat("q", "a")["messages"], *chat("again", "")["messages"]]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps({"messages": turns_of_row}) + b"\n")
    (finding,) = (entry for entry in check(path, system=system).findings if entry.is_error)
    assert finding.message.startswith(f"messages[{turns_of_row.index(turns_of_row[-1])}]: the answer is empty")


def test_a_system_prompt_beside_the_turns_is_not_counted_when_it_is_folded(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": ""}]}
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row) + b"\n")
    (finding,) = (entry for entry in check(path, system="fold").findings if entry.is_error)
    assert finding.message.startswith("conversations[1]: the answer is empty")


def test_nothing_of_a_system_turn_is_lost_when_it_is_folded() -> None:
    image_turn = Message("system", (TextPart("Look:"), ImagePart("https://example.org/a.png")))
    row = Example((image_turn, Message("user", "q"), Message("assistant", "a")), line=1)
    assert next(iter(fold_system([row]))) == row, "an image has no place in a text"
    noted = Message("system", "Be brief.", extra={"source": "the handbook of the harbour office"})
    (folded, _) = fold_system([row.replace(messages=(noted, *row.messages[1:]))])
    assert isinstance(folded, Example)
    assert folded.messages[0] == Message("user", "Be brief.\n\nq", extra=noted.extra)
