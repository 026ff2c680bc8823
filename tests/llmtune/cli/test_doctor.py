"""`llmtune doctor`: each backend answers for itself, the store is looked through, and tuned models are dated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune import doctor, start
from llmtune.cli.app import app
from llmtune.errors import UnknownName
from llmtune.job.spec import TuningJob
from llmtune.runs.store.store import open_store
from llmtune.testing.generic_vendor import Fake
from llmtune_openai.fake.service import FakeOpenAI

MODEL = "gpt-4.1-mini-2025-04-14"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *arguments])


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    turns = [
        [{"role": "user", "content": f"question {at}"}, {"role": "assistant", "content": f"answer {at}"}]
        for at in range(20)
    ]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return path


def test_every_backend_is_told_and_none_stops_the_look() -> None:
    done = run("--json")
    assert done.exit_code == 0, done.output
    found = {each["name"]: each for each in json.loads(done.stdout)["backends"]}
    assert {"local", "openai", "bedrock", "vertex", "cohere", "mistral"} <= set(found)
    assert found["openai"]["credentials"] == "not found"
    assert not found["openai"]["ready"]
    assert "OPENAI_API_KEY" in found["openai"]["hint"]
    assert set(found["openai"]["versions"]) == {"llmtune-sdk", "openai"}
    assert found["bedrock"]["missing_settings"] == ["region", "bucket", "role_arn"]
    assert "retired" in found["cohere"]["service"]
    assert not found["cohere"]["ready"]
    assert all(each["online"] == "not asked" for each in found.values())


def test_the_machine_is_told_where_it_is_the_backend() -> None:
    pytest.importorskip("torch")
    (local,) = doctor.backends(["local"])
    assert local.ready
    assert local.machine["device"] in ("cpu", "cuda", "mps")
    assert local.machine["memory"].endswith(" GiB")
    assert "torch" in local.versions


def test_online_asks_and_a_refusal_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOpenAI(api_key="sk-good") as vendor:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{vendor.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-good")
        (good,) = doctor.backends(["openai"], online=True)
        assert (good.ready, good.online) == (True, "answers")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-bad-0123456789")
        done = run("--provider", "openai", "--online")
    assert done.exit_code == 0
    assert "✗ openai" in done.stdout
    assert "key" in done.stdout.split("online")[1]
    assert "sk-bad-0123456789" not in done.output


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="openai"):
        doctor.backends(["opena"])


def test_the_store_is_counted(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = doctor.store_health()
    assert (before.sound, before.runs) == (True, 0)
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        job = TuningJob.model_validate({"name": "t", "dataset": str(rows), "model": "fake-small"})
        start(job, "fake", yes=True)
        after = doctor.store_health()
    assert (after.runs, after.unfinished) == (1, 1)
    assert after.bytes


def test_a_broken_store_is_said_and_ends_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is somebody's shopping list\n" * 200)
    monkeypatch.setenv("LLMTUNE_STORE", f"sqlite:///{broken}")
    done = run("--provider", "fake")
    assert done.exit_code == 1
    assert "✗ run store" in done.stdout
    assert "Traceback" not in done.output
    assert broken.read_bytes().startswith(b"this is somebody's shopping list")


def test_tuned_models_of_account_and_store_are_one_list_with_days(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as vendor:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{vendor.url}/v1")
        job = TuningJob.model_validate({"name": "t", "dataset": str(rows), "model": MODEL})
        made = start(job, "openai", yes=True)
        made.wait(timeout=60)
        monkeypatch.setenv("LLMTUNE_TODAY", "2027-01-07")
        models, unseen = doctor.owned_models(["openai", "bedrock"])
        ours = [each for each in models if each.run == made.id]
        assert [(each.provider, each.job is not None, each.days_left) for each in ours] == [("openai", True, 7)]
        assert [each.provider for each in unseen] == ["bedrock"]
        assert unseen[0].reason.startswith("not asked: ")
        monkeypatch.setenv("LLMTUNE_TODAY", "2027-02-01")
        assert "stopped answering on 2027-01-14" in run("--lifecycle", "--provider", "openai").stdout
    # the vendor is gone: the store still knows the model
    monkeypatch.setenv("LLMTUNE_TODAY", "2027-01-07")
    models, unseen = doctor.owned_models(["openai"])
    assert [(each.run, each.days_left) for each in models] == [(made.id, 7)]
    assert [each.provider for each in unseen] == ["openai"]
    assert open_store().get(made.id).state.value == "succeeded"
