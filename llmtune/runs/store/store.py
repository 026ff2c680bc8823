"""The run store: runs with their plans, requests, states, metrics and events. Each method is one transaction.

Several processes may write at once: nothing is lost, and no method returns before what it wrote is stored.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmtune.config import store_url
from llmtune.errors import LlmtuneWarning, RunNotFound, StoreError
from llmtune.metrics.points import MetricPoint
from llmtune.provider.types import Event, ModelRef, RunState, Snapshot
from llmtune.redaction.secrets import scrub
from llmtune.runs.store.ledger import Ledger
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.run_names import Preference, RunMatch, RunName, match_run, suggest_names
from llmtune.runs.store.samples import group_samples, make_event, make_ref
from llmtune.runs.store.serialization import (
    apply_snapshot,
    build_columns,
    identify_point,
    is_unchanged,
    read_record,
    read_rows,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger("llmtune")

UNFINISHED = tuple(state for state in RunState if not state.final)

# A run only moves onward: a late answer to an early poll must not call it back from finalizing.
_ORDER = {
    RunState.PLANNED: 0,
    RunState.UPLOADING: 1,
    RunState.SUBMITTING: 2,
    RunState.QUEUED: 3,
    RunState.RUNNING: 3,
    RunState.PAUSED: 3,
    RunState.CANCELLING: 4,
    RunState.FINALIZING: 5,
    RunState.SUCCEEDED: 6,
    RunState.FAILED: 6,
    RunState.CANCELLED: 6,
    RunState.LOST: 6,
}


@dataclass(frozen=True)
class Transition:
    """One change of state: the new `state`, the `time` in Unix seconds, and the reason."""

    time: float
    state: RunState
    reason: str


@dataclass(frozen=True)
class PollResult:
    """What a snapshot brought that was not known before."""

    record: RunRecord
    points: tuple[MetricPoint, ...]
    events: tuple[Event, ...]
    moved: bool


class Store(Ledger):
    """The runs of one user, or of one team. Open it with `open_store()`."""

    # --- runs ------------------------------------------------------------------------------------------------------
    def create_or_join(
        self, planned: RunRecord, *, join: bool = True, reuse: bool = False
    ) -> tuple[RunRecord, Literal["new", "joined", "reused"]]:
        """Write a planned run, unless a run of the same fingerprint is unfinished (or has succeeded, with `reuse`).

        One transaction: of two processes that start the same job at once, one makes the run and one joins it.
        """
        from llmtune.runs.store import schema

        with self.write() as connection:
            record = self._find_same(connection, planned.fingerprint, join=join, reuse=reuse)
            if record is not None:
                return record, "reused" if record.state.final else "joined"
            connection.execute(schema.runs.insert().values(build_columns(planned)))
            self._transition(connection, planned.id, planned.state, "planned", planned.created)
        return planned, "new"

    def find_by_fingerprint(self, fingerprint: str, *, reuse: bool = False) -> RunRecord | None:
        """Return the newest unfinished run of that fingerprint (with `reuse`, also one that succeeded), or None."""
        with self.read() as connection:
            return self._find_same(connection, fingerprint, join=True, reuse=reuse)

    def _find_same(self, connection: Connection, fingerprint: str, *, join: bool, reuse: bool) -> RunRecord | None:
        from llmtune.runs.store import schema

        states = [*(UNFINISHED if join else ()), *((RunState.SUCCEEDED,) if reuse else ())]
        rows = connection.execute(
            schema.runs.select()
            .where(schema.runs.c.fingerprint == fingerprint)
            .where(schema.runs.c.state.in_([state.value for state in states]))
            .order_by(schema.runs.c.created.desc())
        ).all()
        for row in rows:
            try:
                return read_record(row)
            except StoreError:
                # Of a damaged run that may have a job at the vendor, a second one would be paid for too.
                if RunState(row.state) not in (RunState.PLANNED, RunState.UPLOADING, RunState.SUCCEEDED):
                    raise
        return None

    def get(self, run_id: str) -> RunRecord:
        """Return the run of exactly that id. Raises `RunNotFound`."""
        from llmtune.runs.store import schema

        with self.read() as connection:
            row = connection.execute(schema.run_by_id, {"wanted": run_id}).first()
        if row is None:
            raise self._not_found_error(run_id)
        return read_record(row)

    def resolve(self, text: str) -> str:
        """Return the one id that starts with `text`, or whose key or name it is. Raises `RunNotFound`."""
        return self.find_run(text).id

    def find_run(self, text: str, prefer: Preference = None) -> RunMatch:
        """Return the run that `text` names: an id, its beginning, a key, or a name (see `run_names`).

        Of several runs of that name, `prefer` says which is taken. Raises `AmbiguousRun` where it does not decide, and
        `RunNotFound` where there is none.
        """
        match = match_run(text, self.run_names(), prefer)
        if match is None:
            raise self._not_found_error(text)
        return match

    def run_names(self) -> list[RunName]:
        """Return what each run can be found by, newest first."""
        from sqlalchemy import select

        from llmtune.runs.store import schema

        table = schema.runs
        columns = (table.c.id, table.c.run_key, table.c.name, table.c.provider, table.c.state, table.c.created)
        with self.read() as connection:
            rows = connection.execute(select(*columns).order_by(table.c.created.desc(), table.c.id)).all()
        return [RunName(*row) for row in rows]

    def runs(
        self,
        *,
        states: Collection[RunState] | None = None,
        provider: str | None = None,
        group: str | None = None,
        limit: int | None = None,
    ) -> list[RunRecord]:
        """List the runs, newest first, filtered by state, provider or group."""
        from llmtune.runs.store import schema

        query = schema.runs.select().order_by(schema.runs.c.created.desc(), schema.runs.c.id)
        if states is not None:
            query = query.where(schema.runs.c.state.in_([state.value for state in states]))
        if provider is not None:
            query = query.where(schema.runs.c.provider == provider)
        if limit is not None and group is None:
            query = query.limit(limit)
        with self.read() as connection:
            rows = connection.execute(query).all()
        records = read_rows(rows, read_record, "run {0.id}")
        return [record for record in records if group is None or record.group == group][:limit]

    def damaged(self, states: Collection[RunState]) -> list[tuple[str, str]]:
        """Return id and provider of the runs in these states whose record cannot be read."""
        from llmtune.runs.store import schema

        with self.read() as connection:
            rows = connection.execute(
                schema.runs.select().where(schema.runs.c.state.in_([state.value for state in states]))
            ).all()
        damaged = []
        for row in rows:
            try:
                read_record(row)
            except StoreError:
                damaged.append((str(row.id), str(row.provider)))
        return damaged

    def tuned_models(self) -> list[tuple[RunRecord, ModelRef]]:
        """List the runs that succeeded, newest first, each with its tuned model; those without a model are left out."""
        models = []
        for record in self.runs(states=[RunState.SUCCEEDED]):
            try:
                model = self.ref(record.id, "model", ModelRef)
            except StoreError as error:
                warnings.warn(error.message, LlmtuneWarning, stacklevel=2)
                continue
            if model is not None:
                models.append((record, model))
        return models

    def change(self, run_id: str, *, durable: bool = True, **fields: Any) -> RunRecord:
        """Set fields of a run (not its state: `transition` does that)."""
        with self.write(durable=durable) as connection:
            before = self._get_locked(connection, run_id)
            record = before.model_copy(update={**fields, "updated": time.time()})
            self._save(connection, record, before)
        return record

    def warn(self, run_id: str, *sentences: str) -> None:
        """Add warnings to a run, each once."""
        with self.write(durable=False) as connection:
            record = self._get_locked(connection, run_id)
            new_warnings = tuple(sentence for sentence in dict.fromkeys(sentences) if sentence not in record.warnings)
            if new_warnings:
                self._save(connection, record.model_copy(update={"warnings": record.warnings + new_warnings}), record)

    def transition(
        self,
        run_id: str,
        to: RunState,
        reason: str = "",
        *,
        only_from: Collection[RunState] | None = None,
        back: bool = False,
        **fields: Any,
    ) -> RunRecord:
        """Change the state, and fields with it, in one transaction. Returns the run's record afterwards.

        A run only moves forward; `back` allows the other direction. With `only_from`, nothing happens from any other
        state. Compare the returned state to see whether it changed.
        """
        with self.write() as connection:
            record = self._get_locked(connection, run_id)
            allowed = only_from is None or record.state in only_from
            onward = back or _ORDER[to] > _ORDER[record.state] or _ORDER[to] == _ORDER[record.state] == 3
            if allowed and onward:
                before = record
                record = record.model_copy(update={**fields, "state": to, "updated": time.time()})
                self._save(connection, record, before)
                self._transition(connection, run_id, to, reason, record.updated)
        return record

    def transitions(self, run_id: str) -> Sequence[Transition]:
        """Return every change of state, oldest first."""
        from llmtune.runs.store import schema

        table = schema.transitions
        with self.read() as connection:
            rows = connection.execute(table.select().where(table.c.run_id == run_id).order_by(table.c.seq)).all()
        return [Transition(row.time, RunState(row.state), row.reason) for row in rows]

    # --- snapshots -------------------------------------------------------------------------------------------------
    def record(self, run_id: str, snapshot: Snapshot, *, previous: RunRecord | None = None) -> PollResult:
        """Store what a poll returned, in one transaction, so that the cursor is never ahead of the points before it.

        `previous` is the run as it was just read: a snapshot with nothing new in it then writes nothing.
        """
        if previous is not None and is_unchanged(previous, snapshot):
            return PollResult(previous, (), (), False)
        with self.write(durable=snapshot.state.final) as connection:
            before = self._get_locked(connection, run_id)
            points = self._add_points(connection, run_id, snapshot.points)
            samples = group_samples(snapshot.samples)
            sample_events = [make_event(step, group) for step, group in samples.items()]
            events = self._add_events(connection, run_id, [*snapshot.events, *sample_events])
            for step, group in samples.items():
                self._set_ref(connection, run_id, *make_ref(step, group))
            after = apply_snapshot(before, snapshot)
            reason = f"the vendor says {snapshot.raw_state!r}"
            # Our own finalizing begins when the job has ended; a vendor's is still part of its running.
            vendor = RunState.RUNNING if snapshot.state is RunState.FINALIZING else snapshot.state
            to = RunState.FINALIZING if vendor.final else vendor
            same_rank = _ORDER[to] == _ORDER[before.state] == 3 and to is not before.state
            moved = _ORDER[to] > _ORDER[before.state] or same_rank
            if moved:
                after = after.model_copy(update={"state": to})
                self._transition(connection, run_id, to, reason, time.time())
            for checkpoint in snapshot.checkpoints:
                self._set_ref(connection, run_id, f"checkpoint:{checkpoint.id}", checkpoint)
            if snapshot.model is not None:
                self._set_ref(connection, run_id, "model", snapshot.model)
                self._record_resource(connection, before, "model", snapshot.model)
            if after != before:
                self._save(connection, after.model_copy(update={"updated": time.time()}), before)
        return PollResult(after, points, events, moved)

    def add_events(self, run_id: str, events: Iterable[Event]) -> tuple[Event, ...]:
        """Store events; returns the new ones."""
        with self.write(durable=False) as connection:
            return self._add_events(connection, run_id, events)

    def add_points(self, run_id: str, points: Iterable[MetricPoint]) -> tuple[MetricPoint, ...]:
        """Store metric points; returns the new ones."""
        with self.write(durable=False) as connection:
            return self._add_points(connection, run_id, points)

    def note(self, run_id: str, message: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """Store an event of llmtune's own."""
        event = Event(id=f"llmtune-{uuid.uuid4().hex}", time=time.time(), level=level, message=message)
        self.add_events(run_id, [event])

    def events(self, run_id: str, *, after: int = 0) -> list[tuple[int, Event]]:
        """Return events with their running number, oldest first; only those with a number above `after`."""
        from llmtune.runs.store import schema

        table = schema.events
        query = table.select().where(table.c.run_id == run_id, table.c.seq > after).order_by(table.c.seq)
        with self.read() as connection:
            rows = connection.execute(query).all()
        return [
            (int(row.seq), Event(id=row.event_id, time=row.time, level=row.level, message=row.message)) for row in rows
        ]

    def points(self, run_id: str) -> list[MetricPoint]:
        """Return every metric point, in the order they came."""
        from llmtune.runs.store import schema

        table = schema.metrics
        with self.read() as connection:
            rows = connection.execute(table.select().where(table.c.run_id == run_id).order_by(table.c.seq)).all()
        return [MetricPoint.model_validate_json(row.point) for row in rows]

    # --- inside a transaction --------------------------------------------------------------------------------------
    def _get_locked(self, connection: Connection, run_id: str) -> RunRecord:
        from llmtune.runs.store import schema

        row = connection.execute(schema.run_by_id, {"wanted": run_id}).first()
        if row is None:
            raise self._not_found_error(run_id)
        return read_record(row)

    def _save(self, connection: Connection, record: RunRecord, before: RunRecord) -> None:
        from llmtune.runs.store import schema

        connection.execute(
            schema.runs.update().where(schema.runs.c.id == record.id).values(build_columns(record, before))
        )

    def _transition(self, connection: Connection, run_id: str, state: RunState, reason: str, when: float) -> None:
        from llmtune.runs.store import schema

        detail = "" if reason in ("", state.value) else f" ({reason})"
        log.info("run %s: %s%s", run_id, state.value, detail, extra={"run": run_id})
        row = {"run_id": run_id, "time": when, "state": state.value, "reason": scrub(reason)}
        connection.execute(schema.add_transition, row)

    def _add_points(
        self, connection: Connection, run_id: str, points: Iterable[MetricPoint]
    ) -> tuple[MetricPoint, ...]:
        from llmtune.runs.store import schema

        named = {identify_point(point): point for point in points}
        new_ids = self._filter_new(connection, schema.known_points, run_id, list(named))
        if new_ids:
            connection.execute(
                schema.add_points,
                [
                    {"run_id": run_id, "identity": name, "point": named[name].model_dump_json(exclude_none=True)}
                    for name in new_ids
                ],
            )
        return tuple(named[name] for name in new_ids)

    def _add_events(self, connection: Connection, run_id: str, events: Iterable[Event]) -> tuple[Event, ...]:
        from llmtune.runs.store import schema

        named = {event.id: event.model_copy(update={"message": scrub(event.message)}) for event in events}
        new_ids = self._filter_new(connection, schema.known_events, run_id, list(named))
        if new_ids:
            connection.execute(
                schema.add_events,
                [
                    {
                        "run_id": run_id,
                        "event_id": name,
                        "time": named[name].time,
                        "level": named[name].level,
                        "message": named[name].message,
                    }
                    for name in new_ids
                ],
            )
        return tuple(named[name] for name in new_ids)

    def _filter_new(self, connection: Connection, query: Any, run_id: str, names: Sequence[str]) -> Sequence[str]:
        """Return those of `names` that the run does not have yet, in order. The caller holds the write lock."""
        stored: set[str] = set()
        for at in range(0, len(names), 500):  # SQLite bounds the number of parameters
            stored.update(connection.execute(query, {"owner": run_id, "names": names[at : at + 500]}).scalars())
        return [name for name in names if name not in stored]

    def _not_found_error(self, text: str) -> RunNotFound:
        suggestions = suggest_names(text, self.run_names())
        suggestion = f"; did you mean {' or '.join(suggestions)}?" if suggestions else ""
        return RunNotFound(f"there is no run {text!r} in {self.shown}{suggestion}", hint="llmtune runs list")


_stores: dict[str, Store] = {}
_opening = threading.Lock()


def open_store(url: str | None = None) -> Store:
    """Return the store of `LLMTUNE_STORE` or of the home folder; one object per URL within a process."""
    url = url or store_url()
    with _opening:
        if url not in _stores:
            _stores[url] = Store(url)
        return _stores[url]
