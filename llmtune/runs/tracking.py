"""A run's points into its sinks: each point once, whoever follows the run, and corrected ones corrected in the end.

Which sinks a run has stands in the store, with how far each was fed, so that the process that comes back to the run
goes on where the other one stopped. A sink that breaks is a warning; the run goes on.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llmtune.errors import StoreUnavailable
from llmtune.metrics.points import SOURCE_ORDER, MetricPoint, merge
from llmtune.provider.types import Ref
from llmtune.redaction.secrets import scrub, scrub_leaves
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.queries import points_after
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

if TYPE_CHECKING:
    from llmtune.report.schema import Report
    from llmtune.trackers import Sink, SinkRun

log = logging.getLogger("llmtune")

_PREFIX = "sink:"


def checked(sinks: Collection[str]) -> tuple[str, ...]:
    """The sinks, each once and with absolute paths. Raises before anything is sent when one cannot be used."""
    if not sinks:
        return ()
    from llmtune.trackers import checked as check

    return tuple(dict.fromkeys(check(spec) for spec in ([sinks] if isinstance(sinks, str) else sinks)))


def attach(store: Store, run_id: str, sinks: Collection[str]) -> None:
    """Give a run these sinks too; one that it has already stays as it is."""
    for spec in sinks:
        if store.ref(run_id, _PREFIX + spec, Ref) is None:
            store.set_ref(run_id, _PREFIX + spec, Ref(id=spec, data={"after": 0, "handle": {}, "done": False}))


class Feeds:
    """The sinks of one run, as this process feeds them."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._feeds = [
            _Feed(store, run_id, name, Ref.model_validate(ref))
            for name, ref in store.refs(run_id).items()
            if name.startswith(_PREFIX)
        ]

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def update(self) -> None:
        """Hand on what is new."""
        for feed in self._feeds:
            feed.guarded(feed.update)

    def finish(self, report: Report) -> None:
        """The run has ended: what is left, and what came out."""
        for feed in self._feeds:
            feed.guarded(lambda feed=feed: feed.finish(report))

    def close(self) -> None:
        """Nobody waits any more."""
        for feed in self._feeds:
            feed.guarded(feed.close)


