"""Check that constraints.txt is what pyproject.toml resolves to; `--write` rewrites it.

One universal lock for every platform and extra, without addresses. torch is pinned to one release by hand (below), so
that machines that hold its CPU wheel use it and a user's GPU machine gets the CUDA build of the same release.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints.txt"
TORCH = "torch==2.13.0"


def resolve(into: Path) -> None:
    """Resolve all extras into a constraints file, preferring the versions that the lock already names."""
    if LOCK.exists():
        shutil.copy(LOCK, into)
    pin = into.with_suffix(".pin")
    pin.write_text(TORCH + "\n")
    command = [
        Path(sys.executable).parent / "uv",
        *("pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11", "--all-extras", "--quiet"),
        *("--no-annotate", "--no-header", "--no-emit-package", "llmtune-sdk", "-c", pin, "-o", into),
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Compare or rewrite the lock; return 1 if it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="rewrite constraints.txt")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder) / "constraints.txt"
        resolve(resolved)
        text = resolved.read_text()
    if write:
        LOCK.write_text(text)
        return 0
    if text == LOCK.read_text():
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(LOCK.read_text().splitlines(True), text.splitlines(True), "now", "wanted")
    )
    print("constraints.txt is out of date: run `make lock`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
