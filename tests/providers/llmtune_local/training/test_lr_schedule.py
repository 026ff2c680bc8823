"""Our schedules are transformers' schedules."""

from __future__ import annotations

import pytest
import torch

from llmtune_local.training.lr_schedule import SCHEDULES, lr_factor, warmup_steps

TOTAL = 50


def theirs(name: str, warmup: int, floor: float, cycles: float | None) -> list[float]:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    extra: dict[str, object] = {}
    if name == "polynomial":
        extra = {"lr_end": floor}
    if name == "cosine_with_min_lr":
        extra = {"min_lr_rate": floor}
    if name == "warmup_stable_decay":
        extra = {"num_decay_steps": 5, "min_lr_ratio": 0.0}
    if cycles is not None and name.startswith("cosine"):
        extra["num_cycles"] = cycles
    scheduler = get_scheduler(name, optimizer, warmup, TOTAL, scheduler_specific_kwargs=extra)
    rates = []
    for _ in range(TOTAL):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def ours(name: str, warmup: int, floor: float = 0.0, cycles: float | None = None) -> list[float]:
    return [lr_factor(name, step, TOTAL, warmup, floor=floor, cycles=cycles) for step in range(TOTAL)]


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_same_as_transformers(name: str, warmup: int) -> None:
    floor = 0.1 if name in ("polynomial", "cosine_with_min_lr") else 0.0
    assert ours(name, warmup, floor) == pytest.approx(theirs(name, warmup, floor, None), abs=1e-9)


@pytest.mark.parametrize(("name", "cycles"), [("cosine", 1.5), ("cosine_with_restarts", 3.0)])
def test_cycles_are_transformers(name: str, cycles: float) -> None:
    assert ours(name, 5, 0.0, cycles) == pytest.approx(theirs(name, 5, 0.0, cycles), abs=1e-9)
    assert ours(name, 5, 0.0, cycles) != pytest.approx(ours(name, 5), abs=1e-3)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if not name.startswith("constant")])
def test_the_floor_holds_after_the_warmup(name: str) -> None:
    rates = ours(name, 10, 0.3)
    assert min(rates[10:]) >= 0.3
    assert rates[:10] == pytest.approx([step / 10 for step in range(10)])
    if name != "inverse_sqrt":
        assert lr_factor(name, TOTAL, TOTAL, 10, floor=0.3) == pytest.approx(0.3)


def test_constant_ignores_the_warmup_and_its_sibling_does_not() -> None:
    assert set(ours("constant", 10)) == {1.0}
    assert ours("constant_with_warmup", 10)[:3] == pytest.approx([0.0, 0.1, 0.2])


def test_warmup_steps_before_ratio() -> None:
    assert warmup_steps(100, 0.05, None) == 5
    assert warmup_steps(101, 0.05, None) == 6
    assert warmup_steps(100, 0.05, 3) == 3
    assert warmup_steps(100, None, None) == 0


def test_an_unknown_schedule_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: linear"):
        lr_factor("wavy", 1, 10, 0)
