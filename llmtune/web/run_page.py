"""The page of one run: its report once there is one, until then what is known, moving as it trains."""

from __future__ import annotations

import time
from typing import Any

from markupsafe import Markup

from llmtune.metrics.points import merge
from llmtune.report.format import count, number, seconds
from llmtune.report.html.charts import chart_data, kind_of, plain_number
from llmtune.report.html.elements import el
from llmtune.report.html.page import Section, page
from llmtune.report.html.run import header, sections
from llmtune.report.schema import Report
from llmtune.runs.evaluation import draft_report
from llmtune.runs.store.queries import points_after
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

#: Events shown of a run, the newest ones.
EVENTS = 50
#: Seconds without news after which the page says that perhaps nobody follows the run.
QUIET = 60.0


_LEVELS = {"error": "bad", "warning": "doubt"}


def report_of(store: Store, run_id: str) -> Report:
    """The report that was kept, or one of what is known now."""
    record = store.get(run_id)
    kept = store.report(run_id) if record.state.final else None
    return Report.from_json(kept) if kept is not None else draft_report(store, record)


def render(store: Store, run_id: str) -> str:
    """The page."""
    record = store.get(run_id)
    points = points_after(store, run_id)  # before the report: what comes in between is sent as news, and known already
    report = report_of(store, run_id)
    charts = chart_data(report.series)
    title = f"{report.identity.job_name} \u00b7 {run_id}"
    data: dict[str, Any] = {"charts": charts}
    top = header(report)
    if not record.state.final:
        seen = max((seq for seq, _ in points), default=0)
        told = max((seq for seq, _ in store.events(run_id)), default=0)
        data["live"] = {"url": f"/runs/{run_id}/live", "after": seen, "events": told}
        top += _progress(record)
    shown = [*sections(report, charts), _events(store, run_id)]
    return page(title, shown, header=top, data=data, connect=True, home="/")


def news(store: Store, run_id: str, after: int, events_after: int = 0) -> dict[str, Any]:
    """What a live page has not seen yet: points and events with a number above these."""
    record = store.get(run_id)
    events = store.events(run_id, after=events_after)
    fresh = points_after(store, run_id, after)
    series = merge(point for _, point in fresh)
    return {
        "state": record.state.value,
        "final": record.state.final,
        "after": max((seq for seq, _ in fresh), default=after),
        "curves": [
            {
                "name": name,
                "chart": kind_of(name),
                "steps": list(each.steps),
                "values": [plain_number(value) for value in each.values],
                "last": number(each.values[-1]),
            }
            for name, each in series.items()
        ],
        "events": max((seq for seq, _ in events), default=events_after),
        "said": [{"message": event.message, "level": _LEVELS.get(event.level, "")} for _, event in events[-EVENTS:]],
        "step": record.progress.step,
        "total": record.progress.total_steps,
        "says": _says(record),
        "quiet": _quiet(record),
    }


def _progress(record: RunRecord) -> Markup:
    step, total = record.progress.step, record.progress.total_steps
    return el(
        "div",
        el("progress", value=step or 0, max=total or 1, id="progress", aria_label="Steps done"),
        el("p", el("span", _says(record), id="says"), " ", el("span", _quiet(record), id="quiet", class_="stale")),
        class_="moving",
    )


def _says(record: RunRecord) -> str:
    progress = record.progress
    parts = [record.state.value]
    if progress.step is not None:
        parts.append(
            f"step {progress.step:,} of {progress.total_steps:,}" if progress.total_steps else f"step {progress.step:,}"
        )
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{seconds(progress.seconds_left)} left")
    return ", ".join(parts)


def _quiet(record: RunRecord) -> str:
    silent = time.time() - record.updated
    if silent < QUIET or record.state.final:
        return ""
    return f"No news for {seconds(silent)}. Follow it with: llmtune runs attach {record.id}"


def _events(store: Store, run_id: str) -> Section:
    events = store.events(run_id)
    lines = [el("li", event.message, class_=_LEVELS.get(event.level)) for _, event in events[-EVENTS:]]
    if not lines:
        return Section("events", "Events", Markup(""))
    more = (
        el("p", f"The last {count(EVENTS, 'event')} of {len(events):,}.", class_="hint") if len(events) > EVENTS else ""
    )
    return Section("events", "Events", el("ul", lines[::-1]) + more)
