"""Nebius through the real SDK, against a stateful fake that refuses fields it does not know."""

from __future__ import annotations

from pathlib import Path

from llmtune.provider.types import RunState
from llmtune_nebius.fake.service import FakeNebius
from llmtune_nebius.provider import NebiusProvider
from tests.providers.llmtune_nebius.conftest import LLAMA
from tests.providers.llmtune_openai.conftest import ROWS
from tests.providers.llmtune_openai.test_provider import KEY, ask, followed, started


def test_a_whole_run_at_nebius(nebius: NebiusProvider, nebius_vendor: FakeNebius, tmp_path: Path) -> None:
    job = started(nebius, tmp_path, LLAMA, hyperparameters={"lora_rank": 16, "epochs": 2}, tags={"team": "search"})
    (sent,) = [call.data for call in nebius_vendor.requests if call.route == "create_job"]
    assert sent["suffix"] == f"router-{KEY}"
    assert sent["hyperparameters"] == {"lora": True, "lora_r": 16, "n_epochs": 2}
    seen = followed(nebius, job)
    last = seen[-1]
    assert last.state is RunState.SUCCEEDED
    assert last.progress.step == 10
    assert last.resolved["lora_rank"] == 16
    assert {(point.series, point.step) for point in last.points} >= {("train/loss", 5), ("validation/full_loss", 10)}
    found = nebius.find(KEY)
    assert found is not None
    assert found.id == job.id
    question, answer = ROWS[3]
    (said,) = nebius.generator(last.model).generate([ask(question, max_tokens=9)])  # type: ignore[union-attr, arg-type]
    assert said.text == answer