class _Feed:
    """One sink of one run. Only the holder of its lease writes to it."""

    def __init__(self, store: Store, run_id: str, name: str, ref: Ref) -> None:
        self._store, self._run_id, self._name, self._spec = store, run_id, name, ref.id
        digest = hashlib.sha256(ref.id.encode()).hexdigest()[:12]
        self._lease = Lease(store, f"sink:{run_id}:{digest}")
        self._held = False
        self._over = bool(ref.data["done"])
        self._sink: Sink | None = None
        self._kept: dict[str, Any] = dict(ref.data)
        self._best: dict[tuple[str, int], MetricPoint] = {}
        """The best point of each series and step that was seen, written or not."""

        self._stale = False
        """Whether a point was corrected after it had been written."""

    def guarded(self, action: Any) -> None:
        """Do it; a sink that breaks says so once, and is left alone by this process from then on.

        Raises `StoreUnavailable`: the sink is well, and goes on when the store answers again.
        """
        if self._over:
            return
        try:
            action()
        except StoreUnavailable:
            raise
        except Exception as error:
            self._over = True
            log.exception("the sink %s of run %s broke", self._spec, self._run_id, extra={"run": self._run_id})
            with suppress(StoreUnavailable):
                self._store.warn(self._run_id, f"the sink {self._spec} stopped: {type(error).__name__}: {error}")
            self._let_go()

    def update(self) -> None:
        """Write what is new, and note how far it came."""
        if not self._open():
            return
        fresh = points_after(self._store, self._run_id, self._kept["after"])
        new = []
        for _, point in fresh:
            place = (point.series, point.step)
            rival = self._best.get(place)
            if rival is None:
                new.append(place)
            elif SOURCE_ORDER.index(point.source) > SOURCE_ORDER.index(rival.source):
                continue
            elif place not in new and _differs(point.value, rival.value):
                self._stale = True
            self._best[place] = point
        if fresh:
            assert self._sink is not None
            self._sink.write([self._best[place] for place in new])
            self._note(after=fresh[-1][0], stale=self._stale)

    def finish(self, report: Report) -> None:
        """The last points, the corrections, the results."""
        self.update()
        if self._sink is None:
            return
        if self._stale:
            self._sink.start_over(self._kept["handle"])
            self._note()
            self._sink.write(list(self._best.values()))
        last = max((step for _, step in self._best), default=0)
        self._sink.finish(results(report), last, report.identity.state.value)
        self._note(done=True, stale=False)
        self._over = True  # there is nothing left to do
        self._let_go()

    def close(self) -> None:
        """Leave it for whoever follows the run next."""
        self._let_go()

    # --- opening and letting go ----------------------------------------------------------------------------------
    def _open(self) -> bool:
        if self._sink is not None:
            return True
        if not self._lease.acquire(wait=0):
            return False
        self._held = True
        kept = self._store.ref(self._run_id, self._name, Ref)
        if kept is None or kept.data["done"]:
            self._over = True
            self._let_go()
            return False
        from llmtune.trackers import make

        self._kept = dict(kept.data)
        self._stale = bool(self._kept.get("stale"))
        sink = make(self._spec)
        written = sink.begin(told(self._store.get(self._run_id)), self._kept["handle"])
        self._sink = sink
        seen = [point for seq, point in points_after(self._store, self._run_id) if seq <= self._kept["after"]]
        known = {(point.series, point.step): point for series in merge(seen).values() for point in series.points}
        if written is None:
            self._best = known
        else:
            # The sink itself tells what it holds: a process that died between writing and noting left no doubt.
            everything = merge(point for _, point in points_after(self._store, self._run_id))
            points = {(each.series, each.step): each for series in everything.values() for each in series.points}
            self._best = {
                place: point.model_copy(update={"value": written[sink.named(place[0]), place[1]]})
                for place, point in points.items()
                if (sink.named(place[0]), place[1]) in written
            }
            self._kept["after"] = 0
        self._note()
        return True

    def _note(self, **changes: Any) -> None:
        self._kept |= changes
        self._store.set_ref(self._run_id, self._name, Ref(id=self._spec, data=self._kept))

    def _let_go(self) -> None:
        sink, self._sink = self._sink, None
        try:
            if sink is not None:
                sink.close()
        finally:
            if self._held:
                self._held = False
                self._lease.release()


def _differs(a: float, b: float) -> bool:
    return a != b and not (math.isnan(a) and math.isnan(b))


def told(record: RunRecord) -> SinkRun:
    """A run as its sinks hear of it: names, what was asked for, and the job's tags."""
    from llmtune.trackers import SinkRun

    job = record.tuning_job
    asked = {row.field: row.requested for row in record.plan.fields if row.requested is not None}
    params = {
        name: ", ".join(map(str, value)) if isinstance(value, list | tuple) else value for name, value in asked.items()
    }
    return SinkRun(
        id=record.id,
        name=scrub(record.name),
        created=record.created,
        params=scrub_leaves({"model": record.model, "provider": record.provider} | params),
        tags=scrub_leaves({"llmtune.run": record.id, "llmtune.provider": record.provider, **job.tags}),
    )


def results(report: Report) -> dict[str, float]:
    """What the held-out rows said, by name: "test/accuracy" of the tuned model, "test/base/accuracy" of the base."""
    from llmtune.evaluation.results import EvaluationResult, SystemResult

    found: dict[str, float] = {}
    if isinstance(report.evaluation, EvaluationResult):
        for name, system in report.evaluation.systems.items():
            if isinstance(system, SystemResult):
                place = "test" if name == "tuned" else f"test/{name}"
                found |= {f"{place}/{metric.name}": metric.value for metric in system.metrics}
    return found
