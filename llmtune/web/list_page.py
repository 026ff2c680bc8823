"""The list of all runs: searchable, sortable, ticked to be compared; unfinished runs are updated live."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from llmtune.provider.types import RunState
from llmtune.report.format import count, metric_name, number
from llmtune.report.html.elements import Child, el
from llmtune.report.html.page import Section, page, sorted_by, table
from llmtune.report.html.run import state_mark
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
        empty = el("p", "There are no runs in this store yet: ", el("code", "llmtune tune job.yaml --provider local"))
        return page("llmtune", [Section("runs", "Runs", empty)], connect=True, home="/")
    states = [state.value for state in RunState if any(run.state is state for run in runs)]
    tools = el(
        "div",
        el("input", type="search", id="find", placeholder="Name, model, backend, id\u2026", aria_label="Find runs"),
        el(
            "select",
            el("option", "any state", value=""),
            [el("option", state, value=state) for state in states],
            id="state",
            aria_label="State",
        ),
        el("button", "Compare", type="submit", id="compare"),
        el("span", id="found", class_="dim", role="status"),
        class_="tools",
    )
    rows = table(
        ["", "name", "state", "result", "step", "backend", "model", "started", "run"],
        [_render_row(run) for run in runs],
        numbers=(4,),
        caption=f"The newest {count(len(runs), 'run')} of {amount:,}" if amount > len(runs) else count(amount, "run"),
    )
    form = el("form", tools, rows, action="/compare", method="get", id="list")
    data = {"list": {"moving": "/moving", "results": "/results", "at_once": MAX_RESULTS_PER_REQUEST, "known": amount}}
    return page("llmtune: runs", [Section("runs", "Runs", form)], data=data, connect=True, home="/")


def _render_row(run: ListedRun) -> list[Child]:
    tick = el("input", type="checkbox", name="run", value=run.id, aria_label=f"Compare {run.name}, {run.id}")
    return [
        el("td", tick, class_="tick"),
        el("td", el("a", run.name, href=f"/runs/{run.id}"), class_="label"),
        sorted_by(run.state.value, state_mark(run.state.value)),
        el("td", data_result=run.id if run.state is RunState.SUCCEEDED else None, data_v=""),
        sorted_by(run.step if run.step is not None else "", format_steps(run), class_="n"),
        run.provider,
        el("td", run.model, class_="label"),
        sorted_by(run.created, format_time(run.created)),
        el("td", el("code", run.id)),
    ]


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
