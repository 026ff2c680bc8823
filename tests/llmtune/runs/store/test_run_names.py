"""A text names a run: which of several with one name it is, and when nothing is guessed."""

from __future__ import annotations

import pytest

from llmtune.errors import AmbiguousRun, RunNotFound
from llmtune.runs.store.run_names import Preference, RunMatch, RunName, match_run


def run(id: str, name: str, state: str, created: float, provider: str = "local") -> RunName:
    return RunName(id, f"lt{id}", name, provider, state, created)


RUNS = [
    run("aaaaaaaaaa", "tickets", "succeeded", 1.0),
    run("bbbbbbbbbb", "tickets", "succeeded", 2.0, "bedrock"),
    run("cccccccccc", "tickets", "failed", 3.0),
    run("dddddddddd", "tickets", "running", 4.0, "bedrock"),
    run("eeeeeeeeee", "tickets", "queued", 5.0),
    run("ffffffffff", "mails", "failed", 6.0),
    run("gggggggggg", "a/b@1", "failed", 7.0),
]


@pytest.mark.parametrize(
    ("text", "prefer", "expected"),
    [
        ("tickets", "succeeded", "b"),
        ("tickets", "unfinished", "e"),
        ("tickets", "newest", "e"),
        ("tickets/local", "succeeded", "a"),
        ("tickets/bedrock", "unfinished", "d"),
        ("tickets@1", None, "a"),
        ("tickets@5", "succeeded", "e"),
        ("tickets/bedrock@2", None, "d"),
        ("mails", "succeeded", "f"),  # the only one of its name, whatever became of it
        ("mails/local", None, "f"),
        ("a/b@1", None, "g"),  # a name may look like that itself
        ("ccc", None, "c"),
        ("ltccc", None, "c"),
        ("cccccccccc", None, "c"),
    ],
)
def test_a_text_names_one_run(text: str, prefer: Preference, expected: str) -> None:
    match = match_run(text, RUNS, prefer)
    assert match is not None
    assert match.id == expected * 10


def test_the_choice_among_several_is_explained() -> None:
    assert match_run("tickets", RUNS, "succeeded") == RunMatch(
        "b" * 10, "run bbbbbbbbbb: the newest of 5 runs named 'tickets' that succeeded"
    )
    assert match_run("mails", RUNS, "succeeded") == RunMatch("f" * 10)


@pytest.mark.parametrize("text", ["tickets", "tickets/local", "tickets/bedrock"])
def test_nothing_is_guessed_without_a_preference(text: str) -> None:
    with pytest.raises(AmbiguousRun, match=f"runs are named '{text}': .*(succeeded|failed) at (local|bedrock), 1970"):
        match_run(text, RUNS)


def test_none_of_the_preferred_state_is_a_sentence_with_the_candidates() -> None:
    failed = [run("aaaaaaaaaa", "t", "failed", 1.0), run("bbbbbbbbbb", "t", "cancelled", 2.0)]
    with pytest.raises(AmbiguousRun, match=r"none of the 2 runs named 't' succeeded: bbbbbbbbbb \(cancelled at local"):
        match_run("t", failed, "succeeded")
    with pytest.raises(AmbiguousRun, match="none of the 2 runs named 't' is unfinished"):
        match_run("t", failed, "unfinished")


def test_many_candidates_are_counted() -> None:
    many = [run(f"{number:010d}", "t", "failed", float(number)) for number in range(9)]
    with pytest.raises(AmbiguousRun, match=r"9 runs are named 't': 0000000008.* and 4 older ones"):
        match_run("t", many)


@pytest.mark.parametrize("text", ["tickets@6", "tickets@0"])
def test_a_number_that_no_run_has(text: str) -> None:
    with pytest.raises(RunNotFound, match=f"there are only 5 runs of that name, so none is '{text}'"):
        match_run(text, RUNS)


@pytest.mark.parametrize("text", ["", "nothing", "tickets/vertex", "mail@1", "@1", "/local"])
def test_what_names_nothing(text: str) -> None:
    assert match_run(text, RUNS, "newest") is None
