"""Python graders from the outside: one process each, with a time limit for every answer."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmtune.errors import InvalidJob

WORKER = Path(__file__).with_name("python_worker.py")

#: Seconds for starting Python and running the grader's own imports.
START_SECONDS = 60.0

#: Answers that may take too long before the others are given up too: hundreds of them would wait for hours.
MOST_TIMEOUTS = 3

#: What a grader's process sees of the environment: no key, no token.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TEMP", "TMP")


class PythonProcess:
    """A process that runs a `grade` function. One that hangs or dies is started again for the next answer,
    and one that has hung `MOST_TIMEOUTS` times is asked no more.

    Use as a context manager. Raises `InvalidJob` where the source cannot be run or defines no `grade`.
    """

    def __init__(self, source: str, seconds: float) -> None:
        self._source, self._seconds = source, seconds
        self._timeouts = 0
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._folder = tempfile.TemporaryDirectory(prefix="llmtune-grader-")

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._folder.cleanup()

    def grade(self, row: dict[str, Any], answer: str) -> tuple[float | None, str]:
        """Return the score of an answer and "", or None and what went wrong."""
        too_long = f"it took longer than {self._seconds:g} s, or its process ended"
        if self._timeouts >= MOST_TIMEOUTS:
            return None, too_long
        if self._process is None:
            self._start()
        reply = self._ask({"row": row, "answer": answer}, self._seconds)
        if reply is None:
            self._stop()
            return None, too_long
        return (reply["score"], "") if "score" in reply else (None, str(reply["error"]))

    def _start(self) -> None:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._answers = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            cwd=self._folder.name,
            env=environment,
        )
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._answers), daemon=True).start()
        reply = self._ask({"source": self._source}, START_SECONDS)
        if reply is None or "error" in reply:
            self._stop()
            reason = "it did not start" if reply is None else reply["error"]
            raise InvalidJob(f"the Python grader cannot be run: {reason}", where="source")

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = self._answers.get(timeout=seconds)
        except OSError:
            return None
        except queue.Empty:
            self._timeouts += 1
            return None
        try:
            reply = json.loads(line or "null")
        except (ValueError, RecursionError):  # written by the grader itself, beside its prints
            return None
        return reply if isinstance(reply, dict) else None

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None


def _read_lines(stream: Any, answers: queue.Queue[str | None]) -> None:
    try:
        for line in stream:
            answers.put(line)
    except ValueError:  # closed while it was read
        pass
    answers.put(None)
