"""A run counts once, however many trials had its values; equal results say nothing of what mattered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.sweeps.results import Sweep, TrialRow
from llmtune.sweeps.text import headline

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
    sweep = Sweep(
        name="s",
        provider="fake",
        group="g",
        method="random",
        metric="validation/loss",
        direction="minimize",
        trials=rows,
        job=TuningJob(name="s", dataset="rows.jsonl", model="m"),
    )
    assert [trial.number for trial in sweep.ranked()] == [1, 0]
    assert [trial.number for trial in sweep.ranked(every=True)] == [1, 0, 4]
    assert headline(sweep).endswith("trial 1; 3 trials, 2 more with the values of an earlier one)")
    assert sweep.to_markdown().startswith("# s: 3 trials, 2 more with the values of an earlier one")


@pytest.mark.parametrize(
    ("values", "is_known"), [([0.7] * 12, False), ([0.7 + 0.01 * (n % 4) for n in range(12)], True)]
)
def test_equal_results_have_nothing_that_mattered(values: list[float], is_known: bool) -> None:
    from llmtune.sweeps.study import compute_importance

    study = optuna.create_study()
    ranges = {"rate": optuna.distributions.FloatDistribution(0, 1), "rank": optuna.distributions.IntDistribution(1, 4)}
    for number, value in enumerate(values):
        params = {"rate": number / 12, "rank": 1 + number % 4}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=value))
    assert bool(compute_importance(study)) is is_known


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_the_best_job_is_one_as_written_by_hand(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    job = TuningJob(
        name="s",
        dataset="data/rows.jsonl",
        model={"fake": "m-2"},
        hyperparameters=Hyperparameters(epochs=3),
        overrides={"fake": Hyperparameters(lora_rank=1), "local": Hyperparameters(epochs=9)},
    )
    sweep = Sweep(
        name="s",
        provider="fake",
        group="g",
        method="random",
        metric="validation/loss",
        direction="minimize",
        trials=(trial(1, "a", 0.41237),),
        job=job,
    )
    sweep.save_job(f"jobs/best.{ending}")
    text = (tmp_path / "jobs" / f"best.{ending}").read_text()
    if ending == "yaml":
        assert text == (
            "# The best of 1 trial of s by validation/loss (0.4124): lora_rank\n"
            "# llmtune tune best.yaml --provider fake\n"
            "name: s\n"
            "dataset: ../data/rows.jsonl\n"
            "model: m-2\n"
            "hyperparameters:\n"
            "  epochs: 3\n"
            "  lora_rank: 1\n"
            "overrides:\n"
            "  local:\n"
            "    epochs: 9\n"
        )
    written = TuningJob.load(f"jobs/best.{ending}")
    assert written.hyperparameters_for("fake") == job.hyperparameters_for("fake")
    assert Path(written.dataset.path or "").resolve() == tmp_path / "data" / "rows.jsonl"
