"""Faults of a disk, injected on purpose: files that a power cut has damaged, and a disk without room.

damage_file(folder / "status.json", "zeroed")       # what some file systems leave after a power cut
with disk_full(worker_pid, room=5000):
    ...                                             # no file of that process can grow beyond 5,000 bytes
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

from llmtune.errors import LlmtuneError

#: What a crash leaves of a file: nothing in it, its first half, as many zero bytes, or no file at all.
Damage = Literal["empty", "torn", "zeroed", "missing"]
DAMAGES: tuple[Damage, ...] = get_args(Damage)


def damage_file(path: Path, damage: Damage) -> None:
    """Damage a file, or every file in a folder, as a power cut may. One that does not exist stays missing."""
    if path.is_dir():
        if damage == "missing":
            shutil.rmtree(path)
            return
        for file in path.rglob("*"):
            if file.is_file():
                damage_file(file, damage)
        return
    if damage == "missing":
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        with path.open("r+b") as stream:
            if damage == "zeroed":
                stream.write(bytes(size))
            stream.truncate({"empty": 0, "torn": size // 2, "zeroed": size}[damage])


@contextmanager
def disk_full(pid: int, *, room: int = 0) -> Iterator[None]:
    """Let no file of another process grow beyond `room` bytes, as if its disk were full; only on Linux.

    Args:
        pid: the process, of this user.
        room: bytes that fit into each file; what is larger fails with "File too large", which is treated as a full
            disk.

    Raises:
        LlmtuneError: this is not Linux.
    """
    try:
        import resource

        set_limit = resource.prlimit
    except (ImportError, AttributeError):
        raise LlmtuneError("disk_full limits the files of another process, which only Linux does") from None
    soft, hard = set_limit(pid, resource.RLIMIT_FSIZE)
    set_limit(pid, resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            set_limit(pid, resource.RLIMIT_FSIZE, (soft, hard))
