"""Which machine is chosen, for how long, and at what price."""

from __future__ import annotations

import pytest

from llmtune.errors import DeviceUnavailable
from llmtune_local.rented.machines import Machine, Need, choose_machine, estimate_span, price

GB = 10**9
CPU = Machine(name="cpu", memory=16 * GB, per_minute=0.0002)
SMALL = Machine(name="small", memory=16 * GB, per_minute=0.007, accelerator="T4")
MIDDLE = Machine(name="middle", memory=48 * GB, per_minute=0.03, accelerator="L40S")
LARGE = Machine(name="large", memory=80 * GB, per_minute=0.042, accelerator="A100")
ALL = (CPU, SMALL, MIDDLE, LARGE)


def test_the_cheapest_that_fits_is_chosen_by_the_cost_of_the_run_and_not_of_the_hour() -> None:
    short = Need(memory=4 * GB, operations=1e15, tokens=1e5)
    assert choose_machine(ALL, short).machine == SMALL
    long = Need(memory=4 * GB, operations=1e19, tokens=1e8)
    assert choose_machine(ALL, long).machine == MIDDLE, "an hour is dearer there, and it needs fewer of them"
    assert choose_machine(ALL, Need(memory=60 * GB, operations=1e15)).machine == LARGE
    assert choose_machine(ALL, Need(operations=1e12, cpu=True)).machine == CPU


def test_without_an_estimate_the_price_of_the_hour_decides_and_no_cost_is_made_up() -> None:
    choice = choose_machine(ALL, Need())
    assert choice.machine == SMALL
    assert choice.cost is None
    assert choice.sentence() == "small at 0.42 USD an hour; how long it takes could not be estimated"


def test_what_is_too_large_or_unknown_is_refused_with_both_figures() -> None:
    with pytest.raises(DeviceUnavailable, match=r"about 93\.1 GiB on one device.*the largest for rent has 74\.5 GiB"):
        choose_machine(ALL, Need(memory=100 * GB))
    with pytest.raises(DeviceUnavailable, match=r"about 55\.9 GiB and middle has 44\.7 GiB"):
        choose_machine(ALL, Need(memory=60 * GB), "middle")
    with pytest.raises(DeviceUnavailable, match="no machine 'huge' for rent"):
        choose_machine(ALL, Need(), "huge")
    with pytest.raises(DeviceUnavailable, match="an accelerator"):
        choose_machine((CPU,), Need())


def test_each_minute_that_has_begun_is_billed() -> None:
    assert price(0.5, 0) == 0
    assert price(0.5, 60) == 0.5
    assert price(0.5, 60.5) == 1.0


def test_an_unknown_accelerator_counts_as_the_slowest() -> None:
    unknown = Machine(name="new", memory=GB, per_minute=1.0, accelerator="Z9")
    need = Need(operations=1e17, tokens=1e3)
    assert estimate_span(unknown, need) == estimate_span(SMALL, need)
    assert estimate_span(SMALL, Need()) is None
