"""Tables and folders: CSV and TSV with and without a header, Parquet, Arrow, saved datasets, and the hub."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.dataset import Dataset
from llmtune.data.example import Message
from llmtune.data.io.folders import folder_splits
from llmtune.data.io.reading import load, read
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
    """A dataset folder as `save_to_disk` lays it out, with three splits."""
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
    assert {name: len(files) for name, files in folder_splits(saved).items()} == {
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
    assert {name: len(files) for name, files in folder_splits(tmp_path).items()} == {"test": 1, "train": 2}


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
