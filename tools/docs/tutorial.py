"""Keep tests/plugin_package/ the same text as docs/plugin.md; `--check` only says whether it is.

A code block of the page with a title is a file (`title="llmtune_acme/provider.py"`); one that comes again replaces the
first. `sh` blocks are what the reader types, and a `text` block is what is then seen. tests/system/plugin follows all.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "plugin.md"
PACKAGE = ROOT / "tests" / "plugin_package"
FENCE = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One code block: a file to write (`sh` and `text` never are), something to type, or what is seen then."""

    language: str
    title: str | None
    text: str

    @property
    def is_file(self) -> bool:
        """Whether the block is the text of the file that its title names."""
        return self.title is not None and self.language not in ("sh", "text")


def blocks(page: str) -> list[Block]:
    """Return the code blocks of a page, in order."""
    return [Block(match["language"], match["title"], match["text"]) for match in FENCE.finditer(page)]


def files(page: str) -> dict[str, str]:
    """Return the files that a reader of the whole page ends up with, by path."""
    return {block.title or "": block.text for block in blocks(page) if block.is_file}


def kept(folder: Path) -> dict[str, str]:
    """Read the files of a folder by path, without caches and build folders."""
    leftovers = {".venv", "__pycache__", ".pytest_cache", "dist", "build"}
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not leftovers & set(path.relative_to(folder).parts)
    }


def main() -> int:
    """Write the package from the page, or with --check say where they differ and return 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the two differ")
    check = parser.parse_args().check
    expected, there = files(PAGE.read_text(encoding="utf-8")), kept(PACKAGE)
    differing = sorted(name for name in expected.keys() | there.keys() if expected.get(name) != there.get(name))
    if check and differing:
        print(f"docs/plugin.md and tests/plugin_package/ differ in {', '.join(differing)}; run `make docs`")
        return 1
    for name in differing:
        path = PACKAGE / name
        if name in expected:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(expected[name], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
