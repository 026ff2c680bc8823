"""The process in which a Python grader runs: started as a script, with the standard library alone.

It reads JSON lines from standard input: first `{"source": ...}`, then `{"row": ..., "answer": ...}`; and answers each
with `{"score": ...}` or `{"error": ...}`. An audit hook, which the grader cannot take off, refuses network, processes
and writing to files; what the grader prints goes nowhere.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

#: Bytes of memory that a grader may take: as much as where vendors run graders in Python (docs/grade.md).
MEMORY = 2 * 1024**3

_NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_PROCESSES = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "os.kill",
)
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.truncate", "shutil.rmtree")
_FOREIGN = ("ctypes.dlopen",)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _NETWORK:
        raise PermissionError("a grader has no network")
    if event in _PROCESSES or event in _FOREIGN:
        raise PermissionError("a grader starts no process and loads no library of the system")
    if event in _CHANGES or (event == "open" and _is_writing(arguments)):
        raise PermissionError("a grader changes no files")


def _is_writing(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _grade(grade: Any, question: dict[str, Any]) -> dict[str, Any]:
    try:
        score = grade(question["row"], question["answer"])
    except MemoryError:
        return {"error": "it takes more than 2 GB of memory"}
    except BaseException as error:  # noqa: BLE001 - SystemExit too: whatever it raises, the next answer is scored
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    if not isinstance(score, int | float):
        with contextlib.suppress(Exception):
            score = score.item()  # a number of numpy
    if not isinstance(score, int | float):
        return {"error": f"it returned {type(score).__name__}, not a number"}
    if not math.isfinite(score):
        return {"error": f"it returned {score}"}
    return {"score": float(score)}


def main() -> None:
    # The grader's own prints must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    quiet = Path(os.devnull).open("w")  # noqa: SIM115 - open for as long as the process
    os.dup2(quiet.fileno(), 1)
    sys.stdout = sys.stderr = quiet
    questions = sys.stdin
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    source = json.loads(questions.readline())["source"]
    _limit_memory()
    sys.addaudithook(_refuse)
    names: dict[str, Any] = {"__name__": "grader"}
    try:
        exec(compile(source, "grader.py", "exec"), names)
        grade = names.get("grade")
        say({"ready": True} if callable(grade) else {"error": "it defines no function named grade"})
    except BaseException as error:  # noqa: BLE001 - a module that calls exit() defines no grader either
        line = getattr(error, "lineno", None)
        say({"error": f"{type(error).__name__}{f' in line {line}' if line else ''}: {str(error)[:200]}"})
        return
    for question in questions:
        say(_grade(grade, json.loads(question)))


if __name__ == "__main__":
    main()
