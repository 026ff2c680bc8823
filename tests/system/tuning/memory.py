"""The memory of another process, as Linux counts it, and large files to send to it."""

from __future__ import annotations

from pathlib import Path

_ROW = b'{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "yes"}]}\n'


def reset_peak(pid: int) -> int:
    """Forget the highest memory of a process so far, and return what it has now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_memory(pid)


def peak_memory(pid: int) -> int:
    """The highest resident memory of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def write_rows(path: Path, size: int) -> Path:
    """Write a training file of about so many bytes, and return its path."""
    row = _ROW % (b"order " * 160)
    block = row * 1000
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.write(row * ((size % len(block)) // len(row)))
    return path
