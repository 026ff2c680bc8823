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


def find_splits(path: Path) -> dict[str, list[Path]]:
    """Return the data files of a dataset folder by split: a saved Hugging Face dataset, or data files named by split.

    A folder without split names has the single key "train".
    """
    split_folders = {child.name: child for child in sorted(path.iterdir()) if child.is_dir()}
    splits: dict[str, list[Path]] = {}
    for name, child in split_folders.items():
        if name in _SPLITS and (files := _list_data_files(child)):
            splits.setdefault(_SPLITS[name], []).extend(files)
    if splits:
        return splits
    files = _list_data_files(path) or (_list_data_files(path / "data") if (path / "data").is_dir() else [])
    for file in files:
        prefix = file.name.split(".")[0].split("-")[0].lower()
        splits.setdefault(_SPLITS.get(prefix, "train"), []).append(file)
    return splits


def _list_data_files(folder: Path) -> list[Path]:
    skipped = ("dataset_info.json", "state.json", "dataset_dict.json")
    kinds = (".arrow", ".parquet", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".gz", ".zst")
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in kinds and file.name not in skipped and not file.name.startswith(("cache-", "."))
    )


def read_folder(path: Path, read_file: Callable[[Path, Sniffed], Iterator[Raw | Finding]]) -> Iterator[Raw | Finding]:
    """Yield the rows of a folder of one split, numbered over its files; `read_file` yields the rows of one file."""
    splits = find_splits(path)
    if not splits:
        yield error("empty-file", "the folder holds no data files", "give a folder of .arrow, .parquet or .jsonl files")
        return
    if len(splits) > 1:
        names = ", ".join(splits)
        yield error("splits", f"the folder holds several splits ({names})", f"name one: {path}/{next(iter(splits))}")
        return
    number = 0
    for file in next(iter(splits.values())):
        sniffed = sniff(file)
        if isinstance(sniffed, Finding):
            yield sniffed
            continue
        for row in read_file(file, sniffed):
            if isinstance(row, Finding):
                yield row._replace(message=f"{file.name}: {row.message}")
                continue
            number += 1
            yield number, row[1]


def read_hub(address: str) -> Iterator[Raw | Finding]:
    """Yield the rows of `hf://owner/name[?config=...&split=train&revision=...]`, streamed by the datasets library."""
    from llmtune.data.io.tables import to_json_value

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
        dataset = datasets.load_dataset(
            name, query.get("config"), split=split, revision=query.get("revision"), streaming=True
        )
        names = {
            key: feature.names
            for key, feature in (dataset.features or {}).items()
            if isinstance(feature, datasets.ClassLabel)
        }
        for number, padded in enumerate(dataset, 1):
            row = {key: to_json_value(value) for key, value in padded.items()}
            for key, labels in names.items():
                value = row.get(key)
                if isinstance(value, int) and 0 <= value < len(labels):
                    row[key] = labels[value]
            yield number, row
    except (OSError, ValueError, ConnectionError) as fault:
        yield error(
            "unreadable", f"the hub's dataset cannot be read: {fault}", "check the name, the split and the network"
        )
