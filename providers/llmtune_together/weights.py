"""Weights brought home: a LoRA adapter in PEFT's own layout, ready for `PeftModel.from_pretrained`."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from llmtune.errors import MissingExtra, VendorError

if TYPE_CHECKING:
    from llmtune.provider import ModelRef
    from llmtune_together.client import Connection

#: The file that makes a folder a PEFT adapter.
PEFT_CONFIG = "adapter_config.json"
_ZSTD = b"\x28\xb5\x2f\xfd"


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
                answer.stream_to_file(archive)
        unpacked = Path(folder) / "unpacked"
        unpack(archive, unpacked)
        return place(unpacked, into, connection.name)


def unpack(archive: Path, into: Path) -> None:
    """Unpack a tar archive, plain or compressed; nothing in it can land outside `into`."""
    into.mkdir(parents=True, exist_ok=True)
    with archive.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if head == _ZSTD:
            try:
                import zstandard
            except ImportError:
                raise MissingExtra("data", "zstandard", purpose="unpacking the adapter") from None
            with zstandard.ZstdDecompressor().stream_reader(file) as plain:
                _extract(plain, "r|", into)
        else:
            _extract(file, "r|*", into)


def _extract(file: IO[bytes], mode: str, into: Path) -> None:
    try:
        with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
            tar.extractall(into, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise VendorError(f"the downloaded archive cannot be unpacked: {error}") from error


def place(unpacked: Path, into: Path, name: str) -> Path:
    """Move the folder that holds the adapter, wherever it lies in the archive, to `into`."""
    config = next(iter(sorted(unpacked.rglob(PEFT_CONFIG), key=lambda path: len(path.parts))), None)
    if config is None:
        raise VendorError(
            f"{name}: the archive holds no {PEFT_CONFIG}: this model has no LoRA adapter (it was tuned in full)"
        )
    into.mkdir(parents=True, exist_ok=True)
    for file in config.parent.iterdir():
        shutil.move(str(file), str(into / file.name))
    return into
