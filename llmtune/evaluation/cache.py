"""Answers that were asked for already, by content: what is there is never asked, or paid for, again."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, Protocol

from llmtune._safety.private_files import make_private_folder
from llmtune.provider.generation import GenerationRequest

#: Changes when what is kept of an answer changes.
VERSION = 1


class AnswerCache(Protocol):
    """Somewhere to keep answers. Values are plain JSON data; several threads may call at once."""

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key, or None."""
        ...

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a value; it is there after this returns, also if the process is killed then."""
        ...


class MemoryCache:
    """A cache for the length of a process."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key, or None."""
        return self._kept.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a value."""
        self._kept[key] = value


class FileCache:
    """A cache in one file of JSON lines, `answers.jsonl` in a folder, readable by its owner only.

    Each answer is one line, written at once: a process that is killed loses at most the answers still under way, and a
    torn last line is passed over. Several processes may append to one file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / "answers.jsonl"
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, Any]] = {}
        self._read()

    def __len__(self) -> int:
        return len(self._kept)

    def _read(self) -> None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        for line in data.split(b"\n"):
            try:
                entry = json.loads(line)
                self._kept[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError):
                continue  # torn by a kill, or the empty end

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key, or None."""
        return self._kept.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Append a value to the file."""
        # The line begins with a line break too, so that a torn line before it cannot swallow it.
        line = b"\n" + json.dumps({"key": key, "value": value}).encode() + b"\n"
        with self._lock:
            make_private_folder(self.path.parent)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
            self._kept[key] = value


def answer_key(model: str, kind: str, request: GenerationRequest | None, **more: Any) -> str:
    """The key of an answer: sha256 of which model, what was wanted of it (text, labels, loss), and the request.

    `model` names provider and model ("PROVIDER MODEL-REF"); anything that could change the answer belongs in `more`.
    """
    document = {"version": VERSION, "model": model, "kind": kind, "request": _plain(request), "more": more}
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(request: GenerationRequest | None) -> dict[str, Any] | None:
    if request is None:
        return None
    fields = {name: getattr(request, name) for name in request.__slots__}
    return fields | {"messages": [turn.key_fields for turn in request.messages]}
