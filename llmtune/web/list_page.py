"""The list of all runs: found by typing, sorted by any column, ticked to be compared; what runs moves by itself."""

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
from llmtune.runs.store.queries import ListedRun, how_many, kept_reports, listed
from llmtune.runs.store.store import UNFINISHED, Store

#: Runs in the list, at most: the newest ones.
MOST = 2000
#: Reports that one question for results reads, at most.
RESULTS_AT_ONCE = 25


def render(store: Store) -> str:
    """The page."""
    runs = listed(store, limit=MOST)
    amount = how_many(store) if len(runs) == MOST else len(runs)
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
        [_row(run) for run in runs],
        numbers=(4,),
        caption=f"The newest {count(len(runs), 'run')} of {amount:,}" if amount > len(runs) else count(amount, "run"),
    )
    form = el("form", tools, rows, action="/compare", method="get", id="list")
    data = {"list": {"moving": "/moving", "results": "/results", "at_once": RESULTS_AT_ONCE, "known": amount}}
    return page("llmtune: runs", [Section("runs", "Runs", form)], data=data, connect=True, home="/")


def _row(run: ListedRun) -> list[Child]:
    tick = el("input", type="checkbox", name="run", value=run.id, aria_label=f"Compare {run.name}, {run.id}")
    return [
        el("td", tick, class_="tick"),
        el("td", el("a", run.name, href=f"/runs/{run.id}"), class_="label"),
        sorted_by(run.state.value, state_mark(run.state.value)),
        el("td", data_result=run.id if run.state is RunState.SUCCEEDED else None, data_v=""),
        sorted_by(run.step if run.step is not None else "", steps(run), class_="n"),
        run.provider,
        el("td", run.model, class_="label"),
        sorted_by(run.created, when(run.created)),
        el("td", el("code", run.id)),
    ]


def steps(run: ListedRun) -> str:
    """ "40/120", "40", or nothing."""
    if run.step is None:
        return ""
    return f"{run.step:,}/{run.total:,}" if run.total else f"{run.step:,}"


def when(seconds: float) -> str:
    """A moment, in this machine's time."""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def moving(store: Store) -> dict[str, Any]:
    """The runs that have not ended, and how many there are in all."""
    return {
        "known": how_many(store),
        "runs": [
            {"id": run.id, "state": run.state.value, "steps": steps(run), "step": run.step}
            for run in listed(store, only=UNFINISHED)
        ],
    }


class Results:
    """What finished runs reached, by their main metric. A kept report never changes: each is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def of(self, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """By id: "text" ("accuracy 91.0%") and "value" to sort by; a run without a report is left out."""
        with self._lock:
            missing = [run_id for run_id in run_ids if run_id not in self._known]
            for run_id, text in kept_reports(self._store, missing).items() if missing else ():
                try:
                    self._known[run_id] = _result(orjson.loads(text))
                except ValueError:
                    self._known[run_id] = {"text": "its report is damaged", "value": ""}
            return {run_id: self._known[run_id] for run_id in run_ids if run_id in self._known}


def _result(report: dict[str, Any]) -> dict[str, Any]:
    """Read from plain data: validating a thousand reports would take a minute."""
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
