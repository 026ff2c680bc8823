"""Held-out files beside a training file, and the name of a job, both by the names of files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmtune.data.dataset import Dataset
from llmtune.data.example import Example
from llmtune.data.hashing import label_of, label_set
from llmtune.data.io.base import HUB
from llmtune.errors import InvalidData
from llmtune.job.spec import DatasetSpec

#: How files call the part that they hold.
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "heldout", "held_out"),
}
#: Endings of files that hold rows, and of compressed ones.
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
#: Names of files that say nothing about the task: a job is named after their folder.
GENERIC = frozenset(("data", "dataset", "rows", "examples", "all", "full", "set", "split", *sum(PARTS.values(), ())))


@dataclass(frozen=True)
class DatasetFiles:
    """A dataset as a job would name it, read; `notes` say which files were found beside it and what became of them."""

    spec: DatasetSpec
    dataset: Dataset
    notes: tuple[str, ...] = ()


def open_dataset(path: str) -> DatasetFiles:
    """Read a dataset, with the validation and test files that lie beside it.

    A file beside it that cannot be used is left out, and a note says why. Raises `InvalidData` with the findings when
    the dataset itself cannot be trained on.
    """
    parts, notes = find_parts(path)
    while parts:
        spec = DatasetSpec(train=path, validation=parts.get("validation"), test=parts.get("test"))
        problems = {}
        try:
            dataset = Dataset.from_spec(spec)
        except InvalidData:
            Dataset.from_spec(DatasetSpec(path=path))  # where the training rows themselves are wrong, it ends here
            problems = {part: problem for part, file in parts.items() if (problem := _find_fault(file))}
            problems = problems or dict.fromkeys(parts, "it does not go with the training rows")
        else:
            held_out = {"validation": dataset.validation, "test": dataset.test}
            problems = {part: problem for part in parts if (problem := _find_mismatch(dataset.train, held_out[part]))}
        if not problems:
            names = " and ".join(f"{Path(file).name} ({part})" for part, file in parts.items())
            return DatasetFiles(spec, dataset, (f"found beside it: {names}", *notes))
        notes += [f"{parts[part]} is not used for {part}: {problem}" for part, problem in problems.items()]
        parts = {part: file for part, file in parts.items() if part not in problems}
    spec = DatasetSpec(path=path)
    return DatasetFiles(spec, Dataset.from_spec(spec), tuple(notes))


def find_parts(path: str) -> tuple[dict[str, str], list[str]]:
    """Return the validation and test files beside a training file, by part, and notes on names that are not clear.

    A file named for training (train.csv, tickets-train.csv, data_train.jsonl) has the same name with another part;
    any other file (tickets.csv) has its own name and a part (tickets-test.csv, tickets_test.csv).
    """
    if path.startswith(HUB) or "://" in path or not Path(path).is_file():
        return {}, []
    file = Path(path)
    stem, endings = split_name(file)
    part = part_of(stem)
    if part in ("validation", "test"):
        stem_of_part = re.compile(_as_words(PARTS[part]), re.IGNORECASE)
        names = [stem_of_part.sub(suffix, stem, count=1) for suffix in PARTS["train"]]
        training = _find_file(file.parent, names, endings)
        note = f"{file.name} is named for {part}, and {training.name} lies beside it" if training else ""
        return {}, [f"{note}: give that one to train on it"] if training else []
    parts = {}
    for role in ("validation", "test"):
        if part == "train":
            suffix = re.compile(_as_words(PARTS["train"]), re.IGNORECASE)
            names = [suffix.sub(_in_case_of(file.stem, name), stem, count=1) for name in PARTS[role]]
        else:
            names = [f"{stem}{mark}{name}" for name in PARTS[role] for mark in ("-", "_", ".")]
        match = _find_file(file.parent, names, endings)
        if match is not None:
            parts[role] = str(match)
    if part == "train" or parts:
        return parts, []
    return parts, _note_other_parts(file, endings)


def name_job(path: str) -> str:
    """Return a job's name: that of its file, or of the folder of a file that is called train, data or the like."""
    stem = path.rpartition("/")[2].partition("?")[0] if path.startswith(HUB) else split_name(Path(path))[0]
    name = _without_part(stem)
    if name.casefold() in GENERIC and not path.startswith(HUB):
        folders = [_without_part(folder.name) for folder in Path(path).resolve().parents if folder.name]
        name = next((folder for folder in folders if folder.casefold() not in GENERIC), name)
    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-").lower() or "my-job"


def split_name(file: Path) -> tuple[str, str]:
    """Return a file's name without and with only its endings: ("tickets", ".csv.gz")."""
    name, endings = file.name, ""
    for _ in range(2):
        stem, dot, ending = name.rpartition(".")
        if not stem or f".{ending.lower()}" not in (*ENDINGS, *COMPRESSED):
            break
        name, endings = stem, f"{dot}{ending}{endings}"
    return name, endings


def part_of(stem: str) -> str | None:
    """Return the part that a file's name says it holds: train, validation or test."""
    return next(
        (part for part, name_parts in PARTS.items() if re.search(_as_words(name_parts), stem, re.IGNORECASE)), None
    )


def _as_words(name_parts: tuple[str, ...]) -> str:
    """Return a pattern of these words where no letter or digit touches them."""
    longest_first = "|".join(sorted(name_parts, key=len, reverse=True))
    return rf"(?:^|(?<=[^A-Za-z0-9]))(?:{longest_first})(?![A-Za-z0-9])"


def _without_part(stem: str) -> str:
    for name_parts in PARTS.values():
        shorter = re.sub(_as_words(name_parts), "", stem, flags=re.IGNORECASE).strip("-_. ")
        stem = shorter or stem
    return stem


def _in_case_of(stem: str, suffix: str) -> str:
    return suffix.upper() if stem.isupper() else suffix


def _find_file(folder: Path, names: list[str], endings: str) -> Path | None:
    """Return the first file of these names: with the same endings, else with any that rows are stored in."""
    for suffix in (endings, *(ending for ending in ENDINGS if ending != endings)):
        for name in names:
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    return None


def _note_other_parts(file: Path, endings: str) -> list[str]:
    """Return a note on files called test or validation that lie beside a file whose name is not theirs."""
    notes = []
    for role in ("validation", "test"):
        match = _find_file(file.parent, list(PARTS[role]), endings)
        if match is not None:
            notes.append(
                f"{match.name} lies beside it and is not used: if it belongs to it, write"
                f" dataset: {{train: {file.name}, {role}: {match.name}}}"
            )
    return notes


def _find_fault(file: str) -> str:
    """Return why a file cannot be read as rows; empty where it can."""
    try:
        Dataset.from_spec(DatasetSpec(train=file, split=(1, 0, 0)))
    except InvalidData as problem:
        return f"{problem.message} (llmtune data check {file})"
    return ""


def _find_mismatch(train: Sequence[Example], held_out: Sequence[Example]) -> str:
    """Return why these rows cannot test what is learned from the training rows; empty where they can."""
    kinds = [Dataset(train=rows).kind for rows in (train, held_out)]
    if kinds[0] != kinds[1]:
        return f"its rows are {kinds[1]} rows, and the training rows are {kinds[0]} rows"
    labels = label_set(train)
    if labels is None or kinds[0] != "chat":
        return ""
    unknown = Counter(label_of(row) or row.completion() for row in held_out)
    for label in labels:
        unknown.pop(label, None)
    if not unknown:
        return ""
    label, count = unknown.most_common(1)[0]
    text = label if len(label) <= 40 else f"{label[:39]}…"
    return f"no training row has the label {text!r}, and {count:,} of its rows have"
