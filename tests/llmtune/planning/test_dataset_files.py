"""Held-out files beside a training file, and names of jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidData
from llmtune.planning.dataset_files import find_parts, name_job, open_dataset

Write = Callable[..., Path]


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def colours(start: int, count: int, labels: tuple[str, ...] = ("red", "blue")) -> list[dict[str, Any]]:
    return [chat(f"which colour has thing {n}", labels[n % len(labels)]) for n in range(start, start + count)]


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("{}\n")


@pytest.mark.parametrize(
    ("training", "validation", "test"),
    [
        ("train.jsonl", "validation.jsonl", "test.jsonl"),
        ("train.csv", "valid.csv", "test.csv"),
        ("train.jsonl", "dev.jsonl", None),
        ("data_train.jsonl", None, "data_test.jsonl"),
        ("orders-train.json", "orders-val.json", "orders-test.json"),
        ("train.orders.tsv", None, "test.orders.tsv"),
        ("train.jsonl.gz", "validation.jsonl.gz", "test.jsonl"),
        ("orders.csv", "orders_dev.csv", "orders-test.csv"),
        ("Train.csv", None, "test.csv"),
    ],
)
def test_the_files_beside_it_are_found(training: str, validation: str | None, test: str | None, tmp_path: Path) -> None:
    names = [name for name in (training, validation, test) if name]
    touch(tmp_path, *names, "notes.txt", "latest.jsonl", "contrast.csv", "strained.jsonl")
    parts, notes = find_parts(str(tmp_path / training))
    assert {role: Path(path).name for role, path in parts.items()} == {
        role: name for role, name in (("validation", validation), ("test", test)) if name
    }
    assert notes == []


def test_a_test_file_of_another_name_is_pointed_out_and_not_taken(tmp_path: Path) -> None:
    touch(tmp_path, "all.jsonl", "test.jsonl")
    parts, notes = find_parts(str(tmp_path / "all.jsonl"))
    assert parts == {}
    assert len(notes) == 1
    assert "test.jsonl lies beside it and is not used" in notes[0]


def test_who_gives_the_test_file_is_pointed_to_the_training_file(tmp_path: Path) -> None:
    touch(tmp_path, "orders-train.csv", "orders-test.csv")
    parts, notes = find_parts(str(tmp_path / "orders-test.csv"))
    assert parts == {}
    assert "orders-train.csv lies beside it" in notes[0]


def test_a_folder_and_an_address_of_the_hub_have_nothing_beside_them(tmp_path: Path) -> None:
    touch(tmp_path / "orders", "train.jsonl", "test.jsonl")
    assert find_parts(str(tmp_path / "orders")) == ({}, [])
    assert find_parts("hf://someone/orders") == ({}, [])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("orders.jsonl", "orders"),
        ("Orders 2026.CSV", "orders-2026"),
        ("orders_train.csv.gz", "orders"),
        ("train-orders.parquet", "orders"),
        ("orders/train.jsonl", "orders"),
        ("orders/data/train.jsonl", "orders"),
        ("orders/data_train.jsonl", "orders"),
        ("hf://someone/orders?split=train", "orders"),
        ("注文.jsonl", "my-job"),
    ],
)
def test_a_job_is_named_after_its_file_or_its_folder(path: str, name: str) -> None:
    assert name_job(path) == name


def test_all_three_files_make_the_dataset(tmp_path: Path, json_lines: Write) -> None:
    train = json_lines(tmp_path / "train.jsonl", colours(0, 40))
    json_lines(tmp_path / "dev.jsonl", colours(100, 10))
    json_lines(tmp_path / "test.jsonl", colours(200, 12))
    files = open_dataset(str(train))
    assert files.dataset.counts == {"train": 40, "validation": 10, "test": 12}
    assert set(files.spec.paths) == {"train", "validation", "test"}
    assert files.notes == ("found beside it: dev.jsonl (validation) and test.jsonl (test)",)


def test_without_a_validation_file_rows_are_held_out_of_the_training_rows(tmp_path: Path, json_lines: Write) -> None:
    train = json_lines(tmp_path / "train.jsonl", colours(0, 40))
    json_lines(tmp_path / "test.jsonl", colours(200, 12))
    files = open_dataset(str(train))
    assert files.dataset.counts["test"] == 12
    assert files.dataset.counts["train"] + files.dataset.counts["validation"] == 40
    assert files.dataset.counts["validation"] > 0


def test_files_that_do_not_go_with_it_are_left_out_with_the_reason(tmp_path: Path, json_lines: Write) -> None:
    train = json_lines(tmp_path / "train.jsonl", colours(0, 40))
    json_lines(tmp_path / "validation.jsonl", [{"messages": [{"role": "user", "content": "no answer"}]}])
    json_lines(tmp_path / "test.jsonl", colours(200, 12, ("red", "green")))
    files = open_dataset(str(train))
    assert files.spec.paths == {"path": str(train)}
    text = "\n".join(files.notes)
    assert "validation.jsonl is not used for validation: " in text
    assert "test.jsonl is not used for test: no training row has the label 'green', and 6 of its rows have" in text


def test_preference_rows_are_not_tested_with_plain_answers(tmp_path: Path, json_lines: Write) -> None:
    rows = [{"prompt": f"greet {n}", "chosen": f"hello {n}", "rejected": f"go away {n}"} for n in range(30)]
    train = json_lines(tmp_path / "train.jsonl", rows)
    json_lines(tmp_path / "test.jsonl", colours(0, 10))
    files = open_dataset(str(train))
    assert files.spec.paths == {"path": str(train)}
    assert "its rows are chat rows, and the training rows are preference rows" in files.notes[0]


def test_wrong_training_rows_are_refused_whatever_lies_beside_them(tmp_path: Path, json_lines: Write) -> None:
    train = json_lines(tmp_path / "train.jsonl", [{"messages": [{"role": "user", "content": "no answer"}]}])
    json_lines(tmp_path / "test.jsonl", colours(0, 10))
    with pytest.raises(InvalidData, match=r"train\.jsonl"):
        open_dataset(str(train))
