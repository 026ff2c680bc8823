"""What is searched where nobody says, at several backends, and explored elsewhere first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import llmtune
from llmtune import Sweep, TuningJob
from llmtune.errors import InvalidJob, LlmtuneError, OverBudget
from llmtune.provider.declarations import Converted, Sent
from llmtune.provider.registry import get_provider, known_kinds
from llmtune.runs.plans import target_of
from llmtune.runs.poller import PollInterval
from llmtune.runs.store.store import open_store
from llmtune.sweeps.default_space import suggest
from llmtune.sweeps.learning_curve import Probe, Rung, build_probe
from llmtune.sweeps.sweep_plan import plan_sweep
from llmtune.testing.generic_vendor import Fake

pytest.importorskip("optuna")

QUICK = PollInterval(first=0.01, most=0.05)
OPTIONS: dict[str, Any] = {"method": "random", "pruning": False, "finalists": 0, "pace": QUICK}

MODELS = {
    "openai": "gpt-4.1-nano-2025-04-14",
    "azure": "gpt-4.1-nano-2025-04-14",
    "vertex": "gemini-2.5-flash",
    "bedrock": "amazon.nova-lite-v1:0",
    "sagemaker": "huggingface-reasoning-qwen3-8b",
    "together": "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference",
    "tinker": "Qwen/Qwen3-8B",
    "nebius": "meta-llama/Llama-3.1-8B-Instruct",
    "local": "tiny",
    "fake": "m-1",
}


@pytest.fixture
def job(make_job: Callable[..., TuningJob]) -> TuningJob:
    return make_job(120, name="spaced", model=MODELS)


@pytest.fixture
def vendors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Fake]]:
    """Two configured instances of the neutral vendor."""
    with Fake() as one, Fake() as second_vendor:
        (tmp_path / "config.toml").write_text(
            "".join(
                f'[providers.{name}]\nkind = "fake"\nbase_url = "{fake.url}"\n'
                for name, fake in (("one", one), ("other", second_vendor))
            )
        )
        monkeypatch.setenv("LLMTUNE_CONFIG", str(tmp_path / "config.toml"))
        yield {"one": one, "other": second_vendor}
        assert not one.complaints + second_vendor.complaints


@pytest.mark.parametrize("kind", sorted(set(known_kinds()) & set(MODELS)))
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_what_is_suggested_is_what_the_backend_takes(kind: str, adapter: Any, job: TuningJob) -> None:
    own_job = job.model_copy(update={"adapter": adapter})
    backend = get_provider(kind)
    declared = backend.capabilities(target_of(own_job, backend)).parameters
    target = target_of(own_job, backend)
    space, sources = suggest(own_job, target, backend.capabilities(target))
    assert set(space) == set(sources)
    for name, part in space.items():
        entry = declared[name]
        assert isinstance(entry, (Sent, Converted))
        if isinstance(entry, Sent):
            assert all(entry.type.error(value) is None for value in part.grid_points()), name
        words = ("20", "chooses itself", f"{kind}'s own")  # a year of publication, or the backend's own default
        assert any(word in sources[name] for word in words), sources[name]
    # The two spellings of the rate exclude each other.
    assert not {"learning_rate", "learning_rate_multiplier"} <= set(space)
    assert {"learning_rate", "learning_rate_multiplier"} & set(space)


def test_without_a_space_the_published_one_is_searched(job: TuningJob, vendors: dict[str, Fake]) -> None:
    vendor_job = job.model_copy(update={"model": "m-1"})
    sweep = llmtune.sweep(vendor_job, "one", trials=3, **OPTIONS)
    assert set(sweep.sources) == {"learning_rate", "epochs", "lora_rank", "batch_size"}
    for sent_job in vendors["one"].jobs.values():
        sent = sent_job.body["hyperparameters"]
        assert 2e-5 <= sent["learning_rate"] <= 2e-3
        assert sent["lora_rank"] in (8, 16, 32, 64)
    assert "arXiv:2106.09685" in sweep.to_markdown()
    assert "arXiv:2106.09685" in sweep.to_html()


def test_the_command_line_says_what_would_be_searched(job: TuningJob, tmp_path: Path) -> None:
    from llmtune.cli.app import app

    job.model_copy(update={"adapter": "lora"}).save(tmp_path / "job.yaml")
    result = CliRunner().invoke(app, ["sweep", str(tmp_path / "job.yaml"), "-p", "openai", "--show-space"])
    assert result.exit_code == 0, result.output
    assert "learning_rate_multiplier: 0.5 to 2, on a logarithmic scale" in result.output
    assert "a trial at openai: about" in result.output
    output_json = CliRunner().invoke(app, ["sweep", str(tmp_path / "job.yaml"), "--show-space", "--json"])
    assert json.loads(output_json.stdout)["sources"]["lora_rank"]
    assert not open_store().runs()


def test_a_field_without_a_knob_is_refused_before_anything_is_paid(job: TuningJob) -> None:
    with pytest.raises(InvalidJob, match="learning_rate cannot be searched at openai: only a multiplier"):
        llmtune.sweep(job, "openai", {"learning_rate": (1e-5, 1e-4)})
    assert not open_store().runs()


@pytest.mark.slow
def test_providers_are_searched_too(job: TuningJob, vendors: dict[str, Fake]) -> None:
    space = {"provider": ["one:m-1", "other:m-1"], "lora_rank": [4, 8, 16]}
    sweep = llmtune.sweep(job, space=space, trials=8, **OPTIONS)
    ran = {name: len(fake.jobs) for name, fake in vendors.items()}
    assert sum(ran.values()) == len({json.dumps(row.params, sort_keys=True) for row in sweep.trials})
    assert all(ran.values())
    for row in sweep.trials:
        assert row.run is not None
        assert open_store().get(row.run).provider == row.params["provider"].partition(":")[0]
    assert sweep.best is not None
    assert list(sweep.job.model) == [sweep.best.params["provider"].partition(":")[0]]  # type: ignore[arg-type]
    assert Sweep.model_validate_json(sweep.to_json()) == sweep


def test_a_field_is_searched_where_it_exists_and_that_is_said(job: TuningJob) -> None:
    space = {"provider": ["local", "openai"], "lora_rank": [4, 8], "epochs": [1, 2]}
    sweep_plan = plan_sweep(job, space=space)
    (note,) = sweep_plan.notes
    assert note.startswith("lora_rank is not searched at openai: ")
    assert sweep_plan.trial_cost["local"] == 0
    with pytest.raises(InvalidJob, match="a grid needs every field at every backend"):
        llmtune.sweep(job, space=space, method="grid")


@pytest.mark.slow
def test_the_best_few_of_an_exploration_are_carried_over(job: TuningJob, vendors: dict[str, Fake]) -> None:
    space = {"learning_rate": (1e-5, 1e-2), "lora_rank": [4, 8, 16]}
    screen = {"provider": "one", "model": "m-1", "keep": 2, "trials": 5}
    vendor_job = job.model_copy(update={"model": {"other": "m-2"}})
    sweep = llmtune.sweep(vendor_job, "other", space, prescreen=screen, **OPTIONS)
    assert (len(vendors["one"].jobs), len(vendors["other"].jobs)) == (5, 2)
    before = sweep.prescreened
    assert before is not None
    assert before.model == "m-1"
    best = sorted(before.trials, key=lambda row: float(row.value or 0))[:2]
    assert [row.params for row in best] == list(before.kept) == [row.params for row in sweep.trials]
    assert "carried over" in sweep.to_markdown()
    again = llmtune.sweep(vendor_job, "other", space, prescreen=screen, **OPTIONS)
    assert again.trials == sweep.trials
    assert (len(vendors["one"].jobs), len(vendors["other"].jobs)) == (5, 2)


@pytest.mark.parametrize(
    ("screen", "message"),
    [
        ({"provider": "local"}, "needs a model to explore with"),
        ({"provider": "one", "model": "m-1", "kept": 2}, "prescreen.kept"),
        ({"provider": "one", "model": "m-1", "keep": 0}, "prescreen.keep"),
    ],
)
def test_what_is_no_prescreen_is_refused(
    screen: dict[str, Any], message: str, job: TuningJob, vendors: dict[str, Fake]
) -> None:
    with pytest.raises(InvalidJob, match=message):
        llmtune.sweep(job.model_copy(update={"model": {"other": "m-1"}}), "other", prescreen=screen, **OPTIONS)


SCREENED = """
import os, signal, sys
import llmtune
from llmtune import TuningJob
from llmtune.runs.poller import PollInterval
from llmtune.runs import failpoints
passed = 0
def die(arrow):
    global passed
    passed += arrow == "after-submit"
    if passed == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
