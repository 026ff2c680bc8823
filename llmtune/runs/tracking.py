"""Send a run's points to its trackers: each point once, even if several processes follow it.

Points that a backend corrects are written again at the end.

The store holds the trackers of a run, and the last point that each was sent, so that another process can go on where
one stopped. A tracker that fails is a warning; the run goes on.
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
from llmtune.runs.store.samples import group_samples, read_samples
from llmtune.runs.store.store import Store

if TYPE_CHECKING:
    from llmtune.report.schema import Report
    from llmtune.trackers import TrackedRun, Tracker

log = logging.getLogger("llmtune")

_PREFIX = "sink:"


def normalize_specs(sinks: Collection[str]) -> tuple[str, ...]:
    """Return the trackers' specs, each once and with absolute paths. Raises when one cannot be used."""
    if not sinks:
        return ()
    from llmtune.trackers import normalize_spec

    return tuple(dict.fromkeys(normalize_spec(spec) for spec in ([sinks] if isinstance(sinks, str) else sinks)))


def attach(store: Store, run_id: str, sinks: Collection[str]) -> None:
    """Add these trackers to a run; one that it has already stays as it is."""
    for spec in sinks:
        if store.ref(run_id, _PREFIX + spec, Ref) is None:
            store.set_ref(run_id, _PREFIX + spec, Ref(id=spec, data={"after": 0, "handle": {}, "done": False}))


