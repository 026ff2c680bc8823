"""Steps have numbers: each gets its gradient once, then its update once."""

from __future__ import annotations

import pytest

from llmtune_tinker.loop import StepCounter, StepOutOfOrder


def test_a_step_gets_its_gradient_then_its_update() -> None:
    counter = StepCounter(applied=4)
    counter.start_gradient(5)
    counter.start_update(5)
    assert counter.applied == 5


@pytest.mark.parametrize("step", [3, 4, 6])
def test_a_gradient_of_another_step_is_refused(step: int) -> None:
    with pytest.raises(StepOutOfOrder, match=f"the gradient of step {step} cannot follow step 4"):
        StepCounter(applied=4).start_gradient(step)


def test_a_second_gradient_or_update_of_a_step_is_refused() -> None:
    counter = StepCounter()
    with pytest.raises(StepOutOfOrder, match="the update of step 1 cannot follow step 0"):
        counter.start_update(1)
    counter.start_gradient(1)
    with pytest.raises(StepOutOfOrder, match="cannot follow the gradient of step 1"):
        counter.start_gradient(1)
    counter.start_update(1)
    with pytest.raises(StepOutOfOrder):
        counter.start_update(1)
