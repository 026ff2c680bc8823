"""The contents of the fake's buckets, which move by the real hf_xet through stores that are folders (`local://`).

Only one process can open such a store. Each upload and each download therefore has one of its own, and the fake reads a
copy of what a client has uploaded.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path


class XetStore:
    """Contents by their hash, in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._numbers = itertools.count(1)
        self._uploads: list[Path] = []
        self._known: dict[Path, tuple[int, int, str]] = {}
        self._listed: set[Path] = set()
        (root / "contents").mkdir(parents=True)

    def open_upload(self) -> str:
        """Return the address of an empty store for an upload."""
        self._uploads.append(self._new_folder())
        return f"local://{self._uploads[-1]}"

    def open_download(self) -> str:
        """Return the address of a store with every content that was listed last."""
        from hf_xet import SKIP_SHA256, XetSession

        folder = self._new_folder()
        with XetSession().new_upload_commit(endpoint=f"local://{folder}") as commit:
            for path in self._listed:
                commit.start_upload_bytes(path.read_bytes(), sha256=SKIP_SHA256)
        copy = self._new_folder()
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        return f"local://{copy}"

    def keep(self, paths: Sequence[Path]) -> dict[Path, tuple[int, str]]:
        """Keep the contents of files, and return size and hash of each. What a job has just removed is left out.

        Checkpoints are hashed and not stored: nobody fetches them.
        """
        from hf_xet import hash_files

        listed: dict[Path, tuple[int, str]] = {}
        self._listed = set()
        for path in paths:
            is_stored = "checkpoints" not in path.parts
            try:
                facts = path.stat()
                if self._known.get(path, (0, 0, ""))[:2] != (facts.st_size, facts.st_mtime_ns):
                    copy = self.root / "contents" / f"part-{next(self._numbers)}"
                    shutil.copyfile(path, copy)
                    (hashed,) = hash_files([str(copy)])
                    self._known[path] = (copy.stat().st_size, facts.st_mtime_ns, hashed.hash)
                    if is_stored:
                        copy.replace(self.root / "contents" / hashed.hash)
                    else:
                        copy.unlink()
            except FileNotFoundError:
                continue
            listed[path] = (self._known[path][0], self._known[path][2])
            if is_stored:
                self._listed.add(self.root / "contents" / listed[path][1])
        return listed

    def load(self, files: Sequence[tuple[str, Path]]) -> None:
        """Write uploaded contents, by hash, to paths."""
        from hf_xet import XetFileInfo, XetSession

        missing = list(files)
        for upload in reversed(self._uploads):
            if not missing or not any(upload.iterdir()):
                continue
            copy = self._new_folder()
            shutil.copytree(upload, copy, dirs_exist_ok=True)
            try:
                with XetSession().new_file_download_group(endpoint=f"local://{copy}") as group:
                    for xet_hash, path in missing:
                        group.start_download_file(XetFileInfo(xet_hash), str(path))
            except RuntimeError:  # an earlier upload has them
                continue
            missing = []
        assert not missing, f"nobody has uploaded {missing}"

    def _new_folder(self) -> Path:
        folder = self.root / f"store-{next(self._numbers)}"
        folder.mkdir()
        return folder
