"""Curves: sorted, single, with the source kept, and with "not reported" as a value of its own."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from llmtune.metrics.points import SERIES, SOURCE_ORDER, MetricPoint, NotReported, Series, merge, series_info


def point(step: int, value: float, series: str = "train/loss", **more: object) -> MetricPoint:
    return MetricPoint.model_validate({"step": step, "series": series, "value": value, **more})


def test_points_come_out_sorted_by_step() -> None:
    series = Series(name="train/loss", points=(point(3, 0.3), point(1, 0.9), point(2, 0.5)))
    assert series.steps == (1, 2, 3)
    assert series.values == (0.9, 0.5, 0.3)


def test_a_vendor_file_replaces_the_api_and_neither_is_replaced_by_what_we_compute() -> None:
    api = point(1, 0.5, source="vendor_api")
    file = point(1, 0.52347, source="vendor_file")
    computed = point(1, 0.6, source="computed")
    for order in ([api, file, computed], [computed, file, api], [file, computed, api], [computed, api, file]):
        assert Series(name="train/loss", points=tuple(order)).points == (file,)
    assert Series(name="train/loss", points=(computed, api)).points == (api,)


def test_of_one_source_the_later_value_is_kept() -> None:
    series = Series(name="train/loss", points=(point(1, 0.5), point(1, 0.4)))
    assert series.values == (0.4,)


def test_last_first_and_best() -> None:
    loss = Series(
        name="validation/loss", points=tuple(point(s, v, "validation/loss") for s, v in [(1, 0.9), (2, 0.4), (3, 0.6)])
    )
    assert loss.first is not None
    assert loss.first.step == 1
    assert loss.last is not None
    assert loss.last.value == 0.6
    assert loss.best is not None
    assert loss.best.step == 2
    accuracy = Series(
        name="validation/token_accuracy",
        points=tuple(point(s, v, "validation/token_accuracy") for s, v in [(1, 0.7), (2, 0.9), (3, 0.9)]),
    )
    assert accuracy.best is not None
    assert accuracy.best.step == 2  # the earliest of equals


def test_best_ignores_a_diverged_value_and_is_none_where_no_direction_is_good() -> None:
    loss = Series(name="train/loss", points=(point(1, math.nan), point(2, 0.4), point(3, -math.inf)))
    assert loss.best is not None
    assert loss.best.step == 2
    rate = Series(name="train/learning_rate", points=(point(1, 1e-4, "train/learning_rate"),))
    assert rate.best is None


def test_an_empty_series_has_no_last() -> None:
    empty = Series(name="train/loss")
    assert empty.first is empty.last is empty.best is None
    assert len(empty) == 0


def test_points_of_another_series_are_refused() -> None:
    with pytest.raises(ValidationError, match="holds points of validation/loss"):
        Series(name="train/loss", points=(point(1, 0.5, "validation/loss"),))


def test_merge_orders_canonical_names_first_and_keeps_the_backends_own() -> None:
    series = merge([point(1, 7.0, "train/total_things"), point(1, 0.4, "validation/loss"), point(1, 0.5)])
    assert list(series) == ["train/loss", "validation/loss", "train/total_things"]
    assert series["train/loss"].unit == "nats/token"
    assert series["train/total_things"].unit == ""


def test_sources_are_listed_best_first() -> None:
    series = Series(name="train/loss", points=(point(1, 0.5, source="vendor_api"), point(2, 0.4, source="vendor_file")))
    assert series.sources == ("vendor_file", "vendor_api")


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(-5, 5), st.sampled_from(SOURCE_ORDER)), max_size=20))
def test_merging_twice_changes_nothing_and_no_step_is_lost(raw: list[tuple[int, float, str]]) -> None:
    points = [point(step, value, source=source) for step, value, source in raw]
    once = merge(points)
    assert merge(p for series in once.values() for p in series.points) == once
    steps = once["train/loss"].steps if once else ()
    assert set(steps) == {step for step, _, _ in raw}
    assert list(steps) == sorted(set(steps))


class Holder(BaseModel):
    curve: Series | NotReported
    value: float | NotReported


def test_not_reported_is_no_zero_and_survives_json() -> None:
    absent = NotReported("no validation rows were sent")
    assert not absent
    assert absent != 0
    assert str(absent) == "not reported (no validation rows were sent)"
    holder = Holder(curve=absent, value=absent)
    assert Holder.model_validate_json(holder.model_dump_json()) == holder


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.1, 1e-300])
def test_a_diverged_loss_survives_json(value: float) -> None:
    series = Series(name="train/loss", points=(point(1, value),))
    back = Series.model_validate_json(series.model_dump_json())
    assert repr(back.values) == repr(series.values)
    assert repr(Series.model_validate(series.model_dump(mode="json")).values) == repr(series.values)


@pytest.mark.parametrize(
    "bad", [{"step": -1}, {"step": 1.5}, {"series": ""}, {"epoch": -0.1}, {"source": "guessed"}, {"colour": 1}]
)
def test_nonsense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MetricPoint.model_validate({"step": 1, "series": "train/loss", "value": 0.5} | bad)


def test_points_are_frozen() -> None:
    with pytest.raises(ValidationError):
        point(1, 0.5).value = 0.4  # type: ignore[misc]


def test_every_canonical_series_says_what_it_measures() -> None:
    for name, info in SERIES.items():
        assert name.split("/")[0] in ("train", "validation")
        assert info.title
        assert info.meaning
    assert series_info("train/odd_loss").better == "lower"
    assert series_info("train/odd").better is None


def test_importing_points_brings_no_heavy_package() -> None:
    heavy = "('numpy', 'sklearn', 'scipy', 'pandas', 'rich')"
    code = f"import sys, llmtune.metrics.points; print([name for name in {heavy} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
