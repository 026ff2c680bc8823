"""What is deprecated works, and says since when, until when, and what instead; to whoever calls it."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from llmtune.deprecation import LlmtuneDeprecationWarning, deprecated, release, warn
from llmtune.errors import LlmtuneWarning


@deprecated(since="1.2", removed_in="1.4", instead="start(job)")
def launch(job: str) -> str:
    """Start a job."""
    return f"launched {job}"


def test_a_deprecated_function_works_and_warns_its_caller() -> None:
    with pytest.warns(LlmtuneDeprecationWarning) as caught:
        assert launch("j") == "launched j"
    assert str(caught[0].message) == "launch is deprecated since 1.2 and is removed in 1.4; use start(job) instead"
    assert caught[0].filename == __file__
    assert launch.__doc__ == (
        "Start a job.\n\nLaunch is deprecated since 1.2 and is removed in 1.4; use start(job) instead."
    )
    assert launch.__deprecated__ in str(caught[0].message)  # type: ignore[attr-defined]


def test_the_warning_is_of_both_kinds() -> None:
    assert issubclass(LlmtuneDeprecationWarning, DeprecationWarning)
    assert issubclass(LlmtuneDeprecationWarning, LlmtuneWarning)


def test_a_parameter_that_goes_names_the_line_of_the_caller() -> None:
    def begin(*, speed: int | None = None) -> None:
        if speed is not None:
            warn("the parameter speed", since="1.2", removed_in="1.4", instead="pace")

    with pytest.warns(LlmtuneDeprecationWarning, match=r"the parameter speed is deprecated .* use pace") as caught:
        begin(speed=3)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begin()


@pytest.mark.parametrize("removed_in", ["1.2", "1.1", "1.2.0"])
def test_nothing_goes_in_the_version_that_deprecates_it(removed_in: str) -> None:
    with pytest.raises(ValueError, match="cannot be removed in"):
        deprecated(since="1.2", removed_in=removed_in, instead="x")(lambda: None)


def test_versions_compare_by_number() -> None:
    assert release("1.10") > release("1.9.3")
    assert release("2.0") == release("2")
    with pytest.raises(ValueError):
        release("soon")


def test_the_command_line_shows_it_to_whoever_typed_it() -> None:
    code = """
from llmtune.cli import main
import llmtune.cli.app as app
from llmtune.deprecation import warn
import sys

@app.app.command("old")
def old():
    warn("the command old", since="1.2", removed_in="1.4", instead="new")

sys.argv = ["llmtune", "old"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stderr.split()) == (
        "warning: the command old is deprecated since 1.2 and is removed in 1.4; use new instead"
    )
