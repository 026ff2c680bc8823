"""Types the shell blocks of a page, in order, in a folder of their own, and holds what comes out to what is shown.

`sh` blocks are typed and must succeed. In `console` blocks each `$ ` line is typed and the lines below it must come
out, in that order: `...` stands for any lines, or for the rest of one; figures, times and run ids may differ. A block
behind `<!-- no-run: reason -->` is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"(?:^<!-- no-run: (?P<reason>[^>]+?) -->\n)?^```(?P<language>sh|console)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
#: What may differ from machine to machine: figures, the ids of runs, and how wide a table's columns are.
FIGURE = re.compile(r"[+\-−]?\d[\d,.:]*")
ID = re.compile(r"\b(?=[a-z]*\d)[a-z0-9]{10,12}\b")


@dataclass(frozen=True)
class Typed:
    """A command, the lines that are shown below it (None: nothing is said), and where it stands."""

    command: str
    shown: tuple[str, ...] | None
    line: int


def typed_on(page: Path) -> tuple[list[Typed], list[str]]:
    """The commands of a page, and the reasons why blocks are left out."""
    text = page.read_text(encoding="utf-8")
    found, reasons = [], []
    for block in BLOCK.finditer(text):
        line = text[: block.start("text")].count("\n") + 1
        if block["reason"]:
            reasons.append(block["reason"])
        elif block["language"] == "sh":
            found.append(Typed(block["text"], None, line))
        else:
            parts = re.split(r"^\$ ", block["text"], flags=re.MULTILINE)
            assert not parts[0].strip(), f"{page.name}:{line}: a console block begins with a command"
            for part in parts[1:]:
                command, *shown = part.replace("\\\n", "").rstrip("\n").split("\n")
                found.append(Typed(command, tuple(shown), line))
    return found, reasons


def masked(line: str) -> str:
    """A line without what may differ."""
    return " ".join(FIGURE.sub("#", ID.sub("#", line)).split())


def comes_out(shown: tuple[str, ...], output: str) -> str | None:
    """The first line shown that did not come out where it should; None when all did."""
    lines = [masked(line) for line in output.splitlines() if line.strip()]
    at, anywhere = 0, False
    for line in shown:
        wanted = masked(line)
        if wanted == "...":
            anywhere = True
        elif wanted:
            start = wanted.removesuffix("...")
            fits = [
                place
                for place in range(at, len(lines))
                if lines[place] == wanted or (start != wanted and lines[place].startswith(start))
            ]
            if not fits or (fits[0] != at and not anywhere):
                return line
            at, anywhere = fits[0] + 1, False
    return None if anywhere or at >= len(lines) or not shown else f"(nothing more), but there is: {lines[at]}"


def type_page(page: Path, folder: Path, **environment: str) -> list[str]:
    """Type a page's commands in `folder`; every fault, with its line. Stops at a command that fails."""
    home = folder.with_name(f"{folder.name}-home")
    told = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LLMTUNE_HOME": str(home),
        "LLMTUNE_STORE": "",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    told.pop("LLMTUNE_STORE")
    faults = []
    for each in typed_on(page)[0]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", each.command],
            cwd=folder,
            env=told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
            check=False,
        )
        where = f"{page.relative_to(ROOT)}:{each.line}: {each.command.strip()}"
        if done.returncode:
            return [*faults, f"{where}: exit {done.returncode}\n{done.stdout[-3000:]}"]
        if each.shown and (missing := comes_out(each.shown, done.stdout)) is not None:
            faults.append(f"{where}: not as shown: {missing}\n{done.stdout[-3000:]}")
    return faults
