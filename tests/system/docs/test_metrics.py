"""docs/metrics.md speaks of everything there is."""

from __future__ import annotations

from pathlib import Path

from llmtune.metrics.labels import RULES
from llmtune.metrics.points import SERIES, SOURCE_ORDER
from llmtune.metrics.registry import LABEL_AVERAGE, METRICS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_page_names_every_series_metric_rule_and_source() -> None:
    patterns = {name for name in METRICS if LABEL_AVERAGE.fullmatch(name) and not name.endswith("_f1")}
    names = {*SERIES, *METRICS, *RULES, *SOURCE_ORDER} - patterns
    assert {name for name in names if f"`{name}`" not in PAGE} == set()
