"""Tables and folders: CSV and TSV with and without a header, Parquet, Arrow, saved datasets, and the hub."""

from __future__ import annotations

import json
import sys
import types
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.data.convert import convert
from llmtune.data.dataset import Dataset
from llmtune.data.example import Example, Message
from llmtune.data.findings import Finding
from llmtune.data.io.folders import find_splits
from llmtune.data.io.reading import load, read
from llmtune.data.io.tables import to_json_value
from llmtune.errors import InvalidData, MissingExtra
from llmtune.job.spec import DatasetSpec

LABELLED = [
    ("how do I pay, please?", "pay"),
    ("where is\nmy card", "card"),
    ('say "hi"', "pay"),
    ("lost it", "card"),
] * 3


def table(rows: list[tuple[str, ...]], delimiter: str = ",") -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("header", [("text", "category"), ("Category", "Text"), None, "swapped"])
def test_text_and_label_in_either_order_with_or_without_a_header(delimiter: str, header: Any, tmp_path: Path) -> None:
    swapped = header == "swapped" or header == ("Category", "Text")
    rows: list[tuple[str, ...]] = [(label, text) if swapped else (text, label) for text, label in LABELLED]
    if isinstance(header, tuple):
        rows.insert(0, header)
    path = tmp_path / ("rows.tsv" if delimiter == "\t" else "rows.csv")
    path.write_bytes(table(rows, delimiter).encode())
    examples = load(path)
    assert [(example.prompt()[0].content, example.label) for example in examples] == LABELLED
    lines = path.read_bytes().split(b"\r\n")
    first = 1 if isinstance(header, tuple) else 0
    assert examples[0].line == first + 1
    assert lines[first].startswith((b'"how', b"how", b"pay"))


def test_tables_of_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,id\nq,a,1\n")
    (example,) = load(path)
    assert example.messages == (Message("user", "q"), Message("assistant", "a"))
    assert example.extra == {"id": "1"}
    path.write_text("instruction,input,output\nq,more,a\n")
    assert load(path)[0].messages[0].content == "q\n\nmore"
    path.write_text("prompt,chosen,rejected\nq,a,b\n")
    assert load(path)[0].preference is not None


def test_faults_of_tables_are_named(tmp_path: Path, both: Any) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\none,a\ntwo,b,c\nthree,a\n")
    examples, (finding,) = both(path)
    assert len(examples) == 2
    assert (finding.code, finding.line) == ("csv", 3)
    path.write_text("a,b,c\n1,2,3\n")
    _, (finding,) = both(path)
    assert "header" in finding.remedy
    path.write_text('text,label\none,a\n"two,b\n')
    _, findings = both(path)
    assert findings[-1].code == "csv"
    path.write_bytes("text,label\ncaf\xe9,a\n".encode("latin-1"))
    _, findings = both(path)
    assert (findings[-1].code, findings[-1].line) == ("encoding", 2)
    path.write_text("same,same\nsome,some\n")
    _, findings = both(path)
    assert "either column" in findings[0].message


def test_a_header_of_own_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("anliegen,thema\nq,a\n")
    (example,) = load(path, columns={"text": "anliegen", "label": "thema"})
    assert (example.prompt()[0].content, example.label) == ("q", "a")
    (example,) = load(path, label_column="thema")
    assert (example.prompt()[0].content, example.label) == ("q", "a")


pyarrow = pytest.importorskip("pyarrow")


