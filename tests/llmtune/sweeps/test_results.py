"""A run counts once, however many trials had its values; equal results say nothing of what mattered."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.job.spec import TuningJob
from llmtune.sweeps.results import Sweep, TrialRow
from llmtune.sweeps.text import headline, to_markdown

optuna = pytest.importorskip("optuna")


def trial(number: int, run: str | None, value: float | None = 0.5, state: Any = "complete") -> TrialRow:
    return TrialRow(number=number, params={"lora_rank": number % 2}, state=state, value=value, run=run)


def test_trials_that_share_a_run_are_one() -> None:
    rows = (
        trial(0, "a", 0.6),
        trial(1, "b", 0.4),
        trial(2, "a", 0.6),
        trial(3, "b", 0.4),
        trial(4, None, None, "failed"),
    )
    found = Sweep(
        name="s",
        provider="fake",
        group="g",
        method="random",
        metric="validation/loss",
        direction="minimize",
        trials=rows,
        job=TuningJob(name="s", dataset="rows.jsonl", model="m"),
    )
    assert [each.number for each in found.ranked()] == [1, 0]
    assert [each.number for each in found.ranked(every=True)] == [1, 0, 4]
    assert headline(found).endswith("trial 1; 3 trials, 2 more with the values of an earlier one)")
    assert to_markdown(found).startswith("# s: 3 trials, 2 more with the values of an earlier one")


@pytest.mark.parametrize(("values", "told"), [([0.7] * 12, False), ([0.7 + 0.01 * (n % 4) for n in range(12)], True)])
def test_equal_results_have_nothing_that_mattered(values: list[float], told: bool) -> None:
    from llmtune.sweeps.study import importance

    study = optuna.create_study()
    ranges = {"rate": optuna.distributions.FloatDistribution(0, 1), "rank": optuna.distributions.IntDistribution(1, 4)}
    for number, value in enumerate(values):
        params = {"rate": number / 12, "rank": 1 + number % 4}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=value))
    assert bool(importance(study)) is told
