"""Calling a vendor's SDK: whether it is installed, and its exceptions as those of llmtune."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from llmtune.errors import LlmtuneError, VendorError


def is_installed(module: str) -> bool:
    """Whether a module can be imported; only its parent packages are imported to find out."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def translate_errors(translate: Callable[[Exception], Exception | None]) -> Iterator[None]:
    """Raise `translate(error)` in place of an exception raised inside.

    llmtune's own errors pass through, and so does an exception for which `translate` returns None.
    """
    try:
        yield
    except LlmtuneError:
        raise
    except Exception as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error


@contextmanager
def ignore_not_found() -> Iterator[None]:
    """Swallow the vendor's 404: what is gone already need not be removed."""
    try:
        yield
    except VendorError as error:
        if error.status != 404:
            raise
