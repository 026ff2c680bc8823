"""The list of all runs: searchable, sortable, ticked to be compared; unfinished runs are updated live."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

import orjson

from llmtune.provider.types import RunState
from llmtune.report.document import Document, Section, Span, Text
from llmtune.report.format import count, metric_name, number
from llmtune.report.html import page
from llmtune.runs.store.queries import ListedRun, count_runs, list_runs, stored_reports
from llmtune.runs.store.store import UNFINISHED, Store

#: Most runs in the list: the newest ones.
MAX_RUNS = 2000
#: Most reports that one request for results reads.
MAX_RESULTS_PER_REQUEST = 25


def render(store: Store) -> str:
    """Return the page with the newest runs."""
    runs = list_runs(store, limit=MAX_RUNS)
    amount = count_runs(store) if len(runs) == MAX_RUNS else len(runs)
    if not runs:
        empty = Text(["There are no runs in this store yet: ", Span("llmtune tune job.yaml --provider local", "code")])
        return page.render(
            Document(title="llmtune", sections=[Section("runs", "Runs", [empty])]), connect=True, home="/"
        )
    data = {"list": {"moving": "/moving", "results": "/results", "at_once": MAX_RESULTS_PER_REQUEST, "known": amount}}
    return page.render(
        Document(title="llmtune: runs"),
        data=data,
        connect=True,
        home="/",
        template=files("llmtune.web").joinpath("list.html").read_text(encoding="utf-8"),
        caption=f"The newest {count(len(runs), 'run')} of {amount:,}" if amount > len(runs) else count(amount, "run"),
        states=[state.value for state in RunState if any(run.state is state for run in runs)],
        runs=[(run, format_steps(run), format_time(run.created)) for run in runs],
    )


def format_steps(run: ListedRun) -> str:
    """Format the steps done: "40/120", "40", or nothing."""
    if run.step is None:
        return ""
    return f"{run.step:,}/{run.total:,}" if run.total else f"{run.step:,}"


def format_time(seconds: float) -> str:
    """Format a time (seconds since 1970 UTC) in this machine's time zone."""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def list_running(store: Store) -> dict[str, Any]:
    """Return the runs that have not ended, and how many runs there are in all, as plain data."""
    return {
        "known": count_runs(store),
        "runs": [
            {"id": run.id, "state": run.state.value, "steps": format_steps(run), "step": run.step}
            for run in list_runs(store, only=UNFINISHED)
        ],
    }


class Results:
    """Results of finished runs, by their main metric. A stored report never changes: each is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_run: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def get(self, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return by id "text" ("accuracy 91.0%") and "value" to sort by; a run without a report is left out."""
        with self._lock:
            missing = [run_id for run_id in run_ids if run_id not in self._by_run]
            for run_id, text in stored_reports(self._store, missing).items() if missing else ():
                try:
                    self._by_run[run_id] = _read_result(orjson.loads(text))
                except ValueError:
                    self._by_run[run_id] = {"text": "its report is damaged", "value": ""}
            return {run_id: self._by_run[run_id] for run_id in run_ids if run_id in self._by_run}


def _read_result(report: dict[str, Any]) -> dict[str, Any]:
    """Read the result from plain data: validating a thousand reports would take a minute."""
    evaluation = report.get("evaluation") or {}
    tuned = (evaluation.get("systems") or {}).get("tuned") or {}
    for metric in tuned.get("metrics") or ():
        if metric["name"] == evaluation.get("main") and isinstance(metric["value"], int | float):
            value = float(metric["value"])
            return {"text": f"{metric_name(metric['name'])} {number(value, metric['unit'])}", "value": value}
    points = (report.get("series", {}).get("validation/loss") or {}).get("points")
    if points and isinstance(points[-1]["value"], int | float):
        return {"text": f"validation loss {number(points[-1]['value'])}", "value": float(points[-1]["value"])}
    return {"text": "not evaluated", "value": ""}
