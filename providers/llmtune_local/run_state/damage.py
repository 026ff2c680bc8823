"""Damage that a power cut or a full disk does to the files of a run folder: detected, and described in one sentence.

A file may be missing, empty, cut off, or full of zero bytes. Only names, sizes and headers are read; nothing heavy is
imported.
"""

from __future__ import annotations

import errno
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from llmtune.errors import LlmtuneError


class DamagedFile(LlmtuneError, ValueError):
    """A file of a run folder is missing, or does not hold what was written to it."""


class DiskFull(LlmtuneError):
    """There is no room for a checkpoint or for the result."""


def is_full(problem: BaseException) -> bool:
    """Return whether an error, of whatever library, means that the disk (or a quota on it) is full."""
    if isinstance(problem, DiskFull):
        return True
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(problem)
    phrases = ("No space left on device", "StorageFull", "File too large", "Disk quota exceeded", "file write failed")
    return isinstance(problem, Exception) and any(phrase in text for phrase in phrases)


def describe(path: Path) -> str:
    """Return what is wrong with a file that could not be read, as one sentence without its end."""
    try:
        with path.open("rb") as file:
            data = file.read(1 << 16)  # of weights that is enough to tell
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as problem:
        return f"{path} cannot be read ({problem.strerror})"
    if not data:
        return f"{path} is empty"
    if not data.strip(b"\0"):
        return f"{path} holds nothing but zero bytes"
    return f"{path} is cut off or was overwritten"


def artefact_fault(folder: Path, files: Sequence[str] = ()) -> str | None:
    """Return why a folder holds no complete adapter or model; None where it does.

    `files` are the names of the files that were written to it, where they are known.
    """
    if not folder.is_dir():
        return f"{folder} is missing"
    if not any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
        return f"{folder} holds no adapter_config.json and no config.json"
    for path in sorted(folder.glob("*.json")):
        if fault := _json_fault(path):
            return fault
    weights = {path.name for path in folder.glob("*.safetensors")}
    for index in folder.glob("*.safetensors.index.json"):
        weights |= set(json.loads(index.read_bytes()).get("weight_map", {}).values())
    if not weights:
        return f"{folder} holds no weights (*.safetensors)"
    faults = (safetensors_fault(folder / name) for name in sorted(weights))
    missing = (describe(folder / name) for name in files if not (folder / name).exists())
    return next((fault for fault in (*faults, *missing) if fault), None)


def safetensors_fault(path: Path) -> str | None:
    """Return why a file of weights is incomplete, by its header; None where it is as long as the header says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length == 0 or length > size - 8:
                return describe(path)
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return describe(path)
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"{path} is cut off: it has {size:,} bytes and should have {expected:,}"


def checkpoint_fault(folder: Path) -> str | None:
    """Return why a run cannot continue from the checkpoint in a folder; None where it can."""
    if not zipfile.is_zipfile(folder / "trainer.pt"):
        return describe(folder / "trainer.pt")
    shards = {path.name for path in folder.glob("shard-*.pt")}
    count = int(next(iter(shards)).removesuffix(".pt").rpartition("-")[2]) if shards else 0
    for name in (f"shard-{rank}-of-{count}.pt" for rank in range(count)):
        if not zipfile.is_zipfile(folder / name):
            return describe(folder / name)
    return artefact_fault(folder / "model") if (folder / "model").exists() else None


def _json_fault(path: Path) -> str | None:
    """Look at both ends of a JSON file only: a tokenizer's is long, and is checked at every poll of a finished run."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()[:1]
            file.seek(max(0, path.stat().st_size - 64))
            end = file.read().rstrip()[-1:]
    except OSError:
        return describe(path)
    return None if (start, end) in ((b"{", b"}"), (b"[", b"]")) else describe(path)
