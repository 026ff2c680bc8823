"""Tables as spreadsheets and data frames write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.io.reading import read
from llmtune.data.io.tables import without_padding


def read_table(
    tmp_path: Path, text: str | bytes, name: str = "rows.csv", **options: Any
) -> tuple[list[Any], list[Finding]]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    items = list(read(path, **options))
    rows = [(item.messages[0].words, item.completion()) for item in items if isinstance(item, Example)]
    return rows, [item for item in items if isinstance(item, Finding)]


ROWS = [("the lock is stuck", "repair"), ("boats at noon?", "times")]


@pytest.mark.parametrize(
    "text",
    [
        ",text,label\n0,the lock is stuck,repair\n1,boats at noon?,times\n",
        "Unnamed: 0,text,label\n0,the lock is stuck,repair\n1,boats at noon?,times\n",
        "text,label,,\nthe lock is stuck,repair,,\nboats at noon?,times,,\n",
        "text,label\nthe lock is stuck,repair,,\nboats at noon?,times\n",
        "sep=;\ntext;label\nthe lock is stuck;repair\nboats at noon?;times\n",
        "\ufeffsep=;\r\ntext;label\r\nthe lock is stuck;repair\r\nboats at noon?;times\r\n",
        "\ufefftext,label\nthe lock is stuck,repair\nboats at noon?,times\n",
        "Text,LABEL\nthe lock is stuck,repair\nboats at noon?,times\n",
    ],
)
def test_what_spreadsheets_and_data_frames_add_is_no_data(tmp_path: Path, text: str) -> None:
    rows, findings = read_table(tmp_path, text)
    assert rows == ROWS
    assert {finding.code for finding in findings} <= {"byte-order-mark"}


def test_empty_rows_are_skipped_with_one_warning(tmp_path: Path) -> None:
    rows, findings = read_table(tmp_path, "text,label\nthe lock is stuck,repair\n,\nboats at noon?,times\n,,\n")
    assert rows == ROWS
    (finding,) = findings
    assert (finding.code, finding.line) == ("blank-line", 3)
    assert "2 rows" in finding.message


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("frage,antwort", {"text": "frage", "label": "antwort"}),
        (",frage,antwort", {"text": "frage", "label": "antwort"}),
        ("frage,text,antwort", {"text": "frage", "label": "antwort"}),
        ("frage,label,antwort", {"text": "frage", "label": "antwort"}),
        ("frage,prompt,antwort", {"prompt": "frage", "completion": "antwort"}),
        ("frage,chosen,antwort", {"prompt": "frage", "completion": "antwort"}),
    ],
)
def test_named_columns_always_win(tmp_path: Path, header: str, columns: dict[str, str]) -> None:
    names = header.split(",")
    lines = [",".join({"frage": q, "antwort": a}.get(name, "9") for name in names) for q, a in ROWS]
    rows, findings = read_table(tmp_path, "\n".join([header, *lines]), columns=columns)
    assert findings == []
    assert rows == ROWS


def test_a_header_nobody_knows_is_no_row_in_silence(tmp_path: Path) -> None:
    _, findings = read_table(tmp_path, "client_msg,our_reply\nWhere is it?,On its way\nRefund?,No\n")
    (finding,) = findings
    assert (finding.code, finding.line) == ("header-as-row", 1)
    assert "--column text=client_msg --column label=our_reply" in finding.remedy
    _, findings = read_table(tmp_path, "wo,was,wann\nHolm,Pier,heute\n")
    assert "--column text=wo --column label=was" in findings[0].remedy


def test_rows_without_a_header_are_not_taken_for_one(tmp_path: Path) -> None:
    _, findings = read_table(tmp_path, "stuck,repair\nnoon,times\nlate,times\nbroken,repair\n")
    assert findings == []


def test_nulls_that_arrow_pads_objects_with_are_not_arguments(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def row(arguments: dict[str, Any]) -> dict[str, Any]:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        return {"messages": [*turns, {"role": "tool", "content": "1", "tool_call_id": "c"}]}

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row({"city": "Vik"}), row({"sku": "A1"})]), path)
    examples = [item for item in read(path) if isinstance(item, Example)]
    assert [example.messages[1].tool_calls[0].arguments for example in examples] == ['{"city":"Vik"}', '{"sku":"A1"}']


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_padding_is_all_that_is_taken_away(value: Any) -> None:
    def padded(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: padded(inner) for key, inner in part.items()} | {"\0padded": None}
        return [padded(inner) for inner in part] if isinstance(part, list) else part

    assert without_padding(padded(value)) == value
