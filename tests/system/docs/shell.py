"""Types the shell blocks of a page, in order, in a folder of their own, and holds what comes out to what is shown.

`sh` blocks are typed and must succeed. In `console` blocks each `$ ` line is typed and the lines below it must come
out, in that order: `...` stands for any lines, or for the rest of one; figures, times and run ids may differ. A block
behind `<!-- no-run: reason -->` is left out. One of Python or YAML behind `<!-- save: FILE -->` becomes that file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(
    r"(?:^<!-- no-run: (?P<reason>[^>]+?) -->\n)?(?:^<!-- save: (?P<file>[\w.]+) -->\n)?"
    r"^```(?P<language>sh|console|python|yaml)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
#: What may differ from machine to machine: figures, the ids of runs, and how wide a table's columns are.
FIGURE = re.compile(r"[+\-−]?\d[\d,.:]*")
ID = re.compile(r"\b(?=[a-z]*\d)[a-z0-9]{10,12}\b")


@dataclass(frozen=True)
class Typed:
    """A command, the lines that are shown below it (None: nothing is said), and where it stands.

    With a `file`, `command` is its content, which the reader saves.
    """

    command: str
    shown: tuple[str, ...] | None
    line: int
    file: str | None = None


def typed_on(page: Path) -> tuple[list[Typed], list[str]]:
    """The commands of a page, and the reasons why blocks are left out."""
    text = page.read_text(encoding="utf-8")
    found, reasons = [], []
    for block in BLOCK.finditer(text):
        line = text[: block.start("text")].count("\n") + 1
        if block["file"]:
            found.append(Typed(block["text"], None, line, block["file"]))
        elif block["language"] in ("python", "yaml"):
            continue
        elif block["reason"]:
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


def masked(line: str, ids: Collection[str] = ()) -> str:
    """A line without what may differ."""
    for each in sorted(ids, key=len, reverse=True):  # an id may happen to be all letters; a job's holds its run's
        line = line.replace(each, "#")
    return " ".join(FIGURE.sub("#", ID.sub("#", line)).split())


def comes_out(shown: tuple[str, ...], output: str, ids: Collection[str] = ()) -> str | None:
    """The first line shown that did not come out where it should; None when all did.

    `ids`: those of runs and jobs that there are by now.
    """
    lines = [masked(line, ids) for line in output.splitlines() if line.strip()]
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
        "HF_HUB_CACHE": str(home / "hub"),  # what the developer has downloaded changes what init suggests
        **environment,
    }
    told.pop("LLMTUNE_STORE")
    faults: list[str] = []
    started: list[int] = []
    try:
        for each in typed_on(page)[0]:
            where = f"{page.relative_to(ROOT)}:{each.line}: {each.command.strip()}"
            if each.file is not None:
                (folder / each.file).write_text(each.command, encoding="utf-8")
                continue
            code, output = _type(each.command, folder, told, started)
            if code:
                return [*faults, f"{where}: exit {code}\n{output[-3000:]}"]
            ids = {made.name for kind in ("local", "runs") for made in (home / kind).glob("*")}
            if each.shown and (missing := comes_out(each.shown, output, ids)) is not None:
                faults.append(f"{where}: not as shown: {missing}\n{output[-3000:]}")
    finally:
        for group in started:  # what a page leaves running in the background
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
    return faults


def _type(command: str, folder: Path, environment: dict[str, str], started: list[int]) -> tuple[int, str]:
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    started.append(process.pid)
    output, _ = process.communicate(timeout=1200)
    return process.returncode, output


def lend(folder: Path, *names: str) -> Path:
    """The folder, with these files and folders of the checkout in it."""
    folder.mkdir(exist_ok=True)
    for name in names:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    return folder
