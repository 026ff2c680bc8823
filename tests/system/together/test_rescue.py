"""A job rescued from a service that is closing: fetched there with its rows, run here with its hyperparameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.planning.plan import plan
from llmtune.provider.types import RunState
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune_openai.fake.service import FakeOpenAI
from llmtune_openai.provider import OpenAIProvider
from llmtune_openai.settings import OpenAISettings
from llmtune_together import TogetherProvider
from llmtune_together.fake.service import FakeTogether
from llmtune_together.settings import TogetherSettings


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.jsonl"
    teams = ("billing", "network")
    made = [
        {
            "messages": [
                {"role": "system", "content": "Name the team."},
                {"role": "user", "content": f"ticket {at}: the {'router' if at % 2 else 'invoice'} is wrong"},
                {"role": "assistant", "content": teams[at % 2]},
            ]
        }
        for at in range(100)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def quick(**given: Any) -> PollInterval:
    return PollInterval(first=0.01, most=0.05, **given)


@pytest.mark.slow
def test_from_openai_to_together(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "old-key")
    monkeypatch.setenv("TOGETHER_API_KEY", "new-key")
    with FakeOpenAI(api_key="old-key") as there, FakeTogether(api_key="new-key") as here:
        old = OpenAIProvider("openai", OpenAISettings(base_url=f"{there.url}/v1"))
        new = TogetherProvider(settings=TogetherSettings(base_url=here.url, poll_interval=0.01, timeout=5))
        before = TuningJob(
            name="ticket-router",
            dataset=str(rows),  # type: ignore[arg-type]
            model="gpt-4.1-mini-2025-04-14",
            hyperparameters=Hyperparameters(epochs=2, batch_size=4, learning_rate_multiplier=2.0),
            seed=7,
        )
        assert start(before, old, yes=True).wait(timeout=60, pace=quick()) is not None

        # What the account still has: the model, its job, its rows.
        (owned,) = [model for model in old.inventory() if model.job]
        job = old.fetch(owned)
        folder = tmp_path / "rescued"
        folder.mkdir()
        train = old.download(job.files["train"], folder / "train.jsonl")
        validation = old.download(job.files["validation"], folder / "validation.jsonl")
        assert len(train.read_text().splitlines()) == 80

        moved = TuningJob(
            name="ticket-router",
            dataset={"train": str(train), "validation": str(validation)},  # type: ignore[arg-type]
            model={"together": "Qwen/Qwen3-8B"},
            hyperparameters=Hyperparameters.model_validate(job.hyperparameters),
            seed=job.seed,
        )
        receipt = plan(moved, new)
        assert receipt.refusals == ()
        assert receipt["epochs"].effective == 2
        assert receipt["batch_size"].effective == 4
        assert receipt["learning_rate_multiplier"].support == "converted"
        assert receipt["seed"].effective == 7

        run = start(moved, new, yes=True)
        report = run.wait(timeout=60, pace=quick())
        assert report is not None
        assert run.state is RunState.SUCCEEDED
        (made,) = here.jobs.values()
        assert made.body["n_epochs"] == 2
        assert made.body["batch_size"] == 4
        assert made.body["random_seed"] == 7
        assert made.body["learning_rate"] == pytest.approx(2e-5)
        sent = here.files[made.body["training_file"]].content.splitlines()
        fetched = [json.loads(line) for line in train.read_text().splitlines()]
        assert len(sent) == 72  # a tenth of the training rows is held out, to judge the new model by
        assert all(json.loads(line) in fetched for line in sent)
        assert there.complaints == here.complaints == []
