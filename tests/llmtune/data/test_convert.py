"""Writing and converting: whole or not at all, by row, and the same bytes every time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.convert import convert, encode, write
from llmtune.data.example import Example, Message, chat
from llmtune.data.findings import FindingLog
from llmtune.data.io.reading import load
from llmtune.errors import InvalidData, LlmtuneError, UnknownName

ROWS = [chat(("user", f"q{number}"), ("assistant", f"a{number}"), line=number) for number in range(1, 1300)]
MASKED = Example(
    (Message("user", "q"), Message("assistant", "a", weight=0), Message("user", "q"), Message("assistant", "b"))
)


@pytest.mark.parametrize(
    "suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.zst", ".json.bz2"]
)
def test_every_container_comes_back(suffix: str, tmp_path: Path) -> None:
    if "parquet" in suffix:
        pytest.importorskip("pyarrow")
    if "zst" in suffix:
        pytest.importorskip("zstandard")
    path = tmp_path / f"rows{suffix}"
    done = write(ROWS, path, "prompt_completion")
    assert (done.rows, done.size) == (len(ROWS), path.stat().st_size)
    assert done.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [row.messages for row in load(path)] == [row.messages for row in ROWS]
    again = write(ROWS, tmp_path / f"again{suffix}", "prompt_completion")
    assert again.sha256 == done.sha256
    assert list(tmp_path.iterdir()) == [path, tmp_path / f"again{suffix}"] or len(list(tmp_path.iterdir())) == 2


def test_losses_refuse_and_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [ROWS[0], MASKED.replace(line=2), ROWS[2], MASKED.replace(line=4)]
    with pytest.raises(InvalidData, match=r"line 2: claude rows cannot carry weight 0.*and 1 more") as refused:
        write(rows, path, "claude")
    assert [finding.line for finding in refused.value.findings] == [2, 4]
    assert list(tmp_path.iterdir()) == []
    done = write(rows, path, "claude", allow_lossy=True)
    assert done.rows == 4
    assert [(finding.line, finding.severity) for finding in done.findings] == [(2, "warning"), (4, "warning")]


def test_what_is_impossible_is_refused_even_when_losses_are_allowed(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="cannot carry plain text without turns"):
        write([Example(text="words")], tmp_path / "rows.jsonl", "chat", allow_lossy=True)
    with pytest.raises(InvalidData, match="need a preferred and a rejected answer"):
        write(ROWS[:1], tmp_path / "rows.jsonl", "preference", allow_lossy=True)


def test_encode_without_a_log_raises_at_the_first_loss() -> None:
    lines = encode([ROWS[0], MASKED.replace(line=9)], "gemini")
    assert next(lines).endswith(b"\n")
    with pytest.raises(InvalidData, match="line 9"):
        next(lines)
    log = FindingLog()
    assert len(list(encode([ROWS[0], MASKED], "gemini", log=log))) == 1
    assert log.errors == 1


def test_tables_refuse_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="'messages' holds more than a text"):
        write(ROWS, tmp_path / "rows.csv", "chat")
    with pytest.raises(InvalidData, match="'id' is not a column"):
        write([ROWS[0], ROWS[1].replace(extra={"id": 1})], tmp_path / "rows.csv", "prompt_completion")
    assert list(tmp_path.iterdir()) == []


def test_convert_refuses_faulty_sources_with_all_findings(rows_file: Any, tmp_path: Path) -> None:
    good = {"prompt": "q", "completion": "a"}
    source = rows_file([good, {"prompt": "q"}, b"{", {"prompt": "q", "completion": ""}])
    target = tmp_path / "out.jsonl"
    with pytest.raises(InvalidData) as refused:
        convert(source, target, "chat")
    assert [(finding.line, finding.code) for finding in refused.value.findings] == [
        (2, "row-shape"),
        (3, "json"),
        (4, "empty-content"),
    ]
    assert not target.exists()


def test_convert_does_not_overwrite_unless_told(rows_file: Any, tmp_path: Path) -> None:
    source = rows_file([{"prompt": "q", "completion": "a"}])
    target = tmp_path / "out.jsonl"
    assert convert(source, target, "chat").format == "chat"
    with pytest.raises(LlmtuneError, match="already there"):
        convert(source, target, "chat")
    assert convert(source, target, "alpaca", overwrite=True).format == "alpaca"
    with pytest.raises(UnknownName):
        convert(source, target, "alpacca", overwrite=True)


def test_a_file_may_be_converted_onto_itself(rows_file: Any) -> None:
    path = rows_file([{"prompt": f"q{number}", "completion": "a"} for number in range(1000)])
    assert convert(path, path, "chat", overwrite=True).rows == 1000
    assert len(load(path, "chat")) == 1000


def test_convert_maps_columns_and_names_a_provider(rows_file: Any, tmp_path: Path) -> None:
    source = rows_file([{"frage": "q", "antwort": "a"}])
    target = tmp_path / "out.jsonl"
    done = convert(source, target, "vertex", columns={"prompt": "frage", "completion": "antwort"})
    assert done.format == "gemini"
    assert load(target)[0].messages == (Message("user", "q"), Message("assistant", "a"))


def test_the_folds_of_system_prompts_are_told(tmp_path: Path) -> None:
    row = chat(("system", "be brief"), ("user", "q"), ("assistant", "a"), line=1)
    done = write([row], tmp_path / "rows.jsonl", "prompt_completion")
    assert [(finding.code, finding.severity) for finding in done.findings] == [("changed-system", "warning")]
    assert load(tmp_path / "rows.jsonl")[0].messages[0] == Message("user", "be brief\n\nq")


def test_a_provider_is_asked_by_the_method_that_the_rows_are_for(rows_file: Any, tmp_path: Path) -> None:
    pairs = rows_file([{"prompt": f"q{at}", "chosen": "a", "rejected": "b"} for at in range(3)], "pairs.jsonl")
    plain = rows_file([chat_row(f"q{at}") for at in range(3)], "plain.jsonl")
    assert convert(pairs, tmp_path / "a.jsonl", "openai").format == "openai_preference"
    for path, method, code in ((plain, "dpo", "not-preference"), (pairs, "sft", "preference-in-sft")):
        with pytest.raises(InvalidData) as refused:
            convert(path, tmp_path / "b.jsonl", "together", method=method)
        assert {finding.code for finding in refused.value.findings} == {code}
    with pytest.raises(InvalidData) as refused:  # a backend without such a method: its rows cannot carry the pair
        convert(pairs, tmp_path / "b.jsonl", "cohere")
    assert "lost-preference" in {finding.code for finding in refused.value.findings}


def test_a_row_with_none_of_several_labels_is_converted_as_it_is_checked(rows_file: Any, tmp_path: Path) -> None:
    rows = rows_file([{"text": f"q{at}", "label": ["a", "b"][: at % 3]} for at in range(9)], "several.jsonl")
    assert convert(rows, tmp_path / "a.jsonl", "local", method="classification").rows == 9
    assert convert(rows, tmp_path / "b.jsonl", "local").format == "labelled"


def chat_row(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "a"}]}
