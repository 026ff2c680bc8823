"""What can go wrong between a client and a vendor, injected on purpose into a fake vendor.

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

Role = Literal["upload", "submit", "poll", "find", "cancel", "deploy", "undeploy", "generate", "delete", "other"]

#: What a fault does to one exchange.
Kind = Literal[
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
    """One way for one exchange to go wrong. Build it with the functions below.

    `handled` tells whether the vendor did what was asked before things went wrong.

    `kind` is the way. Of an answer, `status`, `code`, `message` and `headers` are what comes back; a hold or delay
    lasts `seconds`; `word` is the job state (or number) that is reported; an endless answer has `size` bytes; `action`
    is called at that moment.
    """

    kind: Kind
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
    """429, with `retry_after` as `Retry-After`, in seconds, unless None. The vendor did nothing."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Fault(kind="answer", status=429, message="Rate limit reached.", code="rate_limit_exceeded", headers=headers)


def server_error(status: int = 500, *, handled: bool = False) -> Fault:
    """A 5xx answer (`status`); with `handled` the vendor did what was asked all the same."""
    return Fault(kind="answer", status=status, message="The server had an error.", code="server_error", handled=handled)


def refusal(status: int, message: str, code: str | None = None) -> Fault:
    """A refusal in the vendor's own shape: `status` 400, 401, 403, 404 and the like, with its `code`."""
    return Fault(kind="answer", status=status, message=message, code=code)


def reset() -> Fault:
    """The connection is reset before the vendor did anything (the client cannot know that)."""
    return Fault(kind="reset")


def accept_then_drop() -> Fault:
    """The vendor does what was asked, then the connection is reset before the answer."""
    return Fault(kind="reset", handled=True)


def accept_then_hold(seconds: float) -> Fault:
    """The vendor does what was asked and holds the answer back for `seconds`; a shorter time-out strikes."""
    return Fault(kind="hold", handled=True, seconds=seconds)


def slow(seconds: float) -> Fault:
    """The vendor waits so many `seconds` before it does what was asked, then answers well."""
    return Fault(kind="hold", seconds=seconds)


def truncated() -> Fault:
    """The vendor does what was asked; its answer breaks off in the middle."""
    return Fault(kind="truncate", handled=True)


def garbled() -> Fault:
    """The vendor does what was asked; a proxy answers 200 with a page of HTML."""
    return Fault(kind="garble", handled=True)


def unknown_state(word: str = "recalibrating") -> Fault:
    """The job's state reads `word` in this one answer."""
    return Fault(kind="state", handled=True, word=word)


def calling(action: Callable[[], Any], *, handled: bool = True) -> Fault:
    """Call `action` after the vendor did what was asked (before, without `handled`); kill tests strike here."""
    return Fault(kind="call", handled=handled, action=action)


def endless(most: int = 256 * 1024**2) -> Fault:
    """The vendor does what was asked; its answer goes on without end, until the client hangs up.

    It ends after `most` bytes all the same, so that a client without a bound fails its test and not the machine.
    """
    return Fault(kind="endless", handled=True, size=most)


def trickle(seconds: float = 1.0) -> Fault:
    """The vendor does what was asked; its answer comes byte by byte, one every so many `seconds`."""
    return Fault(kind="trickle", handled=True, seconds=seconds)


def echo() -> Fault:
    """A refusal (401) that repeats every header of the request, as gateways do: the key is among them."""
    return Fault(kind="echo", status=401)


def odd_numbers(literal: str = "1e400") -> Fault:
    """The vendor does what was asked; every number of its JSON answer reads `literal`: "1e400", "NaN", "10000...".

    `True`, `False` and numbers inside of text stay as they are.
    """
    return Fault(kind="odd", handled=True, word=literal)


def empty_answer() -> Fault:
    """The vendor does what was asked; its answer is 200 with an empty JSON object."""
    return Fault(kind="empty", handled=True)


def endless_list() -> Fault:
    """The vendor does what was asked; an answer that holds a list says that more follows, with a new cursor each time.

    An answer without a list stays as it is.
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
    """The faults that one fake vendor is to inject. `injected` counts those that struck, by kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[_Planned] = []
        self._sprinkled: list[_Sprinkled] = []
        self.injected: dict[str, int] = {}

    def add(
        self, fault: Fault, *, role: Role | None = None, route: str | None = None, times: int = 1, after: int = 0
    ) -> None:
        """Strike the next `times` matching requests, once `after` others have passed untouched.

        Matching is by role ("poll"), by the name of the route's method ("create_job"), or both; neither: any request.
        """
        with self._lock:
            self._planned.append(_Planned(fault, role, route, after, times))

    def sprinkle(
        self, faults: Sequence[Fault], *, rate: float, seed: int = 0, roles: Collection[Role] | None = None
    ) -> None:
        """Strike each request of these roles with probability `rate`, with one of `faults`, repeatable by `seed`."""
        with self._lock:
            self._sprinkled.append(_Sprinkled(faults, rate, roles, random.Random(seed)))

    def clear(self) -> None:
        """Nothing goes wrong from now on."""
        with self._lock:
            self._planned.clear()
            self._sprinkled.clear()

    def total(self) -> int:
        """How many faults have struck."""
        with self._lock:
            return sum(self.injected.values())

    def pick(self, role: Role, route: str) -> Fault | None:
        """The fault that strikes a request of this `role` and `route`, if one does; planned ones first."""
        with self._lock:
            for plan in self._planned:
                if plan.times > 0 and plan.role in (None, role) and plan.route in (None, route):
                    if plan.after > 0:
                        plan.after -= 1
                        continue
                    plan.times -= 1
                    return self._count(plan.fault)
            for each in self._sprinkled:
                if (each.roles is None or role in each.roles) and each.dice.random() < each.rate:
                    return self._count(each.dice.choice(each.faults))
        return None

    def _count(self, fault: Fault) -> Fault:
        name = f"{fault.kind}:{fault.status}" if fault.kind == "answer" else fault.kind
        self.injected[name] = self.injected.get(name, 0) + 1
        return fault
