"""Faults between a client and a vendor, injected into a fake vendor.

vendor.faults.add(rate_limit(retry_after=0.2), role="poll", times=2)
vendor.faults.add(accept_then_drop(), role="submit")            # the job exists, the answer never comes
vendor.faults.sprinkle([server_error(), reset()], rate=0.2, seed=7, roles={"poll", "find"})
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: What a request is for.
Role = Literal["upload", "submit", "poll", "find", "cancel", "deploy", "undeploy", "generate", "delete", "other"]

#: What a fault does to a request.
FaultKind = Literal[
    "answer",
    "reset",
    "hold",
    "truncate",
    "garble",
    "state",
    "call",
    "endless",
    "trickle",
    "echo",
    "odd",
    "empty",
    "loop",
]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of one request, of the kind `kind`. Build it with the functions below.

    `handled` tells whether the vendor handles the request first. `status`, `code`, `message` and `headers` are those of
    an error response; a hold lasts `seconds`; `word` is the job state (or number) that is reported; an endless response
    has `size` bytes; `action` is called when the fault is injected.
    """

    kind: FaultKind
    handled: bool = False
    status: int = 500
    message: str = "injected fault"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    word: str = ""
    size: int = 0
    action: Callable[[], Any] | None = None


def rate_limit(retry_after: float | None = 0.05) -> Fault:
    """Answer 429, with `Retry-After: retry_after` (seconds) unless it is None. The request is not handled."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Fault(kind="answer", status=429, message="Rate limit reached.", code="rate_limit_exceeded", headers=headers)


def server_error(status: int = 500, *, handled: bool = False) -> Fault:
    """Answer with a 5xx `status`; with `handled`, the vendor handles the request first."""
    return Fault(kind="answer", status=status, message="The server had an error.", code="server_error", handled=handled)


def refusal(status: int, message: str, code: str | None = None) -> Fault:
    """Refuse the request in the vendor's error format, with a `status` such as 400 or 404, a `message` and a `code`."""
    return Fault(kind="answer", status=status, message=message, code=code)


def reset() -> Fault:
    """Reset the connection before the vendor handles the request (which the client cannot know)."""
    return Fault(kind="reset")


def accept_then_drop() -> Fault:
    """Handle the request, then reset the connection before the response."""
    return Fault(kind="reset", handled=True)


def accept_then_hold(seconds: float) -> Fault:
    """Handle the request and delay the response by `seconds`, longer than the client's timeout."""
    return Fault(kind="hold", handled=True, seconds=seconds)


def slow(seconds: float) -> Fault:
    """Wait `seconds` before handling the request, then answer correctly."""
    return Fault(kind="hold", seconds=seconds)


def truncated() -> Fault:
    """Handle the request; the response breaks off in the middle."""
    return Fault(kind="truncate", handled=True)


def garbled() -> Fault:
    """Handle the request; the response is 200 with an HTML page, as from a proxy."""
    return Fault(kind="garble", handled=True)


def unknown_state(state: str = "recalibrating") -> Fault:
    """Report the job's state as `state` in this one response."""
    return Fault(kind="state", handled=True, word=state)


def call_action(action: Callable[[], Any], *, handled: bool = True) -> Fault:
    """Call `action` after the request is handled, or before, without `handled`; kill tests use it."""
    return Fault(kind="call", handled=handled, action=action)


def endless(max_bytes: int = 256 * 1024**2) -> Fault:
    """Handle the request; the response does not end until the client hangs up.

    It ends after `max_bytes` nevertheless, so that a client without a limit fails its test, not the machine.
    """
    return Fault(kind="endless", handled=True, size=max_bytes)


def trickle(seconds: float = 1.0) -> Fault:
    """Handle the request; send the response byte by byte, one every `seconds`."""
    return Fault(kind="trickle", handled=True, seconds=seconds)


def echo() -> Fault:
    """Refuse the request (401) and repeat its headers in the response, as gateways do: the key is among them."""
    return Fault(kind="echo", status=401)


def odd_numbers(literal: str = "1e400") -> Fault:
    """Handle the request; replace every number of the JSON response by `literal`: "1e400", "NaN", "10000...".

    `True`, `False` and numbers inside text stay as they are.
    """
    return Fault(kind="odd", handled=True, word=literal)


def empty_answer() -> Fault:
    """Handle the request; the response is 200 with an empty JSON object."""
    return Fault(kind="empty", handled=True)


def endless_list() -> Fault:
    """Handle the request; a response with a list claims that more follows, with a new cursor each time.

    A response without a list stays as it is.
    """
    return Fault(kind="loop", handled=True)


@dataclass
class _Planned:
    fault: Fault
    role: Role | None
    route: str | None
    after: int
    times: int


@dataclass
class _Sprinkled:
    faults: Sequence[Fault]
    rate: float
    roles: Collection[Role] | None
    dice: random.Random


class Faults:
    """The faults of one fake vendor. `injected` counts those that were injected, by kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[_Planned] = []
        self._sprinkled: list[_Sprinkled] = []
        self.injected: dict[str, int] = {}

    def add(
        self, fault: Fault, *, role: Role | None = None, route: str | None = None, times: int = 1, after: int = 0
    ) -> None:
        """Inject the fault into the next `times` matching requests, after the first `after` of them.

        A request matches by its `role` ("poll"), by the name of its `route`'s method ("create_job"), or by both; with
        neither, every request matches.
        """
        with self._lock:
            self._planned.append(_Planned(fault, role, route, after, times))

    def sprinkle(
        self, faults: Sequence[Fault], *, rate: float, seed: int = 0, roles: Collection[Role] | None = None
    ) -> None:
        """Inject one of `faults` into each request of these `roles` with probability `rate`, reproducible by `seed`."""
        with self._lock:
            self._sprinkled.append(_Sprinkled(faults, rate, roles, random.Random(seed)))

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._planned.clear()
            self._sprinkled.clear()

    def total(self) -> int:
        """Return how many faults were injected."""
        with self._lock:
            return sum(self.injected.values())

    def pick(self, role: Role, route: str) -> Fault | None:
        """Return the fault for a request of this `role` and `route`, or None; those of `add` come first."""
        with self._lock:
            for plan in self._planned:
                if plan.times > 0 and plan.role in (None, role) and plan.route in (None, route):
                    if plan.after > 0:
                        plan.after -= 1
                        continue
                    plan.times -= 1
                    return self._count(plan.fault)
            for sprinkled in self._sprinkled:
                if (sprinkled.roles is None or role in sprinkled.roles) and sprinkled.dice.random() < sprinkled.rate:
                    return self._count(sprinkled.dice.choice(sprinkled.faults))
        return None

    def _count(self, fault: Fault) -> Fault:
        name = f"{fault.kind}:{fault.status}" if fault.kind == "answer" else fault.kind
        self.injected[name] = self.injected.get(name, 0) + 1
        return fault
