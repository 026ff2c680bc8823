"""docs/metrics.md speaks of everything there is."""

from __future__ import annotations

from pathlib import Path

from llmtune.evaluation.scoring import LABEL_METRICS, ROW_METRICS, TOKEN_METRICS
from llmtune.metrics.labels import RULES
from llmtune.metrics.points import SERIES, SOURCE_ORDER
from llmtune.metrics.text import METRICS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_page_names_every_series_metric_rule_and_source() -> None:
    averages = {name for name in LABEL_METRICS if name.endswith(("_precision", "_recall"))}  # written as a pattern
    wanted = {*SERIES, *METRICS, *ROW_METRICS, *TOKEN_METRICS, *RULES, *SOURCE_ORDER, *LABEL_METRICS} - averages
    assert {name for name in wanted if f"`{name}`" not in PAGE} == set()
