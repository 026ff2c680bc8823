"""Folders and files with the user's data: readable by this user alone, whatever the umask."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def make_private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, with mode 0700. One that is there stays as it is."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    if not path.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(path))


def open_private(path: Path, mode: str) -> BinaryIO:
    """Open a file to write ("wb") or append ("ab") bytes; a new one has mode 0600."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))  # type: ignore[return-value]
