"""Validation takes a fifth of the training time at most: fewer evaluations first, then a sample of the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from llmtune_local.training.validation_plan import TrainingWork, choose_rows, plan_validation


def work(epochs: float, rows: int, **fields: Any) -> TrainingWork:
    """Training on rows of ten tokens, eight a step."""
    per_epoch = -(-rows // 8)
    return TrainingWork(
        steps=round(epochs * per_epoch), steps_per_epoch=per_epoch, tokens_per_epoch=10 * rows, **fields
    )


def cost(training: TrainingWork, rows: int, every: int) -> float:
    """The share of training time that validation takes, on rows of ten tokens."""
    passes = -(-training.steps // every) + training.other_passes
    epochs = training.steps / training.steps_per_epoch
    return passes * rows * 10 / (3 * epochs * training.tokens_per_epoch)


@pytest.mark.parametrize(
    ("epochs", "train", "validation", "asked", "evaluations"),
    [
        (3, 800, 100, 100, 10),  # the usual split: all rows, ten times
        (3, 800, 200, 200, 6),  # fewer evaluations
        (3, 800, 800, 240, 5),  # a sample
        (1, 800, 8000, 80, 5),
        (1, 80, 8000, 20, 1),  # never fewer than twenty rows
        (3, 10, 4, 4, 3),
    ],
)
def test_a_fifth_of_the_training_time(epochs: int, train: int, validation: int, asked: int, evaluations: int) -> None:
    training = work(epochs, train)
    plan = plan_validation(training, [10] * validation)
    assert plan.rows == asked
    assert -(-training.steps // plan.eval_every) == evaluations
    assert cost(training, plan.rows, plan.eval_every) <= 0.2 or plan.rows <= 20


def test_what_a_method_adds_and_several_processes_are_counted() -> None:
    alone = plan_validation(work(3, 800), [10] * 150)
    adds = plan_validation(work(3, 800, other_passes=4), [10] * 150)
    shared = plan_validation(work(3, 800, processes=4), [10] * 150)
    assert alone.eval_every < adds.eval_every
    assert shared.rows < alone.rows == 150


def test_evaluations_without_improvement_cover_an_epoch_before_a_run_stops() -> None:
    for epochs in (1, 3, 20):
        for patience in (1, 3, 5):
            training = work(epochs, 800, patience=patience)
            assert plan_validation(training, [10] * 100).eval_every * patience >= training.steps_per_epoch


@dataclass
class Piece:
    ids: Any


def test_the_sample_depends_on_the_rows_alone() -> None:
    rows = [(Piece(np.arange(number, number + 5, dtype=np.int32)),) for number in range(100)]
    chosen = choose_rows(rows, 30)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 30
    assert chosen != list(range(30))
    backwards = choose_rows(rows[::-1], 30)
    assert sorted(99 - index for index in backwards) == chosen
    copies = choose_rows(rows[:1] * 40, 20)
    assert len(copies) == 20
