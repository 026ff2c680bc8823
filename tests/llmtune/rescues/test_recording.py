"""The old model is asked: whether it answers is known before money is spent, and no deployment of it stays behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmtune
from llmtune.errors import LlmtuneError, OverBudget
from llmtune.metrics.points import NotReported
from llmtune.rescues import recording
from llmtune.rescues.results import GoldenSet
from llmtune.rescues.source import LONGEST_NAME, short_name
from llmtune.runs import failpoints
from llmtune_azure.fake.service import FakeAzure
from llmtune_openai.fake.service import FakeOpenAI
from tests.llmtune.rescues.helpers import questions, tickets


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAzure]:
    pytest.importorskip("azure.mgmt.cognitiveservices")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "az-test")
    monkeypatch.setenv("ARM_TOKEN", "az-test")
    with FakeAzure(api_key="az-test") as fake:
        fake.looks_until_standing = fake.looks_until_answering = 0
        settings = {
            "endpoint": fake.url,
            "management_url": fake.url,
            "management_token_env": "ARM_TOKEN",
            "subscription_id": "sub",
            "resource_group": "tuning",
            "account_name": "mine",
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"LLMTUNE_AZURE_{name.upper()}", value)
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


def old_model(vendor: FakeOpenAI) -> str:
    return vendor.add_tuned_model(
        train=jsonl(tickets(6)), validation=jsonl(tickets(3, first=50)), suffix="router", job_id="ftjob-1"
    )


def snapshot(model: str, out: Path, **options: Any) -> Any:
    return llmtune.rescue(model, out=out, source_provider="azure", snapshot_only=True, **options)


def test_where_a_deployment_is_needed_it_says_so_and_spends_nothing(azure: FakeAzure, tmp_path: Path) -> None:
    def confirm(*_: object) -> None:
        raise AssertionError("a model that cannot be asked costs nothing that could be agreed to")

    found = snapshot(old_model(azure), tmp_path / "out", yes=False, confirm=confirm)
    assert isinstance(found.golden, NotReported)
    assert "only while it is deployed" in found.golden.reason
    assert "--deploy deploys it (1.70 USD an hour) while it is asked" in found.golden.reason
    assert not azure.deployments
    assert (tmp_path / "out/job.yaml").exists()


def test_a_deployment_stands_while_the_model_is_asked(azure: FakeAzure, tmp_path: Path) -> None:
    model = old_model(azure)
    first = snapshot(model, tmp_path / "out")
    assert isinstance(first.golden, NotReported)
    with pytest.raises(OverBudget, match=r"a deployment while it is asked \(1.70 USD an hour\)"):
        snapshot(model, tmp_path / "out", deploy=True, yes=False)
    assert not azure.deployments
    found = snapshot(model, tmp_path / "out", deploy=True)
    assert isinstance(found.golden, GoldenSet)
    assert found.golden.answered == 3
    assert len(azure.deployments) == 1
    assert not azure.standing
    assert found.deployment is None
    again = snapshot(model, tmp_path / "out", deploy=True)
    assert again.golden == found.golden
    assert len(azure.deployments) == 1


@pytest.mark.parametrize("deploy", [False, True])
def test_a_deployment_that_a_kill_left_standing_is_found_and_removed(
    azure: FakeAzure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deploy: bool
) -> None:
    class Killed(BaseException):
        pass

    def die(name: str) -> None:
        if name == "rescue-deployed":
            raise Killed

    model = old_model(azure)
    with monkeypatch.context() as dying:  # a process that is killed cleans nothing up
        dying.setattr(failpoints, "failpoint_hook", die)
        dying.setattr(recording, "remove_leftover", lambda *_: None)
        with pytest.raises(Killed):
            snapshot(model, tmp_path / "out", deploy=True)
    assert len(azure.standing) == 1
    found = snapshot(model, tmp_path / "out", deploy=deploy)
    assert isinstance(found.golden, GoldenSet if deploy else NotReported)
    assert len(azure.deployments) == 1
    assert not azure.standing


def test_which_model_is_trained_is_asked_before_answers_are_paid_for(vendor: FakeOpenAI, tmp_path: Path) -> None:
    model = old_model(vendor)
    with pytest.raises(LlmtuneError, match="which model shall local train"):
        llmtune.rescue(model, "local", out=tmp_path / "out")
    assert not questions(vendor)


def test_an_interruption_between_two_answers_loses_none(
    vendor: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = vendor.add_tuned_model(train=jsonl(tickets(6)), validation=jsonl(tickets(12, first=50)))
    passed: list[str] = []

    def interrupt(name: str) -> None:
        passed.append(name)
        if passed.count("rescue-answered") in (3, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(failpoints, "failpoint_hook", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llmtune.rescue(model, out=tmp_path / "out", snapshot_only=True)
    monkeypatch.setattr(failpoints, "failpoint_hook", None)
    llmtune.rescue(model, out=tmp_path / "out", snapshot_only=True)
    assert len(questions(vendor)) == 12
    assert set(questions(vendor).values()) == {1}


def test_what_the_vendor_chose_by_itself_is_left_to_the_new_backend(vendor: FakeOpenAI, tmp_path: Path) -> None:
    model = old_model(vendor)
    vendor.told = {"hyperparameters": {"n_epochs": "auto", "batch_size": 1, "learning_rate_multiplier": 2.0}}
    found = llmtune.rescue(model, "local", model="tiny", out=tmp_path / "out", snapshot_only=True)
    job = llmtune.TuningJob.load(tmp_path / "out/job.yaml")
    assert job.hyperparameters.epochs is None
    assert job.hyperparameters.batch_size == 1
    assert any("was chosen by openai itself" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ft:gpt-4.1-mini-2025-04-14:acme:router:abc123", "router-abc123"),
        ("ft:gpt-4.1-mini-2025-04-14:acme::abc123", "acme-abc123"),
        ("arn:aws:bedrock:us-east-1:1:custom-model/amazon.nova-micro-v1:0:128k/q1w2e3", "q1w2e3"),
        ("projects/my-project/locations/us-central1/endpoints/123", "123"),
        ("tuned-long-ago", "tuned-long-ago"),
    ],
)
def test_generated_names_are_short_and_end_as_the_id_does(text: str, name: str) -> None:
    assert short_name(text) == name
    long = short_name(f"{text}-{'x' * 200}")
    assert len(long) <= LONGEST_NAME
    assert long != short_name(f"{text}-{'x' * 201}")
