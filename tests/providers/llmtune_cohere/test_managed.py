"""The public service is retired: said with date, source and the way on, and without asking for a key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from llmtune.errors import InvalidData, InvalidSettings, ProviderClosed
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import plan
from llmtune.provider.generation import Unavailable
from llmtune.provider.registry import open_providers
from llmtune.provider.types import EncodedFile, JobRef, ModelRef, Request, RunKey, Target
from llmtune_cohere import CohereProvider, responses
from llmtune_cohere.settings import CohereSettings

TODAY = date(2026, 11, 21)
KEY = RunKey("ltabcde12345")
REQUEST = Request(operation="POST /v1/finetuning/finetuned-models", body={"name": "x", "settings": {}})


def job(model: str = "command-r-08-2024") -> TuningJob:
    return TuningJob(name="moving-on", dataset="rows.jsonl", model=model)  # type: ignore[arg-type]


@pytest.mark.parametrize("base_url", [None, "https://api.cohere.com", "https://api.cohere.ai/v1"])
def test_the_plan_says_it_plainly_and_asks_for_no_key(base_url: str | None) -> None:
    provider = CohereProvider(settings=CohereSettings(base_url=base_url))
    receipt = plan(job(), provider, dataset=InvalidData("not read"), today=TODAY)
    assert not receipt.lifecycle.open
    assert "retired 2025-09-15" in receipt.lifecycle.sentence
    assert "stopped answering on 2025-09-15" in receipt.lifecycle.sentence
    assert "Cohere changelog 2025-09-16" in receipt.lifecycle.source
    command = "llmtune tune JOB --provider local --model CohereForAI/c4ai-command-r-08-2024"
    assert command in receipt.lifecycle.note
    assert receipt.ready.credentials == "not needed"
    assert receipt.ready.extra == "not needed"
    assert receipt.request is not None  # what would have been sent can still be seen
    assert receipt.request.body["settings"]["base_model"] == {
        "base_type": "BASE_TYPE_CHAT",
        "name": "command-r-08-2024",
    }


def test_a_model_without_published_weights_is_led_to_one_that_has_them() -> None:
    receipt = plan(job("command-light"), CohereProvider(), dataset=InvalidData("not read"), today=TODAY)
    assert "--model CohereForAI/aya-expanse-8b" in receipt.lifecycle.note


def test_before_the_date_it_was_open() -> None:
    receipt = plan(job(), CohereProvider(), dataset=InvalidData("not read"), today=date(2025, 9, 1))
    assert "retired" in receipt.lifecycle.status


def test_every_call_to_it_is_refused_with_the_way_on(rows: Callable[..., EncodedFile]) -> None:
    provider = CohereProvider()
    model = ModelRef(id="abc-ft")
    calls = [
        lambda: provider.preflight(REQUEST),
        lambda: provider.find_upload("0" * 64),
        lambda: provider.upload(rows()),
        lambda: provider.submit(REQUEST, KEY),
        lambda: provider.find(KEY),
        lambda: provider.poll(JobRef(id="abc"), None),
        lambda: provider.cancel(JobRef(id="abc")),
        lambda: list(provider.inventory()),
        lambda: provider.delete(model),
        lambda: provider.download("ds", Path()),
    ]
    for call in calls:
        with pytest.raises(ProviderClosed) as caught:
            call()
        assert caught.value.since == date(2025, 9, 15)
        assert caught.value.exit_code == 3
        assert "2025-09-15" in caught.value.message
        assert "changelog" in caught.value.message
        assert "--provider local" in (caught.value.hint or "")
        assert "base_url" in (caught.value.hint or "")
    answer = provider.generator(model)
    assert isinstance(answer, Unavailable)
    assert "2025-09-15" in answer.reason


def test_it_is_named_as_an_alternative_only_where_somebody_runs_one() -> None:
    def closed(provider: CohereProvider) -> bool:
        target = Target(provider="cohere", kind="cohere", model="")
        return provider.capabilities(target).lifecycle.closed_on(TODAY)

    assert closed(CohereProvider())
    assert not closed(CohereProvider(settings=CohereSettings(base_url="https://cohere.internal.example")))
    assert "cohere" not in open_providers(TODAY)


def test_an_endpoint_of_ones_own_is_open_and_says_whose_it_is() -> None:
    provider = CohereProvider(settings=CohereSettings(base_url="https://cohere.internal.example"))
    receipt = plan(job(), provider, dataset=InvalidData("not read"), today=TODAY)
    assert receipt.lifecycle.open
    assert "cohere.internal.example" in receipt.lifecycle.note
    assert receipt.ready.credentials == "not found"
    assert "CO_API_KEY" in (receipt.ready.hint or "")


def test_a_trainer_of_ones_own_costs_nothing_and_wants_a_shared_folder() -> None:
    provider = CohereProvider(settings=CohereSettings(service_url="http://localhost:5000"))
    receipt = plan(job("aya-expanse-8b"), provider, dataset=InvalidData("not read"), today=TODAY)
    assert receipt.lifecycle.open
    assert receipt.cost.total == 0
    assert receipt.ready.missing_settings == ("data_root",)
    with pytest.raises(InvalidSettings, match="LLMTUNE_COHERE_DATA_ROOT"):
        provider.find_upload("0" * 64)
    with pytest.raises(InvalidSettings, match="exclude each other"):
        CohereProvider(settings=CohereSettings(service_url="http://a", base_url="http://b"))


@pytest.mark.parametrize("model", ["command-r-08-2024", {"local": "tiny"}])
def test_starting_a_job_there_is_refused_with_the_command_that_continues(tmp_path: Path, model: object) -> None:
    from llmtune.runs.api import start

    turn = '{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a"}]}'
    (tmp_path / "rows.jsonl").write_text("\n".join(turn % at for at in range(20)))
    job = TuningJob(name="moving-on", dataset=str(tmp_path / "rows.jsonl"), model=model)  # type: ignore[arg-type]
    with pytest.raises(ProviderClosed) as caught:
        start(job, "cohere")
    message = str(caught.value)
    assert "retired 2025-09-15" in message
    assert "Cohere changelog" in message
    assert "llmtune tune JOB --provider local" in message
    assert caught.value.since == date(2025, 9, 15)
    assert "local" in caught.value.alternatives


def test_a_reranker_is_not_taken_for_a_chat_model() -> None:

    job = responses.remote_job(
        {
            "id": "r-1",
            "name": "reranker",
            "status": "STATUS_READY",
            "settings": {"base_model": {"base_type": "BASE_TYPE_RERANK", "name": "english"}, "dataset_id": "d-1"},
        }
    )
    assert job.method == "rerank"
