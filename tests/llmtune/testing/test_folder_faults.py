"""Files are damaged as a power cut damages them, and a process's disk is full until it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmtune.testing import damage_file, disk_full
from llmtune.testing.folder_faults import DAMAGES


@pytest.mark.parametrize(
    ("damage", "content"), [("empty", b""), ("torn", b"abc"), ("zeroed", bytes(6)), ("missing", None)]
)
def test_damage(tmp_path: Path, damage: str, content: bytes | None) -> None:
    (tmp_path / "folder").mkdir()
    files = [tmp_path / "file", tmp_path / "folder" / "inner"]
    for path in files:
        path.write_bytes(b"abcdef")
    damage_file(files[0], damage)  # type: ignore[arg-type]
    damage_file(tmp_path / "folder", damage)  # type: ignore[arg-type]
    for path in files:
        assert (path.read_bytes() if path.exists() else None) == content
    assert damage in DAMAGES


def test_what_does_not_exist_stays_missing(tmp_path: Path) -> None:
    damage_file(tmp_path / "file", "zeroed")
    assert not (tmp_path / "file").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_full_disk_takes_small_files_only_until_there_is_room(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for line in sys.stdin:\n"
        "    path, size = line.split()\n"
        "    try:\n"
        "        open(path, 'wb', buffering=0).write(bytes(int(size)))\n"
        "        print('written', flush=True)\n"
        "    except OSError as error:\n"
        "        print(error.strerror, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def write(size: int) -> str:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(f"{tmp_path / 'file'} {size}\n")
        writer.stdin.flush()
        return writer.stdout.readline().strip()

    assert write(100) == "written"  # it runs, and ignores the limit's signal
    with disk_full(writer.pid):
        assert write(1) == "File too large"
    with disk_full(writer.pid, room=50):
        assert write(50) == "written"
    assert write(100) == "written"
    writer.communicate()
    with pytest.raises(ProcessLookupError), disk_full(writer.pid):
        pass
