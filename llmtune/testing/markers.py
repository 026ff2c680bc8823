"""Marks for tests of the conformance suite that cannot pass for a provider. A marked test must fail."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest


@dataclass(frozen=True)
class Mark:
    """Why a test of the suite cannot pass for a provider. The test must then fail; it is reported as an xfail.

    `kind` says who would have to change, `reason` what is missing.
    """

    kind: Literal["notimpl", "notyet", "never"]
    reason: str


def notimpl(reason: str) -> Mark:
    """Mark a test of a feature that the vendor has and the provider does not support yet."""
    return Mark("notimpl", reason)


def notyet(reason: str) -> Mark:
    """Mark a test of a feature that the vendor does not have yet."""
    return Mark("notyet", reason)


def never(reason: str) -> Mark:
    """Mark a test that does not apply to this vendor."""
    return Mark("never", reason)


def expect_failure(test: Callable[..., Any], mark: Mark) -> Callable[..., Any]:
    """Return the test as a strict xfail, so that a mark which is no longer true fails."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        return test(*args, **kwargs)

    decorate = pytest.mark.xfail(strict=True, reason=f"{mark.kind}: {mark.reason}")
    expected: Callable[..., Any] = decorate(run)
    return expected
