"""Dataset folders by their splits, and datasets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from llmtune._safety.telemetry import turn_off_telemetry
from llmtune.data.findings import Finding, error
from llmtune.data.io.base import Raw, Sniffed, sniff
from llmtune.errors import InvalidData, MissingExtra

_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}


def folder_splits(path: Path) -> dict[str, list[Path]]:
    """The data files of a dataset folder by split: a saved Hugging Face dataset, or data files named by split.

    A folder without split names has the one key "train".
    """
    split_folders = {child.name: child for child in sorted(path.iterdir()) if child.is_dir()}
    found: dict[str, list[Path]] = {}
    for name, child in split_folders.items():
        if name in _SPLITS and (files := _data_files(child)):
            found.setdefault(_SPLITS[name], []).extend(files)
    if found:
        return found
    files = _data_files(path) or (_data_files(path / "data") if (path / "data").is_dir() else [])
    for file in files:
        word = file.name.split(".")[0].split("-")[0].lower()
        found.setdefault(_SPLITS.get(word, "train"), []).append(file)
    return found


def _data_files(folder: Path) -> list[Path]:
    skipped = ("dataset_info.json", "state.json", "dataset_dict.json")
    kinds = (".arrow", ".parquet", ".jsonl", ".json", ".csv", ".tsv", ".gz", ".zst")
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in kinds and file.name not in skipped and not file.name.startswith(("cache-", "."))
    )


def folder_rows(path: Path, read_file: Callable[[Path, Sniffed], Iterator[Raw | Finding]]) -> Iterator[Raw | Finding]:
    """The rows of the one split that a folder holds, numbered over its files; `read_file` yields those of one."""
    splits = folder_splits(path)
    if not splits:
        yield error("empty-file", "the folder holds no data files", "give a folder of .arrow, .parquet or .jsonl files")
        return
    if len(splits) > 1:
        found = ", ".join(splits)
        yield error("splits", f"the folder holds several splits ({found})", f"name one: {path}/{next(iter(splits))}")
        return
    number = 0
    for file in next(iter(splits.values())):
        sniffed = sniff(file)
        if isinstance(sniffed, Finding):
            yield sniffed
            continue
        for item in read_file(file, sniffed):
            if isinstance(item, Finding):
                yield item._replace(message=f"{file.name}: {item.message}")
                continue
            number += 1
            yield number, item[1]


def hub_rows(address: str) -> Iterator[Raw | Finding]:
    """The rows of `hf://owner/name[?config=...&split=train&revision=...]`, streamed through the datasets library."""
    from llmtune.data.io.tables import as_json

    try:
        turn_off_telemetry()
        import datasets
    except ImportError as fault:
        raise MissingExtra("hub", "datasets", purpose="datasets of the hub") from fault
    parts = urlsplit(address)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    unknown = set(query) - {"config", "split", "revision"}
    if unknown:
        raise InvalidData(f"{address}: unknown option {sorted(unknown)[0]!r}; known: config, split, revision")
    name = f"{parts.netloc}{parts.path}"
    split = query.get("split", "train")
    try:
        found = datasets.load_dataset(
            name, query.get("config"), split=split, revision=query.get("revision"), streaming=True
        )
        names = {
            key: feature.names
            for key, feature in (found.features or {}).items()
            if isinstance(feature, datasets.ClassLabel)
        }
        for number, padded in enumerate(found, 1):
            row = {key: as_json(value) for key, value in padded.items()}
            for key, labels in names.items():
                value = row.get(key)
                if isinstance(value, int) and 0 <= value < len(labels):
                    row[key] = labels[value]
            yield number, row
    except (OSError, ValueError, ConnectionError) as fault:
        yield error(
            "unreadable", f"the hub's dataset cannot be read: {fault}", "check the name, the split and the network"
        )
