"""Leases: which process works on a run. A lease is kept alive by its holder's heartbeat, and taken over without one.

Whether it has stopped is judged by watching the beat for `ttl` seconds on our own steady clock, never by comparing
wall clocks: two machines' clocks differ, and a laptop's jumps when it wakes. A holder on this machine whose process is
gone has stopped at once.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Self

from llmtune._safety.operating_system import process_exists
from llmtune.errors import LlmtuneError, StoreUnavailable
from llmtune.runs.store.ledger import Ledger

log = logging.getLogger("llmtune")

#: Seconds without a beat after which a holder counts as gone.
TTL = 60.0


class LeaseLost(LlmtuneError):
    """Another process has taken over, because our heart stopped for too long (a sleeping laptop)."""


@functools.cache
def get_machine_id() -> str:
    """Return an id of this machine, boot and process namespace: within it, a process id means one process."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8])
    with suppress(OSError):
        parts.append(Path("/proc/self/ns/pid").readlink().name)
    return "|".join(parts).replace("/", "_")


def get_start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; "" if unknown. With the pid it names one process."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return ""


def new_owner() -> str:
    """Return a name for one holder: machine, process, and a random part."""
    pid = os.getpid()
    return f"{get_machine_id()}/{pid}/{get_start_time(pid)}/{uuid.uuid4().hex[:12]}"


def is_gone(owner: str) -> bool:
    """Return whether the holder has surely ended: it was a process of this machine that does not exist now."""
    machine_id, pid, start_time, _own = owner.split("/")
    if machine_id != get_machine_id():
        return False
    if not process_exists(int(pid)):
        return True
    now = get_start_time(int(pid))
    return _is_zombie(int(pid)) or bool(start_time and now and start_time != now)


def _is_zombie(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    return False


class _Heart:
    """One thread that keeps every lease of this process alive."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._held: dict[Lease, float] = {}
        """Each lease, and when its next beat is due on our steady clock."""

        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._condition:
            self._held[lease] = time.monotonic() + lease.ttl / 5
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="llmtune-heart", daemon=True)
                self._thread.start()
            self._condition.notify()

    def remove(self, lease: Lease) -> None:
        with self._condition:
            self._held.pop(lease, None)

    def _beat(self) -> None:
        while True:
            with self._condition:
                if not self._held and not self._condition.wait(timeout=10) and not self._held:
                    self._thread = None
                    return
                now = time.monotonic()
                due = [lease for lease, at in self._held.items() if at <= now]
                if not due:
                    self._condition.wait(timeout=min(self._held.values(), default=now) - now)
                    continue
            for lease in due:
                lease.beat()
            with self._condition:
                for lease in due:
                    if lease in self._held:
                        self._held[lease] = time.monotonic() + lease.ttl / 5


_heart = _Heart()


class Lease:
    """The exclusive right to work on one stage of a run.

    lease = Lease(store, "drive:RUN")
    if lease.acquire(wait=5):
        with lease:
            lease.check()     # before anything that costs money
    """

    def __init__(self, store: Ledger, name: str, *, ttl: float = TTL) -> None:
        self.store = store
        self.name = name
        self.ttl = ttl
        self.owner = new_owner()
        self.holder: str | None = None
        """Who held it when we last looked."""

        self._lost = False
        self._released = False
        self._watched: tuple[str, int] | None = None
        self._since = 0.0

    def acquire(self, *, wait: float | None = 0.0) -> bool:
        """Take the lease; wait at most so many seconds for a living holder (None: for ever).

        Asking again later on the same object counts on: a beat that stood still from one call to another is noticed.
        """
        deadline = None if wait is None else time.monotonic() + wait
        self._released = False
        while True:
            if self._try():
                self._lost = False
                _heart.add(self)
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(min(0.5, self.ttl / 10))

    def _try(self) -> bool:
        now = self.store.take_lease(self.name, self.owner)
        if now[0] == self.owner:
            return True
        if now != self._watched:
            self._watched, self._since = now, time.monotonic()
        if is_gone(now[0]) or time.monotonic() - self._since > self.ttl:
            now = self.store.take_lease(self.name, self.owner, over=now)
        self.holder = now[0]
        return now[0] == self.owner

    def beat(self) -> None:
        """Keep it alive; a store that cannot be written for a moment is tried again at the next beat."""
        if self._released:
            self._drop()
            return
        try:
            self._lost = not self.store.beat_leases(self.owner, [self.name])
        except Exception as error:  # noqa: BLE001 - one thread beats for every lease of this process
            log.warning("the lease %s could not be renewed: %s", self.name, error)
        if self._lost:
            _heart.remove(self)

    def check(self) -> None:
        """Raise `LeaseLost` unless the lease is still ours. Asked before every paid call."""
        if self._lost or not self.store.beat_leases(self.owner, [self.name]):
            raise LeaseLost(
                "another process has taken over this run while this one slept; nothing more is done here",
                hint="llmtune runs list shows its state",
            )

    def release(self) -> None:
        """Give it back; while the store is away, as soon as it answers again."""
        self._released = True
        self._drop()

    def _drop(self) -> None:
        try:
            self.store.drop_lease(self.name, self.owner)
        except StoreUnavailable as error:
            if not error.deleted:
                return  # the heart tries again
        except Exception as error:  # noqa: BLE001 - it ends by itself without a heartbeat
            log.warning("the lease %s could not be given back: %s", self.name, error)
        _heart.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def describe_owner(owner: str | None) -> str:
    """Return a holder's name for messages: "process 1234 on host"."""
    if not owner:
        return "another process"
    machine_id, pid, _then, _own = owner.split("/")
    return f"process {pid} on {machine_id.partition('|')[0]}"
