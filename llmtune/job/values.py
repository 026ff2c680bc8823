"""Checks of plain values, the same for job files and for jobs built in Python: what no job can hold is refused."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from llmtune.errors import InvalidJob

#: Values, counted where an alias repeats them, and levels that a job may hold.
VALUES, DEPTH = 100_000, 50


def check_values(data: Any, source: str = "") -> None:
    """Refuse values that no job can hold: NUL, half a surrogate pair, integers of more than 64 bits, endless nesting.

    Level by level: a value that an alias repeats counts each time, and one that holds itself never ends.

    Args:
        data: the values.
        source: what the sentences begin with: the file.

    Raises:
        InvalidJob: the first such value, by its field.
    """
    prefix = f"{source}: " if source else ""
    level: list[tuple[str, Any]] = [("", data)]
    count = depth = 0
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > DEPTH:
            raise InvalidJob(f"{prefix}nested too deeply for a job{' file' if source else ''} (at most {DEPTH} levels)")
        following: list[tuple[str, Any]] = []
        for where, value in level:
            _check_scalar(value, prefix, where)
            if isinstance(value, dict):
                for name, inner in value.items():
                    _check_scalar(name, prefix, where)
                    following.append((f"{where}.{name}" if where else str(name), inner))
            elif isinstance(value, list | tuple | set | frozenset):
                following += [(where, inner) for inner in value]
            if count + len(following) > VALUES:
                raise InvalidJob(f"{prefix}more than {VALUES:,} values, counted as often as aliases repeat them")
        level = following


def _check_scalar(value: Any, prefix: str, where: str) -> None:
    problem = None
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, str):
        problem = find_text_problem(value)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        problem = "is a whole number of more than 64 bits"
    if problem is not None:
        raise InvalidJob(f"{prefix}{where or 'a name'} {problem}")


def find_text_problem(text: str) -> str | None:
    """Return why no store, file or request can hold a text, as the end of a sentence; None if they can."""
    if "\0" in text:
        return "holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half a surrogate pair, which is not a character"
    return None
