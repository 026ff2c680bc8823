"""Deprecation of public names: each still works, and says since when, until when, and what to use instead.

    @deprecated(since="1.2", removed_in="1.4", instead="llmtune.start(job, provider)")
    def launch(job): ...

A parameter, a field or an option that is deprecated calls `warn` where it is used. How long that lasts is promised in
docs/versioning.md; `make check` fails on the day when a name should be gone and is not.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from llmtune.errors import LlmtuneWarning

_P = ParamSpec("_P")
_R = TypeVar("_R")


class LlmtuneDeprecationWarning(LlmtuneWarning, DeprecationWarning):
    """A public name that still works and will be removed. Python shows it in tests and in the program itself, not in
    libraries; the command line always does."""


def sentence(what: str, *, since: str, removed_in: str, instead: str) -> str:
    """Return the sentence of a deprecation: "`what` is deprecated since 1.2 and is removed in 1.4; use Y instead".

    Args:
        what: the name as people write it.
        since: the version that deprecated it ("1.2").
        removed_in: the version in which it is gone.
        instead: what to write ("Y").

    Raises:
        ValueError: it would be removed before, or with, the version that deprecated it.
    """
    if release(removed_in) <= release(since):
        raise ValueError(f"{what}: deprecated since {since}, so it cannot be removed in {removed_in} already")
    return f"{what} is deprecated since {since} and is removed in {removed_in}; use {instead} instead"


def warn(what: str, *, since: str, removed_in: str, instead: str, stacklevel: int = 2) -> None:
    """Tell the caller that something is deprecated.

    Args:
        what: the name as people write it: "the option --split", "hyperparameters.lr".
        since: the version that deprecated it ("1.2").
        removed_in: the version in which it is gone.
        instead: what to write, as it is written.
        stacklevel: whose line the warning names; 2 is the caller of the function that calls `warn`.

    Raises:
        ValueError: `removed_in` is not after `since`.
    """
    text = sentence(what, since=since, removed_in=removed_in, instead=instead)
    warnings.warn(text, LlmtuneDeprecationWarning, stacklevel=stacklevel + 1)


def deprecated(*, since: str, removed_in: str, instead: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Mark a function or method that will be removed: each call warns, and the docstring says so.

    The sentence is the function's `__deprecated__`, where type checkers and `make check` look.

    Args:
        since: the version that deprecated it ("1.2").
        removed_in: the version in which it is gone.
        instead: what to write, as it is written.

    Raises:
        ValueError: `removed_in` is not after `since`; at import, where it is noticed.
    """

    def mark(function: Callable[_P, _R]) -> Callable[_P, _R]:
        text = sentence(function.__qualname__, since=since, removed_in=removed_in, instead=instead)

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            warnings.warn(text, LlmtuneDeprecationWarning, stacklevel=2)
            return function(*args, **kwargs)

        call.__doc__ = f"{(function.__doc__ or '').rstrip()}\n\n{text[0].upper()}{text[1:]}.".lstrip()
        call.__deprecated__ = text  # type: ignore[attr-defined]
        call.__removed_in__ = removed_in  # type: ignore[attr-defined]
        return call

    return mark


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to compare it by: "1.2" and "1.2.0" are both (1, 2).

    Raises:
        ValueError: the text is anything but numbers and dots.
    """
    numbers = [int(part) for part in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