failpoints.failpoint_hook = die
llmtune.sweep(TuningJob.load(sys.argv[1]), "other", {"lora_rank": (1, 64)}, method="random", pruning=False, finalists=0,
              prescreen={"provider": "one", "model": "m-1", "keep": 2, "trials": 4},
              pace=PollInterval(first=0.01, most=0.05))
"""


@pytest.mark.slow
@pytest.mark.parametrize("nth", [3, 5])
def test_killed_while_exploring_or_after_nothing_is_done_twice(
    nth: int, job: TuningJob, vendors: dict[str, Fake], tmp_path: Path
) -> None:
    vendor_job = job.model_copy(update={"model": {"other": "m-2"}})
    vendor_job.save(tmp_path / "job.yaml")
    command = [sys.executable, "-c", SCREENED, str(tmp_path / "job.yaml"), str(nth)]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    screen = {"provider": "one", "model": "m-1", "keep": 2, "trials": 4}
    sweep = llmtune.sweep(
        TuningJob.load(tmp_path / "job.yaml"), "other", {"lora_rank": (1, 64)}, prescreen=screen, **OPTIONS
    )
    assert all(row.state == "complete" for row in sweep.trials)
    assert (len(vendors["one"].jobs), len(vendors["other"].jobs)) == (4, len(sweep.trials))


# --- the probe -------------------------------------------------------------------------------------------------------
def rung(rows: int, loss: float | None, falling: float = 0.0) -> Rung:
    return Rung(share=rows / 1000, rows=rows, loss=loss, falling=falling)


@pytest.mark.parametrize(
    ("losses", "falling", "answer"),
    [
        ([2.0, 1.6, 1.28, 1.02], 0.01, "more data"),
        ([2.0, 1.6, 1.28, 1.02], 0.2, "both"),
        ([1.0, 0.999, 0.998, 0.998], 0.0, "neither"),
        ([1.0, 0.999, 0.998, 0.998], 0.2, "more epochs"),
    ],
)
def test_the_answer_is_in_the_losses(losses: list[float], falling: float, answer: str) -> None:
    rungs = [rung(rows, loss, falling) for rows, loss in zip((100, 200, 400, 800), losses, strict=True)]
    probe = build_probe("x", get_provider("fake"), rungs)
    assert probe.answer == answer
    assert probe.doubled is not None
    assert probe.doubled[0] <= probe.doubled[1]


def test_a_power_law_is_found_again() -> None:
    rungs = [rung(rows, 0.5 + 8 * rows**-0.4) for rows in (100, 200, 400, 800)]
    probe = build_probe("x", get_provider("fake"), rungs)
    assert probe.doubled is not None
    assert probe.doubled == pytest.approx([0.5 + 8 * 2000**-0.4] * 2, rel=0.01)
    with pytest.raises(LlmtuneError, match="fewer than three runs"):
        build_probe("x", get_provider("fake"), [rung(100, 1.0), rung(200, None), rung(400, 0.9)])


@pytest.mark.slow
def test_rungs_are_runs_on_nested_rows(job: TuningJob, vendors: dict[str, Fake], tmp_path: Path) -> None:
    vendor_job = job.model_copy(update={"model": "m-1"})
    probe = llmtune.probe(vendor_job, "one", pace=QUICK)
    assert [rung.share for rung in probe.rungs] == [0.1, 0.2, 0.4, 0.8]
    assert len(vendors["one"].jobs) == 4
    files = [open_store().get(str(rung.run)).tuning_job.dataset for rung in probe.rungs]
    assert len({spec.validation for spec in files}) == 1
    rows = [set(Path(str(spec.train)).read_text().splitlines()) for spec in files]
    assert all(one < larger for one, larger in pairwise(rows))
    assert [len(subset) for subset in rows] == [rung.rows for rung in probe.rungs]
    assert llmtune.probe(vendor_job, "one", pace=QUICK).rungs == probe.rungs
    assert len(vendors["one"].jobs) == 4
    assert Probe.model_validate_json(probe.to_json()) == probe


def test_a_probe_asks_before_it_pays(job: TuningJob, vendors: dict[str, Fake]) -> None:
    vendor_job = job.model_copy(update={"model": "m-1"})
    with pytest.raises(OverBudget, match="not confirmed"):
        llmtune.probe(vendor_job, "one", yes=False)
    with pytest.raises(InvalidJob, match="three shares"):
        llmtune.probe(vendor_job, "one", shares=[0.5, 1.0])
    with pytest.raises(InvalidJob, match="is one row"):
        llmtune.probe(vendor_job, "one", shares=[0.01, 0.5, 1.0])
    assert not vendors["one"].jobs


@pytest.mark.slow
def test_the_probe_from_the_command_line(job: TuningJob, vendors: dict[str, Fake], tmp_path: Path) -> None:
    from llmtune.cli.app import app

    job.model_copy(update={"model": "m-1"}).save(tmp_path / "job.yaml")
    result = CliRunner().invoke(app, ["sweep", "probe", str(tmp_path / "job.yaml"), "-p", "one", "--yes"])
    assert result.exit_code == 0, result.output
    assert "rows" in result.output
