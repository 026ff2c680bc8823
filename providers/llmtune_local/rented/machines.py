"""Machines for rent: which ones a run fits on, how long it takes there, what that costs, and the cheapest of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmtune.errors import DeviceUnavailable
from llmtune.provider import Span
from llmtune.provider.memory import size

#: Dense 16-bit operations a second at peak, by the accelerator's name: NVIDIA's round figures, which no source was read
#: for here, as they only bound a guess eight times as wide. What is not listed counts as the slowest of them.
PEAK_OPERATIONS = {"T4": 6.5e13, "A10G": 1.25e14, "L4": 1.21e14, "L40S": 3.62e14, "A100": 3.12e14, "H200": 9.89e14}
#: The share of the peak that training reaches, low and high: a guess, as no run has measured it on these machines.
_SHARE = (0.05, 0.4)
#: Tokens a second that a GPU does not exceed on small models, whose time goes into starting its kernels, low and high.
_MOST_TOKENS = (2e4, 3e5)
#: Operations a second of a rented CPU, low and high.
_CPU_OPERATIONS = (2e10, 4e11)
#: Seconds in which a machine installs the libraries, reads the model and writes the result.
_START = (90.0, 600.0)
#: Share of a device's memory that a run may be estimated to take.
USABLE = 0.92


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine for rent: `memory` bytes on each of its `devices`, at `per_minute` USD for the whole machine.

    `accelerator` names the device as its maker does; "" is a machine without one.
    """

    name: str
    memory: int
    per_minute: float
    accelerator: str = ""
    devices: int = 1

    @property
    def per_hour(self) -> float:
        """Return its price in USD an hour."""
        return 60 * self.per_minute


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a run needs; None where it could not be estimated."""

    memory: int | None = None
    operations: float | None = None
    tokens: float | None = None
    cpu: bool = False
    """Whether the job asks for a machine without an accelerator (`device: cpu`)."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A machine for a run, and how long it takes there; `span` is None where that could not be estimated."""

    machine: Machine
    span: Span | None

    @property
    def cost(self) -> tuple[float, float] | None:
        """Return the least and the most that the run costs, in USD; each minute that has begun is billed."""
        if self.span is None:
            return None
        return price(self.machine.per_minute, self.span.low), price(self.machine.per_minute, self.span.high)

    def sentence(self) -> str:
        """Describe machine, rate, time and cost."""
        rate = f"{self.machine.name} at {self.machine.per_hour:.2f} USD an hour"
        if self.span is None or self.cost is None:
            return f"{rate}; how long it takes could not be estimated"
        low, high = self.cost
        return f"{rate}, about {self.span} (a guess), about {low:.2f} to {high:.2f} USD"


def price(per_minute: float, seconds: float) -> float:
    """Return what so many seconds cost in USD: each minute that has begun is billed."""
    return math.ceil(round(seconds / 60, 6)) * per_minute


def estimate_span(machine: Machine, need: Need) -> Span | None:
    """Return about how long a run takes on a machine, its start included; None where its size is not known."""
    if need.operations is None:
        return None
    if machine.accelerator:
        peak = PEAK_OPERATIONS.get(machine.accelerator, min(PEAK_OPERATIONS.values()))
        slow, fast = (share * peak for share in _SHARE)
        floor = [(need.tokens or 0.0) / most for most in _MOST_TOKENS]
    else:
        (slow, fast), floor = _CPU_OPERATIONS, [0.0, 0.0]
    return Span(
        low=_START[0] + max(need.operations / fast, floor[1]), high=_START[1] + max(need.operations / slow, floor[0])
    )


def choose_machine(machines: Sequence[Machine], need: Need, named: str | None = None) -> Choice:
    """Return the machine that `named` names, else the one on which the run costs least.

    Raises `DeviceUnavailable` where there is no such machine, or none is large enough.
    """
    if named is not None:
        machine = next((machine for machine in machines if machine.name == named), None)
        if machine is None:
            names = ", ".join(machine.name for machine in machines)
            raise DeviceUnavailable(f"there is no machine {named!r} for rent", hint=f"choose one of {names}")
        if need.memory is not None and not _fits(machine, need):
            raise DeviceUnavailable(
                f"the run needs about {size(need.memory)} and {named} has {size(machine.memory)} on a device",
                hint="leave the option machine out: the cheapest that fits is chosen",
            )
        return Choice(machine=machine, span=estimate_span(machine, need))
    fitting = [machine for machine in machines if bool(machine.accelerator) != need.cpu and _fits(machine, need)]
    if not fitting:
        largest = max((machine.memory for machine in machines), default=0)
        needed = f"about {size(need.memory)}" if need.memory is not None else "a machine with an accelerator"
        raise DeviceUnavailable(
            f"the run needs {needed} on one device, and the largest for rent has {size(largest)}",
            hint="adapter qlora, a smaller token_budget or a smaller model need less",
        )
    choices = [Choice(machine=machine, span=estimate_span(machine, need)) for machine in fitting]
    return min(choices, key=lambda choice: (choice.cost[1] if choice.cost else 0.0, choice.machine.per_minute))


def _fits(machine: Machine, need: Need) -> bool:
    return need.memory is None or need.memory <= USABLE * machine.memory
