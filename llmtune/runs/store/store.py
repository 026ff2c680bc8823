"""The run store: what was planned, what was sent, what exists, what was seen. Each method is one transaction.

Several processes may write at once: nothing is lost, and no method returns before what it wrote is kept.
"""

from __future__ import annotations

import threading
import time
import uuid
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmtune.config import store_url
from llmtune.errors import LlmtuneWarning, RunNotFound, StoreError, did_you_mean
from llmtune.metrics.points import MetricPoint
from llmtune.provider.types import Event, ModelRef, RunState, Snapshot
from llmtune.redaction.secrets import scrub
from llmtune.runs.store.ledger import Ledger
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.serialization import columns_of, identity, nothing_new, read_each, record_of, updated

if TYPE_CHECKING:
    from sqlalchemy import Connection

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
    """One change of state. `time` is in Unix seconds."""

    time: float
    state: RunState
    reason: str


@dataclass(frozen=True)
class Seen:
    """What a snapshot brought that was not known before."""

    record: RunRecord
    points: tuple[MetricPoint, ...]
    events: tuple[Event, ...]
    moved: bool


class Store(Ledger):
    """The runs of one user, or of one team. Open it with `open_store()`."""

    # --- runs ------------------------------------------------------------------------------------------------------
    def begin(
        self, planned: RunRecord, *, join: bool = True, reuse: bool = False
    ) -> tuple[RunRecord, Literal["new", "joined", "reused"]]:
        """Write the intent, unless a run of the same fingerprint is unfinished (or finished, with `reuse`).

        One transaction: of two processes that start the same job at once, one makes the run and one joins it.
        """
        from llmtune.runs.store import schema

        with self.write() as connection:
            record = self._same(connection, planned.fingerprint, join=join, reuse=reuse)
            if record is not None:
                return record, "reused" if record.state.final else "joined"
            connection.execute(schema.runs.insert().values(columns_of(planned)))
            self._transition(connection, planned.id, planned.state, "planned", planned.created)
        return planned, "new"

    def same(self, fingerprint: str, *, reuse: bool = False) -> RunRecord | None:
        """The newest unfinished run of that fingerprint (or finished well, with `reuse`)."""
        with self.read() as connection:
            return self._same(connection, fingerprint, join=True, reuse=reuse)

    def _same(self, connection: Connection, fingerprint: str, *, join: bool, reuse: bool) -> RunRecord | None:
        from llmtune.runs.store import schema

        wanted = [*(UNFINISHED if join else ()), *((RunState.SUCCEEDED,) if reuse else ())]
        found = connection.execute(
            schema.runs.select()
            .where(schema.runs.c.fingerprint == fingerprint)
            .where(schema.runs.c.state.in_([state.value for state in wanted]))
            .order_by(schema.runs.c.created.desc())
        ).all()
        for row in found:
            try:
                return record_of(row)
            except StoreError:
                # Of a damaged run that may have a job at the vendor, a second one would be paid for too.
                if RunState(row.state) not in (RunState.PLANNED, RunState.UPLOADING, RunState.SUCCEEDED):
                    raise
        return None

    def get(self, run_id: str) -> RunRecord:
        """The run of exactly that id. Raises `RunNotFound`."""
        from llmtune.runs.store import schema

        with self.read() as connection:
            row = connection.execute(schema.run_by_id, {"wanted": run_id}).first()
        if row is None:
            raise self._not_found(run_id)
        return record_of(row)

    def resolve(self, text: str) -> str:
        """The id that starts with `text`, or the key, or the run's name when only one run has it."""
        from sqlalchemy import select

        from llmtune.runs.store import schema

        table = schema.runs
        with self.read() as connection:
            rows = connection.execute(select(table.c.id, table.c.name, table.c.run_key)).all()
        exact = [str(row.id) for row in rows if text in (row.id, row.run_key)]
        named = sorted(str(row.id) for row in rows if row.name == text)
        found = [str(row.id) for row in rows if text and (row.id.startswith(text) or row.run_key.startswith(text))]
        for only in (exact, named, found):
            if len(only) == 1:
                return only[0]
        if len(found) > 1:
            raise RunNotFound(
                f"{text!r} could be any of {len(found)} runs: {', '.join(sorted(found)[:5])}",
                hint="give more of the id",
            )
        if named:
            raise RunNotFound(
                f"{len(named)} runs are named {text!r}: {', '.join(named[:5])}", hint="give one of these ids"
            )
        raise self._not_found(text)

    def runs(
        self,
        *,
        states: Collection[RunState] | None = None,
        provider: str | None = None,
        group: str | None = None,
        limit: int | None = None,
    ) -> list[RunRecord]:
        """Runs, newest first."""
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
        records = read_each(rows, record_of, "run {0.id}")
        return [record for record in records if group is None or record.group == group][:limit]

    def damaged(self, states: Collection[RunState]) -> list[tuple[str, str]]:
        """Runs in these states whose record cannot be read: id and provider."""
        from llmtune.runs.store import schema

        with self.read() as connection:
            rows = connection.execute(
                schema.runs.select().where(schema.runs.c.state.in_([state.value for state in states]))
            ).all()
        found = []
        for row in rows:
            try:
                record_of(row)
            except StoreError:
                found.append((str(row.id), str(row.provider)))
        return found

    def tuned(self) -> list[tuple[RunRecord, ModelRef]]:
        """The runs that succeeded, newest first, each with its tuned model; those that have none are left out."""
        found = []
        for record in self.runs(states=[RunState.SUCCEEDED]):
            try:
                model = self.ref(record.id, "model", ModelRef)
            except StoreError as error:
                warnings.warn(error.message, LlmtuneWarning, stacklevel=2)
                continue
            if model is not None:
                found.append((record, model))
        return found

    def change(self, run_id: str, *, durable: bool = True, **fields: Any) -> RunRecord:
        """Set fields of a run (not its state: `move` does that)."""
        with self.write(durable=durable) as connection:
            before = self._locked(connection, run_id)
            record = before.model_copy(update={**fields, "updated": time.time()})
            self._save(connection, record, before)
        return record

    def warn(self, run_id: str, *sentences: str) -> None:
        """Add warnings to a run, each once."""
        with self.write(durable=False) as connection:
            record = self._locked(connection, run_id)
            fresh = tuple(each for each in dict.fromkeys(sentences) if each not in record.warnings)
            if fresh:
                self._save(connection, record.model_copy(update={"warnings": record.warnings + fresh}), record)

    def move(
        self,
        run_id: str,
        to: RunState,
        reason: str = "",
        *,
        only_from: Collection[RunState] | None = None,
        back: bool = False,
        **fields: Any,
    ) -> RunRecord:
        """Change the state, and fields with it, in one transaction. Returns the run as it stands afterwards.

        A run only moves onward; `back` allows the other direction. With `only_from`, nothing happens from any other
        state. Compare the returned state to know whether it moved.
        """
        with self.write() as connection:
            record = self._locked(connection, run_id)
            allowed = only_from is None or record.state in only_from
            onward = back or _ORDER[to] > _ORDER[record.state] or _ORDER[to] == _ORDER[record.state] == 3
            if allowed and onward:
                before = record
                record = record.model_copy(update={**fields, "state": to, "updated": time.time()})
                self._save(connection, record, before)
                self._transition(connection, run_id, to, reason, record.updated)
        return record

    def transitions(self, run_id: str) -> Sequence[Transition]:
        """Every change of state, oldest first."""
        from llmtune.runs.store import schema

        table = schema.transitions
        with self.read() as connection:
            rows = connection.execute(table.select().where(table.c.run_id == run_id).order_by(table.c.seq)).all()
        return [Transition(row.time, RunState(row.state), row.reason) for row in rows]

    # --- what was seen ---------------------------------------------------------------------------------------------
    def record(self, run_id: str, snapshot: Snapshot, *, known: RunRecord | None = None) -> Seen:
        """Keep what a poll saw, in one transaction: the cursor never runs ahead of the points it stands behind.

        `known` is the run as it was just read: a snapshot with nothing new in it then writes nothing.
        """
        if known is not None and nothing_new(known, snapshot):
            return Seen(known, (), (), False)
        with self.write(durable=snapshot.state.final) as connection:
            before = self._locked(connection, run_id)
            points = self._add_points(connection, run_id, snapshot.points)
            events = self._add_events(connection, run_id, snapshot.events)
            after = updated(before, snapshot)
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
                self._own(connection, before, "model", snapshot.model)
            if after != before:
                self._save(connection, after.model_copy(update={"updated": time.time()}), before)
        return Seen(after, points, events, moved)

    def add_events(self, run_id: str, events: Iterable[Event]) -> tuple[Event, ...]:
        """Keep events; returns those that were not known."""
        with self.write(durable=False) as connection:
            return self._add_events(connection, run_id, events)

    def add_points(self, run_id: str, points: Iterable[MetricPoint]) -> tuple[MetricPoint, ...]:
        """Keep metric points; returns those that were not known."""
        with self.write(durable=False) as connection:
            return self._add_points(connection, run_id, points)

    def note(self, run_id: str, message: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """Keep an event of our own."""
        event = Event(id=f"llmtune-{uuid.uuid4().hex}", time=time.time(), level=level, message=message)
        self.add_events(run_id, [event])

    def events(self, run_id: str, *, after: int = 0) -> list[tuple[int, Event]]:
        """Events with their running number, oldest first; those with a number above `after`."""
        from llmtune.runs.store import schema

        table = schema.events
        query = table.select().where(table.c.run_id == run_id, table.c.seq > after).order_by(table.c.seq)
        with self.read() as connection:
            rows = connection.execute(query).all()
        return [
            (int(row.seq), Event(id=row.event_id, time=row.time, level=row.level, message=row.message)) for row in rows
        ]

    def points(self, run_id: str) -> list[MetricPoint]:
        """Every metric point, in the order they were seen."""
        from llmtune.runs.store import schema

        table = schema.metrics
        with self.read() as connection:
            rows = connection.execute(table.select().where(table.c.run_id == run_id).order_by(table.c.seq)).all()
        return [MetricPoint.model_validate_json(row.point) for row in rows]

    # --- inside a transaction --------------------------------------------------------------------------------------
    def _locked(self, connection: Connection, run_id: str) -> RunRecord:
        from llmtune.runs.store import schema

        row = connection.execute(schema.run_by_id, {"wanted": run_id}).first()
        if row is None:
            raise self._not_found(run_id)
        return record_of(row)

    def _save(self, connection: Connection, record: RunRecord, before: RunRecord) -> None:
        from llmtune.runs.store import schema

        connection.execute(schema.runs.update().where(schema.runs.c.id == record.id).values(columns_of(record, before)))

    def _transition(self, connection: Connection, run_id: str, state: RunState, reason: str, when: float) -> None:
        from llmtune.runs.store import schema

        row = {"run_id": run_id, "time": when, "state": state.value, "reason": scrub(reason)}
        connection.execute(schema.add_transition, row)

    def _add_points(
        self, connection: Connection, run_id: str, points: Iterable[MetricPoint]
    ) -> tuple[MetricPoint, ...]:
        from llmtune.runs.store import schema

        named = {identity(point): point for point in points}
        fresh = self._unknown(connection, schema.known_points, run_id, list(named))
        if fresh:
            connection.execute(
                schema.add_points,
                [
                    {"run_id": run_id, "identity": name, "point": named[name].model_dump_json(exclude_none=True)}
                    for name in fresh
                ],
            )
        return tuple(named[name] for name in fresh)

    def _add_events(self, connection: Connection, run_id: str, events: Iterable[Event]) -> tuple[Event, ...]:
        from llmtune.runs.store import schema

        named = {event.id: event.model_copy(update={"message": scrub(event.message)}) for event in events}
        fresh = self._unknown(connection, schema.known_events, run_id, list(named))
        if fresh:
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
                    for name in fresh
                ],
            )
        return tuple(named[name] for name in fresh)

    def _unknown(self, connection: Connection, query: Any, run_id: str, names: Sequence[str]) -> Sequence[str]:
        """Those of `names` that the run does not have yet, in order. The write lock is held: nobody adds meanwhile."""
        known: set[str] = set()
        for at in range(0, len(names), 500):  # SQLite bounds the number of parameters
            known.update(connection.execute(query, {"owner": run_id, "names": names[at : at + 500]}).scalars())
        return [name for name in names if name not in known]

    def _not_found(self, text: str) -> RunNotFound:
        from sqlalchemy import select

        from llmtune.runs.store import schema

        with self.read() as connection:
            ids = [str(each) for each in connection.execute(select(schema.runs.c.id)).scalars()]
        near = did_you_mean(text, ids)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        return RunNotFound(f"there is no run {text!r} in {self.shown}{meant}", hint="llmtune runs list")


_stores: dict[str, Store] = {}
_opening = threading.Lock()


def open_store(url: str | None = None) -> Store:
    """The store of `LLMTUNE_STORE` or of the home folder; the same object for the same place, within one process."""
    url = url or store_url()
    with _opening:
        if url not in _stores:
            _stores[url] = Store(url)
        return _stores[url]
