"""Limits of a key: requests per minute, unfinished jobs, stored bytes, and the budget of all jobs of its owner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llmtune.errors import RunNotFound
from llmtune.runs.costs import cost_run
from llmtune.runs.store.store import Store
from llmtune.server.protocol import RequestError
from llmtune.server.tuning.keys import Key
from llmtune.server.tuning.state import JobRecord

#: Seconds after which a client refused for its unfinished jobs may try again.
QUEUE_WAIT = 30.0


@dataclass
class _Bucket:
    """Requests that may still be sent at a time; they come back evenly over a minute."""

    tokens: float
    filled: float


class RateLimiter:
    """Counts the requests of each key. A key that was idle for a minute may send a minute's requests at once."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def count(self, key: Key) -> None:
        """Count a request. Raises `RequestError` (429), with the seconds until the next one is allowed."""
        if key.requests_per_minute is None:
            return
        limit, now = float(key.requests_per_minute), time.monotonic()
        with self._lock:
            bucket = self._buckets.setdefault(key.name, _Bucket(limit, now))
            bucket.tokens = min(limit, bucket.tokens + (now - bucket.filled) * limit / 60)
            bucket.filled = now
            if bucket.tokens >= 1:
                bucket.tokens -= 1
                return
            wait = (1 - bucket.tokens) * 60 / limit
        raise RequestError(
            429,
            f"Rate limit reached: {key.requests_per_minute} requests per minute with the key '{key.name}'."
            f" Please try again in {wait:.1f}s",
            code="rate_limit_exceeded",
            wait=wait,
        )


class Budgets:
    """What the jobs of each owner cost in all. `jobs` gives those of one owner."""

    def __init__(self, jobs: Callable[[str], Iterable[JobRecord]], store: Store) -> None:
        self._jobs, self._store = jobs, store
        self._locks: dict[str, threading.Lock] = {}
        self._final: dict[str, float] = {}

    def lock(self, owner: str) -> threading.Lock:
        """Return the lock under which a job of this owner is admitted, so that two do not take the same rest."""
        return self._locks.setdefault(owner, threading.Lock())

    def spent(self, owner: str) -> float:
        """Return USD that the owner's jobs have cost and will cost: billed, else the upper end of the estimate."""
        return sum(self._cost(job) for job in self._jobs(owner))

    def _cost(self, job: JobRecord) -> float:
        if job.id in self._final:
            return self._final[job.id]
        try:
            record = self._store.get(job.run_id)
        except RunNotFound:
            return 0.0  # not planned yet: it is admitted, or not, when it is
        estimate = record.cost.total or 0.0
        if not record.state.final:
            return estimate if record.hosted else 0.0
        spent = cost_run(record).spent
        cost = estimate if spent is None else spent  # failed, and the backend has not reported a bill
        if job.settled:
            self._final[job.id] = cost
        return cost

    def check_not_spent(self, key: Key) -> None:
        """Refuse a job when nothing is left. Raises `RequestError` (429)."""
        if key.budget is not None and (spent := self.spent(key.owner)) >= key.budget:
            raise RequestError(
                429,
                f"You exceeded your current quota: the jobs of '{key.owner}' come to {spent:,.2f} USD"
                f" of {key.budget:,.2f} USD; whoever runs this endpoint can raise the budget",
                code="insufficient_quota",
            )


def check_queue(key: Key, unfinished: int) -> None:
    """Refuse another job while so many of the key's owner are unfinished. Raises `RequestError` (429)."""
    if key.max_unfinished_jobs is not None and unfinished >= key.max_unfinished_jobs:
        raise RequestError(
            429,
            f"{unfinished} jobs of '{key.owner}' are unfinished, and it may have {key.max_unfinished_jobs}:"
            " wait until one has ended, or cancel one",
            code="job_limit_exceeded",
            wait=QUEUE_WAIT,
        )


def storage_full(key: Key) -> RequestError:
    """Return the error of a file for which the owner has no space left."""
    return RequestError(
        429,
        f"the files of '{key.owner}' may have {key.max_stored_gb:g} GB in all: delete some"
        " (DELETE /v1/files/FILE), or ask whoever runs this endpoint for more",
        param="file",
        code="storage_limit_exceeded",
    )
