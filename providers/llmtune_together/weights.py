"""Downloaded weights: a LoRA adapter in PEFT's own layout, ready for `PeftModel.from_pretrained`.

An archive is what somebody else wrote. Of its members only regular files with the names of an adapter's files are
taken, under those names; where they lie in it, links, devices and everything else decide nothing here. What it
unpacks to is counted, because a hundred kilobytes may stand for gigabytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from llmtune.errors import MissingExtra, VendorError

if TYPE_CHECKING:
    from llmtune.provider import ModelRef
    from llmtune_together.client import Connection

#: The file that makes a folder a PEFT adapter.
PEFT_CONFIG = "adapter_config.json"
#: The names of an adapter's files, its tokenizer's among them. Pickled weights (.bin) run code when they are loaded.
_FILES = re.compile(
    r"adapter_config\.json|(adapter_)?model[\w.-]*\.safetensors(\.index\.json)?|(generation_)?config\.json"
    r"|(tokenizer|vocab|merges|special_tokens_map|added_tokens|chat_template|sentencepiece)[\w.-]*"
    r"\.(json|jinja|txt|model)"
)
#: Bytes that may come, packed or not, and that a packed byte may stand for beyond the first megabytes. Weights are
#: hardly compressible, an adapter's JSON files shrink to a tenth.
LARGEST, FREE, RATIO = 64 << 30, 64 << 20, 100
_BLOCK = 1 << 20
_ZSTD = b"\x28\xb5\x2f\xfd"
_PACKED = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}


def download_adapter(connection: Connection, model: ModelRef, into: Path) -> Path:
    """Fetch the adapter of a tuned model or checkpoint and unpack it into `into`, which is made.

    Raises:
        VendorError: what came holds no adapter (a fully tuned model has none).
        MissingExtra: the archive is Zstandard and `zstandard` is not installed.
    """
    step = model.data.get("step")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "adapter.tar"
        with connection.translate_errors("download the adapter"):
            which = {"checkpoint_step": step} if step else {"checkpoint": "adapter"}
            streaming = connection.sdk.with_options(timeout=3600).fine_tuning.with_streaming_response
            with streaming.content(ft_id=model.data["job"], **which) as answer:
                _save(answer.iter_bytes(_BLOCK), archive)
        unpacked = Path(folder) / "unpacked"
        unpack(archive, unpacked)
        return move_files(unpacked, into, connection.name)


def _save(blocks: Iterable[bytes], path: Path) -> None:
    size = 0
    with path.open("wb") as file:
        for block in blocks:
            size += len(block)
            if size > LARGEST:
                raise VendorError(f"the download does not end: it is over {LARGEST >> 30} GiB")
            file.write(block)


def unpack(archive: Path, into: Path) -> None:
    """Take the files of adapters out of a tar archive, plain or compressed: those of one folder into one of `into`.

    The folders of `into` are numbered, the shallowest of the archive first.

    Raises:
        VendorError: it is no whole archive, or one that unpacks to far more than an adapter does.
        MissingExtra: it is Zstandard and `zstandard` is not installed.
    """
    into.mkdir(parents=True, exist_ok=True)
    problems: tuple[type[Exception], ...] = (
        tarfile.TarError,
        EOFError,
        OSError,
        ValueError,
        zlib.error,
        lzma.LZMAError,
    )
    limit = min(LARGEST, FREE + RATIO * archive.stat().st_size)
    with archive.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        plain: Any = file
        if head == _ZSTD:
            try:
                import zstandard
            except ImportError:
                raise MissingExtra("data", "zstandard", purpose="unpacking the adapter") from None
            plain = zstandard.ZstdDecompressor().stream_reader(file)
            problems = (*problems, zstandard.ZstdError)
        elif head[:2] in _PACKED:
            plain = _PACKED[head[:2]](file, "rb")  # type: ignore[operator]
        try:
            with plain, tarfile.open(fileobj=cast("IO[bytes]", _Counted(plain, limit)), mode="r|") as tar:
                _take_files(tar, into)
        except problems as error:
            raise VendorError(f"the downloaded archive cannot be unpacked: {error}") from error


class _Counted(io.RawIOBase):
    """The bytes of a stream, up to a limit."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._remaining = limit
        self._limit = limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(_BLOCK if size < 0 else min(size, _BLOCK))
        self._remaining -= len(data)
        if self._remaining < 0:
            raise VendorError(f"the downloaded archive unpacks to more than {self._limit:,} bytes: no adapter does")
        return data


def _take_files(tar: tarfile.TarFile, into: Path) -> None:
    numbers: dict[str, int] = {}
    for member in tar:
        folder, _, name = member.name.rpartition("/")
        # A sparse file, a regular one by its type, may claim any size without a byte of content.
        regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
        content = tar.extractfile(member) if regular and _FILES.fullmatch(name) else None
        if content is None:
            continue
        number = numbers.setdefault(folder, len(numbers))
        target = into / f"{folder.count('/'):03d}-{number:03d}"
        target.mkdir(exist_ok=True)
        with content, (target / name).open("wb") as file:
            shutil.copyfileobj(content, file, _BLOCK)


def move_files(unpacked: Path, into: Path, name: str) -> Path:
    """Move the first folder of `unpacked` that holds an adapter to `into`."""
    config = next(iter(sorted(unpacked.glob(f"*/{PEFT_CONFIG}"))), None)
    if config is None:
        raise VendorError(
            f"{name}: the archive holds no {PEFT_CONFIG}: this model has no LoRA adapter (it was tuned in full)"
        )
    into.mkdir(parents=True, exist_ok=True)
    for file in config.parent.iterdir():
        shutil.move(str(file), str(into / file.name))
    return into
