"""The split: exact where it can be, the same in every order, and without a leak."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.checks.check import check
from llmtune.data.convert import write
from llmtune.data.dataset import Dataset
from llmtune.data.example import Example, Message, chat
from llmtune.data.hashing import label_of, label_set, prompt_text
from llmtune.data.io.reading import load
from llmtune.data.split import split
from llmtune.errors import InvalidData
from llmtune.job.spec import DatasetSpec

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
needs_material = pytest.mark.skipif(not SHARED.is_dir(), reason="the material folder beside the checkout is not here")


def rows(count: int, labels: int = 0) -> list[Example]:
    def answer(number: int) -> str:
        return f"label{number % labels}" if labels else f"answer {number}" * 20

    return [
        chat(("user", f"question number {n} about {n * 7919}"), ("assistant", answer(n)), line=n) for n in range(count)
    ]


def assert_apart(sides: list[set[Any]]) -> None:
    """No two of the three sets share anything."""
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def lines(part: list[Example]) -> set[int | None]:
    return {row.line for row in part}


def test_shares_and_counts_are_met() -> None:
    assert [len(part) for part in split(rows(1000))[:3]] == [800, 100, 100]
    assert [len(part) for part in split(rows(10))[:3]] == [8, 1, 1]
    assert [len(part) for part in split(rows(2), (0.5, 0.25, 0.25))[:3]] == [1, 0, 1]
    assert [len(part) for part in split(rows(100), (1.0, 0.0, 0.0))[:3]] == [100, 0, 0]
    assert [len(part) for part in split(rows(100), (60, 30, 10))[:3]] == [60, 30, 10]
    cut = split(rows(100), (50, 20, 10))
    assert [len(part) for part in cut[:3]] == [50, 20, 10]
    assert [finding.code for finding in cut.findings] == ["left-out"]
    with pytest.raises(InvalidData, match="asks for 200 rows and there are 100"):
        split(rows(100), (100, 50, 50))


def test_another_seed_is_another_cut_and_the_same_seed_the_same() -> None:
    first, again, reseeded = (split(rows(300), seed=seed) for seed in (1, 1, 2))
    assert lines(first.test) == lines(again.test)
    assert lines(first.test) != lines(reseeded.test)


def test_labels_keep_their_shares() -> None:
    examples = [row.replace(label=f"l{min(row.line or 0, 70) // 10}") for row in rows(1000)]
    cut = split(examples)
    for part, share in ((cut.validation, 0.1), (cut.test, 0.1)):
        counts = Counter(label_of(row) for row in part)
        for label, size in Counter(label_of(row) for row in examples).items():
            assert abs(counts[label] - size * share) <= 1
    plain = split(examples, stratify=False)
    assert lines(plain.test) != lines(cut.test)


def test_a_label_with_one_row_stays_in_train() -> None:
    examples = [row.replace(label="rare" if row.line == 5 else "common") for row in rows(50)]
    assert 5 in lines(split(examples).train)


def test_groups_stay_together() -> None:
    examples = [row.replace(extra={"customer": (row.line or 0) // 5}) for row in rows(200)]
    cut = split(examples, group_by="customer")
    sides = [{(row.extra or {})["customer"] for row in part} for part in cut[:3]]
    assert_apart(sides)
    assert sum(len(part) for part in cut[:3]) == 200
    with pytest.raises(InvalidData, match="there is no 'shop' in line 0"):
        split(examples, group_by="shop")


def test_equal_prompts_of_different_groups_join_them() -> None:
    examples = [row.replace(group=str(row.line)) for row in rows(40)]
    same = examples[0].messages
    examples = [row.replace(messages=same) if row.line in (3, 17, 29) else row for row in examples]
    cut = split(examples, (0.5, 0.25, 0.25))
    assert sum(bool({0, 3, 17, 29} & lines(part)) for part in cut[:3]) == 1


def test_case_and_white_space_make_no_other_prompt() -> None:
    examples = rows(30)
    examples.append(chat(("user", "Question   NUMBER 3\nabout 23757"), ("assistant", "x"), line=99))
    for seed in range(6):
        cut = split(examples, (0.4, 0.3, 0.3), seed=seed, keep_similar=False)
        assert next(part for part in cut[:3] if 3 in lines(part)) is next(part for part in cut[:3] if 99 in lines(part))


def test_nearly_equal_prompts_stay_together() -> None:
    base = [f"the {'-'.join(random.Random(number).choices('abcdefghij', k=40))} thing" for number in range(60)]
    examples = [chat(("user", text), ("assistant", "x" * 90), line=number) for number, text in enumerate(base)]
    examples += [
        chat(("user", f"{text}!"), ("assistant", "y" * 90), line=1000 + number) for number, text in enumerate(base)
    ]
    for seed in range(4):
        cut = split(examples, (0.5, 0.25, 0.25), seed=seed)
        for part in cut[:3]:
            assert {(line or 0) % 1000 for line in lines(part) if (line or 0) < 1000} == {
                (line or 0) % 1000 for line in lines(part) if (line or 0) >= 1000
            }
    apart = split(examples, (0.5, 0.25, 0.25), keep_similar=False)
    assert {(line or 0) % 1000 for line in lines(apart.test) if (line or 0) < 1000} != {
        (line or 0) % 1000 for line in lines(apart.test) if (line or 0) >= 1000
    }


def test_a_set_made_from_one_template_is_still_cut() -> None:
    template = "Given the following long list of rules which never changes, answer the question about item "
    examples = [
        chat(("user", f"{template * 3}{number}"), ("assistant", f"{number} " * 40), line=number)
        for number in range(300)
    ]
    cut = split(examples)
    assert 15 <= len(cut.test) <= 45
    assert 15 <= len(cut.validation) <= 45


def test_the_system_prompt_that_all_rows_share_makes_none_alike() -> None:
    system = ("system", "You are a helpful assistant who answers briefly and to the point. " * 5)
    examples = [
        chat(system, ("user", random.Random(number).randbytes(8).hex()), ("assistant", "x" * 90), line=number)
        for number in range(400)
    ]
    assert [len(part) for part in split(examples)[:3]] == [320, 40, 40]


@needs_material
@pytest.mark.parametrize("source", ["originals/banking77/train.csv", "chat/banking77/train.jsonl"])
def test_the_split_of_banking77_leaks_nothing_and_does_not_depend_on_order(source: str, tmp_path: Path) -> None:
    examples = load(SHARED / source)
    cut = split(examples)
    sides = {row.line: side for side, part in enumerate(cut[:3]) for row in part}
    shuffled = list(examples)
    random.Random(5).shuffle(shuffled)
    again = split(shuffled)
    assert sides == {row.line: side for side, part in enumerate(again[:3]) for row in part}
    prompts = [{prompt_text(row) for row in part} for part in cut[:3]]
    assert_apart(prompts)
    labels = [set(label_set(part) or ()) for part in cut[:3]]
    assert labels[0] == labels[1] == labels[2]
    assert len(labels[0]) == 77
    assert abs(len(cut.test) - len(examples) / 10) <= 10
    for name, part in zip(("train", "validation", "test"), cut[:3], strict=True):
        write(part, tmp_path / f"{name}.jsonl", "chat")
    report = check(tmp_path / "train.jsonl", tmp_path / "validation.jsonl", tmp_path / "test.jsonl")
    assert not {"leakage", "near-leakage"} & set(report.counts)


@needs_material
def test_shuffling_the_file_itself_changes_nothing(tmp_path: Path) -> None:
    source = SHARED / "chat/banking77/train.jsonl"
    text = source.read_bytes().splitlines(keepends=True)
    random.Random(1).shuffle(text)
    (tmp_path / "shuffled.jsonl").write_bytes(b"".join(text))
    first = Dataset.from_spec(DatasetSpec(path=str(source)))
    second = Dataset.from_spec(DatasetSpec(path=str(tmp_path / "shuffled.jsonl")))
    for part in ("train", "validation", "test"):
        assert {prompt_text(row) for row in getattr(first, part)} == {prompt_text(row) for row in getattr(second, part)}
    assert first.labels == second.labels


def test_label_sets_follow_their_rule() -> None:
    assert label_set(rows(20, labels=4)) == ["label0", "label1", "label2", "label3"]
    assert label_set(rows(20)) is None  # long answers
    numbers = [row.replace(messages=(Message("user", "q"), Message("assistant", str(row.line)))) for row in rows(20)]
    assert label_set(numbers) is None  # each only once
    assert label_set([row.replace(label="one") for row in rows(3)]) == ["one"]
    assert label_set([]) is None


def test_a_dataset_from_three_files(tmp_path: Path, rows_file: Any) -> None:
    paths = {}
    for name, (first, last) in {"train": (0, 30), "validation": (30, 35), "test": (33, 40)}.items():
        path = tmp_path / f"{name}.jsonl"
        write(rows(40)[first:last], path, "chat")
        paths[name] = str(path)
    dataset = Dataset.from_spec(DatasetSpec(**paths))
    assert dataset.counts == {"train": 30, "validation": 5, "test": 7}
    assert {finding.code for finding in dataset.findings} == {"leakage"}
    assert [finding.line for finding in dataset.findings] == [1, 2]
    assert set(dataset.files) == {"train", "validation", "test"}
    assert dataset.kind == "chat"
    assert dataset.labels is None


def test_a_dataset_holds_out_what_is_not_given(tmp_path: Path) -> None:
    write(rows(100), tmp_path / "train.jsonl", "chat")
    write(rows(120)[110:], tmp_path / "test.jsonl", "chat")
    dataset = Dataset.from_spec(DatasetSpec(train="train.jsonl", test="test.jsonl"), tmp_path)
    assert dataset.counts == {"train": 90, "validation": 10, "test": 10}


def test_a_dataset_of_one_file_hashes_as_the_file(tmp_path: Path) -> None:
    import hashlib

    write(rows(100), tmp_path / "rows.jsonl", "chat")
    dataset = Dataset.from_spec(DatasetSpec(path="rows.jsonl", split=(70, 20, 10)), tmp_path)
    assert dataset.counts == {"train": 70, "validation": 20, "test": 10}
    assert dataset.sha256 == hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest()
    assert dataset.source == str(tmp_path / "rows.jsonl")


def test_a_dataset_with_errors_is_refused_with_all_of_them(rows_file: Any) -> None:
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    path = rows_file([good, {"messages": [{"role": "user", "content": "q"}]}, b"{", good])
    with pytest.raises(InvalidData) as refused:
        Dataset.from_spec(DatasetSpec(path=str(path)))
    assert [(finding.line, finding.code) for finding in refused.value.findings if finding.is_error] == [
        (2, "distillation-row"),
        (3, "json"),
    ]
    with pytest.raises(InvalidData, match="learns from pairs"):
        Dataset.from_spec(DatasetSpec(path=str(rows_file([good]))), method="dpo")


def test_a_dataset_grouped_by_a_key(rows_file: Any) -> None:
    path = rows_file(
        [
            {"prompt": f"question {number} {number * 31}", "completion": f"{number}" * 70, "who": number // 4}
            for number in range(80)
        ]
    )
    dataset = Dataset.from_spec(DatasetSpec(path=str(path), group_by="who"))
    sides = [{row.group for row in part} for part in (dataset.train, dataset.validation, dataset.test)]
    assert_apart(sides)
