"""The page of one run: its report, or while it runs a draft that is updated as it trains."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.resources import files
from typing import Any

from llmtune.metrics.points import merge
from llmtune.report.document import Document, List, Section, Span, Style, Text
from llmtune.report.format import count, number, seconds
from llmtune.report.html import page
from llmtune.report.html.charts import kind_of, plain_number
from llmtune.report.schema import Report
from llmtune.runs.evaluation import draft_report
from llmtune.runs.spending import measure_spending
from llmtune.runs.store.queries import points_after
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

#: Most events that the page shows: the newest ones.
MAX_EVENTS = 50
#: Seconds without an update after which the page says that perhaps no process follows the run.
QUIET_SECONDS = 60.0


_LEVEL_CLASSES: dict[str, Style] = {"error": "bad", "warning": "doubt"}


def load_report(store: Store, run_id: str) -> Report:
    """Return the stored report of a finished run, or a draft from the points and events so far."""
    record = store.get(run_id)
    stored = store.report(run_id) if record.state.final else None
    return Report.from_json(stored) if stored is not None else draft_report(store, record)


def render(store: Store, run_id: str) -> str:
    """Return the page of a run; for one that has not ended, with the script's data for live updates."""
    record = store.get(run_id)
    points = points_after(store, run_id)  # before the report: points in between are sent twice, which does no harm
    document: Document = load_report(store, run_id).render("document")
    document = replace(document, sections=[*document.sections, _list_events(store, run_id)])
    data: dict[str, Any] = {}
    if not record.state.final:
        last_point = max((seq for seq, _ in points), default=0)
        last_event = max((seq for seq, _ in store.events(run_id)), default=0)
        data["live"] = {"url": f"/runs/{run_id}/live", "after": last_point, "events": last_event}
    return page.render(
        document,
        data=data,
        connect=True,
        home="/",
        template=files("llmtune.web").joinpath("run.html").read_text(encoding="utf-8"),
        progress=None if record.state.final else record.progress,
        says=_describe_progress(record),
        quiet=_describe_silence(record),
    )


def collect_updates(store: Store, run_id: str, after: int, events_after: int = 0) -> dict[str, Any]:
    """Return what a live page lacks: points and events with sequence numbers above `after` and `events_after`."""
    record = store.get(run_id)
    events = store.events(run_id, after=events_after)
    new_points = points_after(store, run_id, after)
    series = merge(point for _, point in new_points)
    return {
        "state": record.state.value,
        "final": record.state.final,
        "after": max((seq for seq, _ in new_points), default=after),
        "curves": [
            {
                "name": name,
                "chart": kind_of(name),
                "steps": list(curve.steps),
                "values": [plain_number(value) for value in curve.values],
                "last": number(curve.values[-1]),
            }
            for name, curve in series.items()
        ],
        "events": max((seq for seq, _ in events), default=events_after),
        "said": [
            {"message": event.message, "level": _LEVEL_CLASSES.get(event.level, "")}
            for _, event in events[-MAX_EVENTS:]
        ],
        "step": record.progress.step,
        "total": record.progress.total_steps,
        "says": _describe_progress(record),
        "quiet": _describe_silence(record),
    }


def _describe_progress(record: RunRecord) -> str:
    progress = record.progress
    parts = [record.state.value]
    if progress.step is not None:
        parts.append(
            f"step {progress.step:,} of {progress.total_steps:,}" if progress.total_steps else f"step {progress.step:,}"
        )
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.total_answers and not record.state.final:
        parts.append(f"evaluated {progress.answers:,} of {progress.total_answers:,} rows")
    if progress.seconds_left is not None:
        parts.append(f"{seconds(progress.seconds_left)} left")
    if (spending := measure_spending(record)) is not None:
        parts.append(spending.sentence())
    return ", ".join(parts)


def _describe_silence(record: RunRecord) -> str:
    silence = time.time() - record.updated
    if silence < QUIET_SECONDS or record.state.final:
        return ""
    return f"No update for {seconds(silence)}. Follow the run with: llmtune runs attach {record.id}"


def _list_events(store: Store, run_id: str) -> Section:
    events = store.events(run_id)
    lines = [Span(event.message, _LEVEL_CLASSES.get(event.level, "")) for _, event in events[-MAX_EVENTS:]]
    more = (
        [Text(f"The last {count(MAX_EVENTS, 'event')} of {len(events):,}.", "hint")] if len(events) > MAX_EVENTS else []
    )
    return Section("events", "Events", [List(lines[::-1]), *more] if lines else ())
