"""A cache of answers, by content: an answer in it is never requested, or paid for, again."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, Protocol

from llmtune._safety.operating_system import get_binary_flag
from llmtune._safety.private_files import make_private_folder
from llmtune.provider.generation import GenerationRequest

#: Changes when the stored fields of an answer change.
VERSION = 1


class AnswerCache(Protocol):
    """A store of answers. Values are plain JSON data; several threads may call at the same time."""

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the value of a key, or None."""
        ...

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Store a value. A durable cache has written it when this returns, so that a kill does not lose it."""
        ...


class MemoryCache:
    """A cache for the length of a process."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the value of a key, or None."""
        return self._values.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Store a value."""
        self._values[key] = value


class FileCache:
    """A cache in one file of JSON lines, `answers.jsonl` in a folder, readable by its owner only.

    Each answer is one line, written as soon as it arrives: a process that is killed loses at most the answers it was
    waiting for, and an incomplete last line is skipped. Several processes may append to one file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / "answers.jsonl"
        self._lock = threading.Lock()
        self._values: dict[str, dict[str, Any]] = {}
        self._load()

    def __len__(self) -> int:
        return len(self._values)

    def _load(self) -> None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        for line in data.split(b"\n"):
            try:
                entry = json.loads(line)
                self._values[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a kill, or the empty end

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the value of a key, or None."""
        return self._values.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Append a value to the file."""
        # The line begins with a line break as well: an incomplete line before it must not swallow it.
        line = b"\n" + json.dumps({"key": key, "value": value}).encode() + b"\n"
        with self._lock:
            make_private_folder(self.path.parent)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | get_binary_flag(), 0o600)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
            self._values[key] = value


def answer_key(model: str, kind: str, request: GenerationRequest | None, **more: Any) -> str:
    """Return the key of an answer: sha256 of the model, the kind of answer (text, labels, loss), and the request.

    `model` names provider and model ("PROVIDER MODEL-REF"); anything else that could change the answer belongs in
    `more`.
    """
    document = {"version": VERSION, "model": model, "kind": kind, "request": _to_document(request), "more": more}
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _to_document(request: GenerationRequest | None) -> dict[str, Any] | None:
    if request is None:
        return None
    fields = {name: getattr(request, name) for name in request.__slots__}
    return fields | {"messages": [turn.key_fields for turn in request.messages]}
