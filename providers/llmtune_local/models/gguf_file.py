"""GGUF files as base models: which file a model id names, and its shape from the header alone.

The weights are loaded by transformers' `gguf_file`, which needs the package `gguf`, and are dequantised: ordinary
weights are trained. The header (github.com/ggml-org/ggml, docs/gguf.md, 2026-11) is read without that package.
"""

from __future__ import annotations

import contextlib
import importlib.util
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.errors import InvalidJob, MissingExtra

#: struct codes of the header's scalar types, by number; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
#: Longest array of numbers that may be about layers.
_MOST_LAYERS = 512
#: How llama.cpp names the parts of a model that it has split.
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True)
class GgufHeader:
    """A GGUF file's metadata without vocabularies, and the shapes of its tensors (out, in)."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]

    def get(self, name: str) -> Any:
        """Return a value that belongs to the architecture, such as `block_count`; None where there is none."""
        return self.metadata.get(f"{self.metadata.get('general.architecture')}.{name}")


def find_gguf(model: str) -> Path | None:
    """Return the GGUF file that a model id names: a file, or a folder's only one beside no other weights; else None.

    Raises:
        InvalidJob: there is no such file, it is one part of a model, or the folder has several.
    """
    path = Path(model)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise InvalidJob(f"there is no file {path}", where="model", hint="give the path of a GGUF file")
        return _check_whole(path)
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1 and not _PART.search(files[0].name):
        names = ", ".join(file.name for file in files)
        raise InvalidJob(
            f"the folder {path} holds {len(files)} GGUF files ({names})",
            where="model",
            hint=f"name one of them, such as {files[0]}",
        )
    return _check_whole(files[0]) if files else None


def loading_options(file: Path | None) -> dict[str, Any]:
    """Return what `from_pretrained` takes beside the folder to read config and tokenizer from a GGUF file.

    Raises `MissingExtra` without the package `gguf`.
    """
    if file is None:
        return {}
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra("gguf", "gguf", purpose=f"the weights in {file.name}")
    return {"gguf_file": file.name}


def weight_options(file: Path | None) -> dict[str, Any]:
    """Return what `from_pretrained` takes to load a GGUF file's weights as ordinary ones."""
    options = loading_options(file)
    if options:
        import transformers

        if config := getattr(transformers, "GgufConfig", None):  # before it there was, weights were always dequantised
            options["quantization_config"] = config(dequantize=True)
    return options


@contextlib.contextmanager
def no_conversion_bar(file: Path | None) -> Iterator[None]:
    """Keep transformers from drawing a bar of its own while it dequantises a GGUF file, which no setting turns off."""
    if file is None:
        yield
        return
    from transformers import modeling_gguf_pytorch_utils as conversion

    module: Any = conversion
    drawn = getattr(module, "tqdm", None)
    module.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        module.tqdm = drawn


def read_header(file: Path) -> GgufHeader:
    """Read the header of a GGUF file. Raises `ValueError` where it is none, or cut short."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data).read()
        except (struct.error, IndexError, UnicodeDecodeError) as fault:
            raise ValueError(f"{file} is no whole GGUF file ({fault})") from None


class _Reader:
    """A position in the bytes of a GGUF file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def read(self) -> GgufHeader:
        magic, version, tensors, entries = self._unpack("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"not a GGUF file of version 2 or 3 (it begins with {magic!r}, {version})")
        metadata = {}
        for _ in range(entries):
            name = self._string()
            value = self._value(self._unpack("I")[0])
            if value is not None:
                metadata[name] = value
        return GgufHeader(metadata, dict(self._tensor() for _ in range(tensors)))

    def _tensor(self) -> tuple[str, tuple[int, ...]]:
        name = self._string()
        (dimensions,) = self._unpack("I")
        sizes = self._unpack(f"{dimensions}Q")
        self._unpack("IQ")  # its quantisation, and where its data are
        return name, tuple(reversed(sizes))  # the innermost comes first in the file

    def _value(self, kind: int) -> Any:
        """Read one value; of arrays only short ones of numbers: others are vocabularies."""
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._unpack(_SCALARS[kind])[0]
        element, count = self._unpack("IQ")
        if element == _STRING:
            for _ in range(count):
                self.position += 8 + struct.unpack_from("<Q", self.data, self.position)[0]
            return None
        if count <= _MOST_LAYERS:
            return list(self._unpack(f"{count}{_SCALARS[element]}"))
        self.position += count * struct.calcsize(_SCALARS[element])
        return None

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        start, self.position = self.position, self.position + length
        return self.data[start : self.position].decode("utf-8")

    def _unpack(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self.data, self.position)
        self.position += struct.calcsize(f"<{form}")
        return values


def _check_whole(file: Path) -> Path:
    if _PART.search(file.name):
        raise InvalidJob(
            f"{file.name} is one part of a model, and transformers reads whole GGUF files only",
            where="model",
            hint="join the parts with llama.cpp: llama-gguf-split --merge FIRST_PART OUT.gguf",
        )
    return file
