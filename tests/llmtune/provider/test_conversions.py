"""Conversions and value types that several vendors declare."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.job.spec import Hyperparameters
from llmtune.provider import (
    ConversionContext,
    ConvertedValue,
    Float,
    Int,
    NotConvertible,
    Tags,
    max_steps_as_epochs,
    multiplier_as_rate,
)
from llmtune.provider.conversions import whole_number


def facts(rows: int | None = None, **values: Any) -> ConversionContext:
    """Build the context of a rule."""
    return ConversionContext(hyperparameters=Hyperparameters(**values), rows=rows)


def test_a_whole_number_stays_and_a_fraction_is_refused() -> None:
    assert whole_number(12.0, facts()) == ConvertedValue(12, "", exact=True)
    assert whole_number(12.5, facts()) == NotConvertible("must be a whole number here, not 12.5", invalid=True)


def test_steps_become_epochs_by_the_vendors_batch_size_where_the_job_sets_none() -> None:
    declared = max_steps_as_epochs("passes", Int(1), "page", batch_size=10, default=None)
    assert declared.request_path == "passes"
    assert declared.description.endswith("(default 10)")
    changed = declared.rule(11, facts(rows=50))
    assert isinstance(changed, ConvertedValue)
    assert changed.value == 3


def test_a_multiplier_becomes_a_rate_by_the_published_default() -> None:
    declared = multiplier_as_rate("rate", Float(gt=0), 0.5, "Acme", "page", note="seen once")
    assert (declared.default, declared.note, declared.description) == (
        1.0,
        "seen once",
        "x Acme's published default 0.5",
    )
    changed = declared.rule(3.0, facts())
    assert isinstance(changed, ConvertedValue)
    assert changed.value == 1.5


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"team": "red"}, None),
        ({"Team": "red"}, "not Team=red"),
        ({"team": "red!"}, "not team=red!"),
        ({"run": "red"}, "must not hold 'run', which carries llmtune's own key"),
        ({"a": "a", "b": "b", "c": "c"}, "at most 2 tags, small letters"),
        ("team", "at most 2 tags"),
    ],
)
def test_tags_are_held_to_their_patterns(value: Any, fault: str | None) -> None:
    tags = Tags(most=2, names="[a-z]+", values="[a-z]*", rule="small letters", own="run")
    error = tags.error(value)
    assert error is None if fault is None else fault in (error or "")
