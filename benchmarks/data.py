"""How fast datasets are read, checked and converted, and in how much memory.

A chat file of 200 MB is generated. Everything is told as a ratio to a bare `orjson.loads` loop over its lines, the
practical limit, measured in the same process right before; and beside `json.loads` with a pydantic model a line, which
is what people would write. Ratios of what runs in one process are of processor time, so that a busy machine does not
decide them. Each measurement runs in a process of its own; its memory is the largest sum of proportional set sizes
(PSS) of it and its children, looked at every 50 ms.

    python benchmarks/data.py [--size MB] [--write] [--only NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
HEADING = "## Data"
#: What must hold (the first on one process, the others for 200 MB on two cores).
MOST_RATIO, MOST_SECONDS, MOST_MEMORY = 8.0, 60.0, 300


def generate(path: Path, megabytes: int, seed: int) -> int:
    """A chat file of made-up words: 1 to 3 questions a row, most with a system prompt; about 1.4 kB a row."""
    choose = random.Random(seed)
    letters = "etaoinshrdlcumwfgypbvk"
    weights = range(len(letters), 0, -1)
    words = ["".join(choose.choices(letters, weights, k=choose.randint(2, 10))) for _ in range(20_000)]

    def text(count: int) -> str:
        return " ".join(choose.choices(words, k=count)).capitalize() + "."

    systems = [text(25) for _ in range(20)]
    size = rows = 0
    with path.open("wb") as file:
        while size < megabytes * 1_000_000:
            messages = [{"role": "system", "content": choose.choice(systems)}] if choose.random() < 0.7 else []
            for _ in range(choose.choice([1, 1, 1, 2, 3])):
                messages.append({"role": "user", "content": text(choose.randint(8, 90))})
                messages.append({"role": "assistant", "content": text(choose.randint(4, 110))})
            line = orjson.dumps({"messages": messages}) + b"\n"
            file.write(line)
            size += len(line)
            rows += 1
    return rows


# --- what is measured -------------------------------------------------------------------------------------------------
def bare(folder: Path) -> None:
    with (folder / "train.jsonl").open("rb") as file:
        for line in file:
            orjson.loads(line)


def pydantic(folder: Path) -> None:
    from typing import Literal

    from pydantic import BaseModel

    class Message(BaseModel):
        role: Literal["system", "user", "assistant", "tool"]
        content: str

    class Row(BaseModel):
        messages: list[Message]

    Row.model_rebuild(_types_namespace={"Message": Message, "Literal": Literal})
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            Row.model_validate(json.loads(line))


def read(folder: Path) -> None:
    from llmtune.data.io.reading import read

    for _ in read(folder / "train.jsonl"):
        pass


def converting(to: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        from llmtune.data.convert import convert

        convert(folder / "train.jsonl", folder / "out.jsonl", to, overwrite=True)

    return run


def checking(*names: str, jobs: int = 1) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        from llmtune.data.checks.block_worker import CHECKS
        from llmtune.data.checks.check import check

        held = folder / "test.jsonl" if not names or "near" in names else None
        report = check(folder / "train.jsonl", test=held, checks=names or CHECKS, jobs=jobs)
        assert report.ok, report.findings[:3]

    return run


MEASURES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "bare": ("(b) bare `orjson.loads` a line", bare),
    "pydantic": ("(a) `json.loads` + a pydantic model a line", pydantic),
    "read": ("read into examples", read),
    "to-chat": ("structure check + conversion to chat rows", converting("chat")),
    "to-converse": ("structure check + conversion to Converse rows", converting("bedrock_converse")),
    "to-gemini": ("structure check + conversion to Gemini rows", converting("gemini")),
    "structure": ("check: structure", checking("structure")),
    "duplicates": ("check: duplicates, contradictions", checking("duplicates")),
    "near": ("check: near leakage against a test file of 10 MB", checking("near")),
    "tokens": ("check: tokens (estimated)", checking("tokens")),
    "privacy": ("check: secrets and personal data", checking("privacy")),
    "all": ("every check", checking()),
    "all-2": ("every check, two processes", checking(jobs=2)),
}


# --- measuring --------------------------------------------------------------------------------------------------------
def pss(process: int) -> int:
    """Bytes of a process and its children, shared pages shared out."""
    total = 0
    todo = [process]
    while todo:
        process = todo.pop()
        try:
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
            for task in Path(f"/proc/{process}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except (OSError, ValueError):
            continue
    return total


def measure(name: str, folder: Path) -> dict[str, float]:
    """Seconds of one measure and of the bare loop right before it, by the clock and of processor time."""
    MEASURES[name][1](folder / "small")  # pays the imports
    bare(folder)  # brings the file into memory
    clock, processor = time.perf_counter(), time.process_time()
    bare(folder)
    base, base_cpu = time.perf_counter() - clock, time.process_time() - processor
    clock, processor = time.perf_counter(), time.process_time()
    MEASURES[name][1](folder)
    seconds, cpu = time.perf_counter() - clock, time.process_time() - processor
    alone = not name.endswith("-2")
    return {"seconds": seconds, "ratio": cpu / base_cpu if alone else seconds / base}


def in_a_process(name: str, folder: Path, repeats: int) -> dict[str, float]:
    """The best of a few runs, each in a process of its own, whose memory is watched from here."""
    runs = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, pss(process.pid))
                time.sleep(0.05)
            assert process.stdout is not None
            runs.append(json.loads(process.stdout.read()) | {"memory": peak / 1e6})
    best: dict[str, float] = min(runs, key=lambda run: run["ratio"])
    best["memory"] = max(run["memory"] for run in runs)
    best["seconds"] = min(run["seconds"] for run in runs)
    return best


def table(results: dict[str, dict[str, float]], megabytes: int, rows: int) -> Iterator[str]:
    """The section for RESULTS.md."""
    yield HEADING
    yield ""
    yield (
        f"`python benchmarks/data.py --write`, {time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, orjson"
        f" {orjson.__version__}, {os.cpu_count()} cores of a machine shared with other work. A generated chat file of"
        f" {megabytes} MB, {rows:,} rows. Ratios are to the bare `orjson.loads` loop (b), measured in the same process"
        " right before, in processor time (by the clock for two processes); the best of the runs. Memory is the peak of"
        " the process and its children."
    )
    yield ""
    yield "| what | seconds | x (b) | MB a second | peak memory, MB |"
    yield "|---|---|---|---|---|"
    for name, run in results.items():
        title, speed = MEASURES[name][0], megabytes / run["seconds"]
        yield f"| {title} | {run['seconds']:.1f} | {run['ratio']:.1f} | {speed:,.0f} | {run['memory']:.0f} |"
    yield ""
    conversions = [run["ratio"] for name, run in results.items() if name.startswith("to-")]
    checks = [run["seconds"] for name, run in results.items() if MEASURES[name][0].startswith(("check", "every"))]
    if conversions and checks:
        memory = max(run["memory"] for run in results.values())
        yield (
            f"Goals: structure check and conversion at most {MOST_RATIO:.0f} x (b): {max(conversions):.1f} x;"
            f" every check at most {MOST_SECONDS:.0f} s: {max(checks):.1f} s;"
            f" peak memory under {MOST_MEMORY} MB: {memory:.0f} MB."
        )
        yield ""


def write_section(lines: list[str]) -> None:
    """Put the section into RESULTS.md, in the place of an earlier one; other sections stay as they are."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    begin = text.find(f"\n{HEADING}\n")
    rest = ""
    if begin >= 0:
        end = text.find("\n## ", begin + 1)
        text, rest = text[: begin + 1], text[end + 1 :] if end >= 0 else ""
    elif not text.endswith("\n\n"):
        text = text.rstrip("\n") + "\n\n"
    RESULTS.write_text(text + "\n".join(lines) + ("\n" if rest else "") + rest, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=200, help="megabytes of the generated file")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--only", choices=list(MEASURES), nargs="*")
    parser.add_argument("--measure", choices=list(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = generate(folder / "train.jsonl", given.size, seed=1)
        generate(folder / "test.jsonl", max(1, given.size // 20), seed=2)
        (folder / "small").mkdir()
        for part in ("train", "test"):
            lines_of = (folder / f"{part}.jsonl").open("rb")
            with lines_of, (folder / "small" / f"{part}.jsonl").open("wb") as small:
                small.writelines(islice(lines_of, 50))
        results = {}
        for measure_name in given.only or MEASURES:
            results[measure_name] = in_a_process(measure_name, folder, given.repeats)
            print(measure_name, {key: round(value, 2) for key, value in results[measure_name].items()}, flush=True)
    lines = list(table(results, given.size, rows))
    print("\n".join(lines))
    if given.write:
        write_section(lines)


if __name__ == "__main__":
    main()
