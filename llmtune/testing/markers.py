"""Marks on tests of the conformance suite that cannot pass for a provider. A marked test must fail."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest


@dataclass(frozen=True)
class Mark:
    """Why a test of the suite cannot pass for a provider. The test must then fail, and is reported as expected.

    `kind` says whose turn it is, `reason` what is lacking, in words.
    """

    kind: Literal["notimpl", "notyet", "never"]
    reason: str


def notimpl(reason: str) -> Mark:
    """The vendor can do it; our adapter does not yet."""
    return Mark("notimpl", reason)


def notyet(reason: str) -> Mark:
    """The vendor cannot do it yet."""
    return Mark("notyet", reason)


def never(reason: str) -> Mark:
    """It makes no sense for this vendor."""
    return Mark("never", reason)


def marked(test: Callable[..., Any], mark: Mark) -> Callable[..., Any]:
    """The same test, expected to fail; xfail is strict, so that a mark that has become wrong fails."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        return test(*args, **kwargs)

    decorate = pytest.mark.xfail(strict=True, reason=f"{mark.kind}: {mark.reason}")
    expected: Callable[..., Any] = decorate(run)
    return expected
