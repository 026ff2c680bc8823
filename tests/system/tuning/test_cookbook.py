"""A script written for OpenAI, unchanged, against a vendor that is not OpenAI. (On this machine: tests/examples.)"""

from __future__ import annotations

import asyncio
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.runs.api import attach
from llmtune.runs.planned import StartOptions
from llmtune.server.tuning.server import TuningServer
from tests.llmtune.server.tuning import scenario
from tests.llmtune.server.tuning.conftest import KEY, client, upload, wait

ROOT = Path(__file__).resolve().parents[3]
MODEL = "gpt-4o-mini-2024-07-18"


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A fake of another vendor, whose models answer only while they are deployed."""
    pytest.importorskip("together")
    from llmtune_together.fake.service import FakeTogether

    monkeypatch.setenv("TOGETHER_API_KEY", "key-for-tests")
    with FakeTogether(api_key="key-for-tests") as fake:
        for name, value in {"BASE_URL": fake.url, "PROJECT_ID": "proj-1", "POLL_INTERVAL": "0.01"}.items():
            monkeypatch.setenv(f"LLMTUNE_TOGETHER_{name}", value)
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


@pytest.fixture
def server(together: Any) -> Iterator[TuningServer]:
    """The endpoint in front of that vendor."""
    with TuningServer(
        {MODEL: "together:Qwen/Qwen3-8B"}, port=0, spending=StartOptions(yes=True), deploy=True
    ) as running:
        yield running
    assert together.standing == []  # what was deployed for an answer is gone


def test_the_script_of_the_example_runs_at_a_vendor(
    server: TuningServer,
    together: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(ROOT / "examples" / "after_openai", tmp_path / "after_openai"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(sys, "argv", ["finetune.py"])
    runpy.run_path("make.py")
    runpy.run_path("finetune.py")
    printed = capsys.readouterr().out
    assert "it succeeded" in printed
    assert f"answered by ft:{MODEL}:llmtune:departments:lt" in printed
    (job,) = together.jobs.values()
    assert job.body["model"] == "Qwen/Qwen3-8B"
    assert job.body["n_epochs"] == 2
    assert job.body["batch_size"] == 8


def test_what_the_vendor_does_otherwise_stands_in_the_events(server: TuningServer, together: Any) -> None:
    with client(server) as api:
        job = api.fine_tuning.jobs.create(
            model=MODEL,
            training_file=upload(api).id,
            metadata={"team": "a"},
            method={"type": "supervised", "supervised": {"hyperparameters": {"learning_rate_multiplier": 2.0}}},
        )
        wait(api, job.id)
        events = list(api.fine_tuning.jobs.list_events(job.id, limit=100))
        lines = {event.data["field"]: event for event in events if event.data.get("support")}
        assert lines["tags"].level == "warn"
        assert lines["tags"].message.startswith("tags (metadata): unsupported; set to {'team': 'a'}")
        assert lines["learning_rate_multiplier"].data["requested"] == 2.0
        assert "epochs" in lines
        assert not [line for line in lines.values() if line.data["support"] == "sent"]
        checkpoints = api.fine_tuning.jobs.checkpoints.list(job.id).data
        assert len(checkpoints) > 1
        assert checkpoints[0].fine_tuned_model_checkpoint.count(":") == 4
        assert checkpoints[1].fine_tuned_model_checkpoint.endswith(f":ckpt-step-{checkpoints[1].step_number}")
        assert api.models.retrieve(checkpoints[1].fine_tuned_model_checkpoint)


@pytest.mark.slow
def test_every_call_runs_at_a_vendor_with_both_clients(server: TuningServer, together: Any) -> None:
    with client(server) as api:
        assert scenario.run(api, MODEL, vendor=together).fine_tuned_model.startswith(f"ft:{MODEL}:llmtune:desk:lt")
    asyncio.run(scenario.run_async(server.url, KEY, MODEL))


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(600)
def test_every_call_runs_on_this_machine_with_both_clients() -> None:
    pytest.importorskip("peft")
    with TuningServer({"default": "local:tiny"}, port=0) as local, client(local, timeout=300) as api:
        scenario.run(api, MODEL)
        asyncio.run(scenario.run_async(local.url, KEY, MODEL))


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(600)
def test_preferences_are_learned_on_this_machine() -> None:
    pytest.importorskip("peft")
    with TuningServer({MODEL: "local:tiny"}, port=0) as local, client(local, timeout=300) as api:
        method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "n_epochs": 1, "batch_size": 4}}}
        file = upload(api, scenario.preferences())
        job = wait(api, api.fine_tuning.jobs.create(model=MODEL, training_file=file.id, method=method).id, 300)
        assert job.status == "succeeded", job.error
        assert job.method.dpo.hyperparameters.beta == 0.3
        run = attach(job.id.removeprefix("ftjob-"))
        assert (run.record.tuning_job.method, run.record.tuning_job.hyperparameters.dpo_beta) == ("dpo", 0.3)
        events = api.fine_tuning.jobs.list_events(job.id, limit=100)
        assert any("train/reward_margin" in event.data for event in events if event.type == "metrics")