def _class_label_table() -> Any:
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
    }
    schema = pyarrow.schema(
        [("text", pyarrow.string()), ("label", pyarrow.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    return pyarrow.table({"text": ["good", "bad", "fine"], "label": [1, 0, 1]}, schema=schema)


def _write_arrow(path: Path, table: Any, kind: str) -> None:
    if kind == "parquet":
        from pyarrow import parquet

        parquet.write_table(table, path)
        return
    open_writer = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as sink, open_writer(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_parquet_and_arrow_with_class_names(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("rows.parquet" if kind == "parquet" else "rows.arrow")
    _write_arrow(path, _class_label_table(), kind)
    assert [(example.prompt()[0].content, example.label) for example in load(path)] == [
        ("good", "pos"),
        ("bad", "neg"),
        ("fine", "pos"),
    ]


def test_chat_rows_in_parquet(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}] * 3
    path = tmp_path / "rows.parquet"
    _write_arrow(path, pyarrow.Table.from_pylist(rows), "parquet")
    assert [example.line for example in load(path)] == [1, 2, 3]
    assert load(path)[0].completion() == "a"


def test_damaged_parquet(tmp_path: Path, both: Any) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1" + b"\x00" * 40)
    _, findings = both(path)
    assert findings[0].code == "unreadable"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Write a dataset folder as `save_to_disk` does, with three splits."""
    folder = tmp_path / "saved"
    for name in ("train", "validation", "test"):
        (folder / name).mkdir(parents=True)
        for shard in range(2):
            _write_arrow(folder / name / f"data-{shard:05d}-of-00002.arrow", _class_label_table(), "stream")
        (folder / name / "state.json").write_text("{}")
        (folder / name / "dataset_info.json").write_text("{}")
        _write_arrow(folder / name / "cache-1.arrow", _class_label_table(), "stream")
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    return folder


def test_a_saved_dataset(saved: Path, both: Any) -> None:
    assert {name: len(files) for name, files in find_splits(saved).items()} == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }
    assert len(load(saved / "train")) == 6
    _, (finding,) = both(saved)
    assert finding.code == "splits"
    dataset = Dataset.from_spec(DatasetSpec(path=str(saved)))
    assert dataset.counts == {"train": 6, "validation": 6, "test": 6}
    assert dataset.labels == ["neg", "pos"]
    assert len(dataset.sha256) == 64


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        _write_arrow(tmp_path / "data" / f"{name}.parquet", _class_label_table(), "parquet")
    assert {name: len(files) for name, files in find_splits(tmp_path).items()} == {"test": 1, "train": 2}


def test_an_empty_folder(tmp_path: Path, both: Any) -> None:
    _, (finding,) = both(tmp_path)
    assert finding.code == "empty-file"


class _FakeHub(types.ModuleType):
    """Stands for the datasets library, which the tests neither need nor let onto the network."""

    class ClassLabel:
        names = ("neg", "pos")

    def __init__(self) -> None:
        super().__init__("datasets")
        self.asked: list[Any] = []

    def load_dataset(self, name: str, config: str | None, **kwargs: Any) -> Any:
        self.asked.append((name, config, kwargs))
        if name == "owner/missing":
            raise FileNotFoundError("no such dataset")
        rows = [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]

        class Stream(list[dict[str, Any]]):
            features = {"text": object(), "label": self.ClassLabel()}

        return Stream(rows)


def test_the_hub_is_read_through_its_library(monkeypatch: pytest.MonkeyPatch, both: Any) -> None:
    hub = _FakeHub()
    monkeypatch.setitem(sys.modules, "datasets", hub)
    examples = load("hf://owner/name?config=en&split=test&revision=v1")
    assert [(example.line, example.label) for example in examples] == [(1, "pos"), (2, "neg")]
    assert hub.asked == [("owner/name", "en", {"split": "test", "revision": "v1", "streaming": True})]
    _, (finding,) = both("hf://owner/missing")
    assert finding.code == "unreadable"
    with pytest.raises(InvalidData, match="unknown option 'spilt'"):
        load("hf://owner/name?spilt=test")


def test_the_hub_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra) as missing:
        list(read("hf://owner/name"))
    assert missing.value.hint == "pip install 'llmtune-sdk[hub]'"


def read_table(
    tmp_path: Path, text: str | bytes, name: str = "rows.csv", **options: Any
) -> tuple[list[Any], list[Finding]]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    items = list(read(path, **options))
    rows = [(row.messages[0].words, row.completion()) for row in items if isinstance(row, Example)]
    return rows, [row for row in items if isinstance(row, Finding)]


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
    examples = [row for row in read(path) if isinstance(row, Example)]
    assert [example.messages[1].tool_calls[0].arguments for example in examples] == ['{"city":"Vik"}', '{"sku":"A1"}']


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_padding_is_all_that_is_taken_away(value: Any) -> None:
    def padded(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: padded(inner) for key, inner in part.items()} | {"\0padded": None}
        return [padded(inner) for inner in part] if isinstance(part, list) else part

    assert to_json_value(padded(value)) == value


@pytest.mark.parametrize("kind", ["parquet", "file"])
def test_values_that_json_has_not_are_read_as_text_and_written(kind: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    row = {
        "prompt": b"q \xc3\xa4",
        "completion": "a",
        "price": Decimal("1.50"),
        "count": Decimal("3.00"),
        "seen": datetime(2026, 3, 1, 12, 30),
        "day": date(2026, 3, 1),
        "blob": b"\xff\xfe",
        "tags": [("k", 1)],
    }
    tags = pyarrow.map_(pyarrow.string(), pyarrow.int64())
    columns = {key: pyarrow.array([value] * 3, tags if key == "tags" else None) for key, value in row.items()}
    path = tmp_path / f"rows.{'parquet' if kind == 'parquet' else 'arrow'}"
    _write_arrow(path, pyarrow.table(columns), kind)
    (example, *_) = load(path)
    assert example.messages == (Message("user", "q ä"), Message("assistant", "a"))
    assert example.extra == {
        "price": "1.50",
        "count": 3,
        "seen": "2026-03-01T12:30:00",
        "day": "2026-03-01",
        "blob": "//4=",
        "tags": [["k", 1]],
    }
    assert convert(path, tmp_path / "out.jsonl", "chat").rows == 3
