"""An old model at a fake vendor, tuned by somebody whose store this machine does not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmtune.job.spec import DatasetSpec, Hyperparameters, TuningJob
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune_openai.fake.service import FakeOpenAI
from llmtune_openai.provider import OpenAIProvider
from llmtune_openai.settings import OpenAISettings
from tests.llmtune.rescues.helpers import save, tickets

MODEL = "gpt-4.1-mini-2025-04-14"


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as fake:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{fake.url}/v1")
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


@pytest.fixture
def old_model(vendor: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the id of a model that was tuned from another machine."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("LLMTUNE_HOME", str(tmp_path / "elsewhere"))
        job = TuningJob(
            name="ticket-router",
            dataset=DatasetSpec(
                train=str(save(tmp_path / "sent-train.jsonl", tickets(60))),
                validation=str(save(tmp_path / "sent-validation.jsonl", tickets(24, first=60))),
                split=(1.0, 0.0, 0.0),
            ),
            model=MODEL,
            hyperparameters=Hyperparameters(epochs=2, batch_size=4, learning_rate_multiplier=2.0),
            seed=7,
        )
        provider = OpenAIProvider("openai", OpenAISettings(base_url=f"{vendor.url}/v1"))
        run = start(job, provider, yes=True)
        run.wait(timeout=60, pace=PollInterval(first=0.01, most=0.05))
        model = run.model_ref
    assert model is not None
    vendor.requests.clear()
    return model.id