class TrackerFeeds:
    """The trackers of one run, to which this process sends points."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._feeds = [
            _Feed(store, run_id, name, Ref.model_validate(ref))
            for name, ref in store.refs(run_id).items()
            if name.startswith(_PREFIX)
        ]

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def update(self) -> None:
        """Send the new points."""
        for feed in self._feeds:
            feed.run_guarded(feed.update)

    def finish(self, report: Report) -> None:
        """Send the remaining points and the results of a run that has ended."""
        for feed in self._feeds:
            feed.run_guarded(lambda feed=feed: feed.finish(report))

    def close(self) -> None:
        """Close the trackers: nobody waits for the run any more."""
        for feed in self._feeds:
            feed.run_guarded(feed.close)


class _Feed:
    """One tracker of one run. Only the holder of its lease writes to it."""

    def __init__(self, store: Store, run_id: str, name: str, ref: Ref) -> None:
        self._store, self._run_id, self._name, self._spec = store, run_id, name, ref.id
        digest = hashlib.sha256(ref.id.encode()).hexdigest()[:12]
        self._lease = Lease(store, f"sink:{run_id}:{digest}")
        self._has_lease = False
        self._finished = bool(ref.data["done"])
        self._sink: Tracker | None = None
        self._state: dict[str, Any] = dict(ref.data)
        self._best: dict[tuple[str, int], MetricPoint] = {}
        """The best point of each series and step that was seen, written or not."""

        self._stale = False
        """Whether a point was corrected after it had been written."""

    def run_guarded(self, action: Any) -> None:
        """Run an action; after an error, warn once, and do not use the tracker in this process any more.

        Raises `StoreUnavailable`: the tracker is fine, and goes on when the store answers again.
        """
        if self._finished:
            return
        try:
            action()
        except StoreUnavailable:
            raise
        except Exception as error:
            self._finished = True
            log.exception("the sink %s of run %s broke", self._spec, self._run_id, extra={"run": self._run_id})
            with suppress(StoreUnavailable):
                self._store.warn(self._run_id, f"the sink {self._spec} stopped: {type(error).__name__}: {error}")
            self._release()

    def update(self) -> None:
        """Write what is new, and note how far it came."""
        if not self._open():
            return
        numbered_points = points_after(self._store, self._run_id, self._state["after"])
        new = []
        for _, point in numbered_points:
            key = (point.series, point.step)
            previous = self._best.get(key)
            if previous is None:
                new.append(key)
            elif SOURCE_ORDER.index(point.source) > SOURCE_ORDER.index(previous.source):
                continue
            elif key not in new and _differs(point.value, previous.value):
                self._stale = True
            self._best[key] = point
        if numbered_points:
            assert self._sink is not None
            self._sink.write([self._best[key] for key in new])
            self._save_state(after=numbered_points[-1][0], stale=self._stale)
            self._write_samples()

    def _write_samples(self) -> None:
        """Write the answers of steps that were not written yet. A tracker that takes no texts still gets the points.

        Answers show rows of the dataset: they leave for a tracker only where the job itself asks for them.
        """
        last = self._state.get("sampled", -1)
        if self._sink is None or last is None or not self._store.get(self._run_id).tuning_job.evaluation.samples:
            return
        try:
            for step, samples in group_samples(read_samples(self._store.refs(self._run_id), after=last)).items():
                self._sink.write_samples(step, samples)
                self._save_state(sampled=step)
        except StoreUnavailable:
            raise
        except Exception as error:
            log.exception("the sink %s of run %s takes no texts", self._spec, self._run_id, extra={"run": self._run_id})
            reason = f"{type(error).__name__}: {error}"
            self._store.warn(self._run_id, f"the sink {self._spec} takes no answers while training: {reason}")
            self._save_state(sampled=None)

    def finish(self, report: Report) -> None:
        """Send the last points, the corrected ones, and the results."""
        self.update()
        if self._sink is None:
            return
        if self._stale:
            self._sink.start_over(self._state["handle"])
            self._save_state()
            self._sink.write(list(self._best.values()))
            if self._state.get("sampled", -1) is not None:
                self._state["sampled"] = -1
        self._write_samples()
        last = max((step for _, step in self._best), default=0)
        self._sink.finish(collect_results(report), last, report.identity.state.value)
        self._save_state(done=True, stale=False)
        self._finished = True  # there is nothing left to do
        self._release()

    def close(self) -> None:
        """Release the tracker for the next process that follows the run."""
        self._release()

    # --- opening and letting go ----------------------------------------------------------------------------------
    def _open(self) -> bool:
        if self._sink is not None:
            return True
        if not self._lease.acquire(wait=0):
            return False
        self._has_lease = True
        ref = self._store.ref(self._run_id, self._name, Ref)
        if ref is None or ref.data["done"]:
            self._finished = True
            self._release()
            return False
        from llmtune.trackers import create_tracker

        self._state = dict(ref.data)
        self._stale = bool(self._state.get("stale"))
        sink = create_tracker(self._spec)
        written = sink.start_run(describe_run(self._store.get(self._run_id)), self._state["handle"])
        self._sink = sink
        written_points = [
            point for seq, point in points_after(self._store, self._run_id) if seq <= self._state["after"]
        ]
        points_by_key = {
            (point.series, point.step): point for series in merge(written_points).values() for point in series.points
        }
        if written is None:
            self._best = points_by_key
        else:
            # The tracker's own points count: a process may have died between writing points and recording that.
            everything = merge(point for _, point in points_after(self._store, self._run_id))
            points = {(point.series, point.step): point for series in everything.values() for point in series.points}
            self._best = {
                key: point.model_copy(update={"value": written[sink.series_name(key[0]), key[1]]})
                for key, point in points.items()
                if (sink.series_name(key[0]), key[1]) in written
            }
            self._state["after"] = 0
            if self._state.get("sampled", -1) is not None:
                self._state["sampled"] = -1
        self._save_state()
        return True

    def _save_state(self, **changes: Any) -> None:
        self._state |= changes
        self._store.set_ref(self._run_id, self._name, Ref(id=self._spec, data=self._state))

    def _release(self) -> None:
        sink, self._sink = self._sink, None
        try:
            if sink is not None:
                sink.close()
        finally:
            if self._has_lease:
                self._has_lease = False
                self._lease.release()


def _differs(a: float, b: float) -> bool:
    return a != b and not (math.isnan(a) and math.isnan(b))


def describe_run(record: RunRecord) -> TrackedRun:
    """Build the description of a run for its trackers: names, requested fields, and the job's tags."""
    from llmtune.trackers import TrackedRun

    job = record.tuning_job
    requested = {row.field: row.requested for row in record.plan.fields if row.requested is not None}
    params = {
        name: ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        for name, value in requested.items()
    }
    return TrackedRun(
        id=record.id,
        name=scrub(record.name),
        created=record.created,
        params=scrub_leaves({"model": record.model, "provider": record.provider} | params),
        tags=scrub_leaves({"llmtune.run": record.id, "llmtune.provider": record.provider, **job.tags}),
    )


def collect_results(report: Report) -> dict[str, float]:
    """Return the metrics on the held-out rows, by name: "test/accuracy" (tuned), "test/base/accuracy" (base model)."""
    from llmtune.evaluation.results import EvaluationResult, SystemResult

    scores: dict[str, float] = {}
    if isinstance(report.evaluation, EvaluationResult):
        for name, system in report.evaluation.systems.items():
            if isinstance(system, SystemResult):
                prefix = "test" if name == "tuned" else f"test/{name}"
                scores |= {f"{prefix}/{metric.name}": metric.value for metric in system.metrics}
    return scores
