"""The report's tables as rows of plain values, for data frames and spreadsheets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmtune.errors import UnknownName
from llmtune.evaluation.results import EvaluationResult, SystemResult
from llmtune.metrics.points import Series
from llmtune.report.schema import Report

Rows = list[dict[str, Any]]


def rows_of(report: Report, table: str) -> tuple[list[str], Rows]:
    """Return the column names and rows of a table. Raises `UnknownName` for an unknown one."""
    if table not in _TABLES:
        raise UnknownName("table", table, _TABLES)
    columns, make = _TABLES[table]
    return columns, make(report)


def _series(report: Report) -> Rows:
    return [
        {
            "series": series.name,
            "step": point.step,
            "value": point.value,
            "unit": series.unit,
            "epoch": point.epoch,
            "time": point.time,
            "source": point.source,
            "raw_name": point.raw_name,
        }
        for series in report.series.values()
        if isinstance(series, Series)
        for point in series.points
    ]


def _systems(report: Report) -> list[SystemResult]:
    if not isinstance(report.evaluation, EvaluationResult):
        return []
    return [system for system in report.evaluation.systems.values() if isinstance(system, SystemResult)]


def _metrics(report: Report) -> Rows:
    rows = []
    for system in _systems(report):
        named = [(system.name, metric) for metric in system.metrics]
        rows += named
    if isinstance(report.evaluation, EvaluationResult) and report.evaluation.majority is not None:
        rows.append(("majority", report.evaluation.majority.accuracy))
    return [
        {
            "system": name,
            "metric": metric.name,
            "value": metric.value,
            "low": metric.interval.low,
            "high": metric.interval.high,
            "level": metric.interval.level,
            "method": metric.interval.method,
            "rows": metric.rows,
            "unit": metric.unit,
            "better": metric.better,
        }
        for name, metric in rows
    ]


def _receipt(report: Report) -> Rows:
    return [row.model_dump() for row in report.receipt]


def _classes(report: Report) -> Rows:
    return [
        {"system": system.name, **row.model_dump()}
        for system in _systems(report)
        if system.classification is not None
        for row in system.classification.classes
    ]


def _worst(report: Report) -> Rows:
    return [{"system": system.name, **row.model_dump()} for system in _systems(report) for row in system.worst]


_TABLES: dict[str, tuple[list[str], Callable[[Report], Rows]]] = {
    "series": (["series", "step", "value", "unit", "epoch", "time", "source", "raw_name"], _series),
    "metrics": (
        ["system", "metric", "value", "low", "high", "level", "method", "rows", "unit", "better"],
        _metrics,
    ),
    "receipt": (["field", "support", "requested", "effective", "wire", "rule", "reason", "source"], _receipt),
    "classes": (["system", "label", "precision", "recall", "f1", "f_beta", "support", "predicted"], _classes),
    "worst": (["system", "row", "line", "prompt", "expected", "got", "score", "note"], _worst),
}
