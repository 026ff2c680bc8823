"""Folders and files of this user alone, under an umask that forbids nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmtune._safety.private_files import make_private_folder, open_private


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_missing_folders_are_made_for_this_user_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    make_private_folder(tmp_path / "there" / "a" / "b")
    make_private_folder(tmp_path / "there" / "a" / "b")
    make_private_folder(tmp_path / "there")
    assert [mode(tmp_path / name) for name in ("there", "there/a", "there/a/b")] == [0o755, 0o700, 0o700]


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError):
            make_private_folder(path)


def test_a_new_file_is_for_this_user_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    with open_private(tmp_path / "new", "wb") as file:
        file.write(b"a")
    with open_private(tmp_path / "new", "ab") as file:
        file.write(b"b")
    assert (tmp_path / "new").read_bytes() == b"ab"
    assert mode(tmp_path / "new") == 0o600
    (tmp_path / "old").touch(0o644)
    with open_private(tmp_path / "old", "wb"):
        pass
    assert mode(tmp_path / "old") == 0o644
