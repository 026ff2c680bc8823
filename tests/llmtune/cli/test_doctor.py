"""`llmtune doctor`: each backend answers for itself, the store is looked through, and tuned models are dated."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    return path


def test_every_backend_is_told_and_none_stops_the_look() -> None:
    done = run("--json")
    assert done.exit_code == 0, done.output
    backends = {backend["name"]: backend for backend in json.loads(done.stdout)["backends"]}
    assert {"local", "openai", "bedrock", "vertex", "cohere", "mistral"} <= set(backends)
    assert backends["openai"]["credentials"] == "not found"
    assert not backends["openai"]["ready"]
    assert "OPENAI_API_KEY" in backends["openai"]["hint"]
    assert set(backends["openai"]["versions"]) == {"llmtune-sdk", "openai"}
    assert backends["bedrock"]["missing_settings"] == ["region", "bucket", "role_arn"]
    assert "retired" in backends["cohere"]["service"]
    assert not backends["cohere"]["ready"]
    assert all(backend["online"] == "not asked" for backend in backends.values())


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


@pytest.mark.slow
def test_tuned_models_of_account_and_store_are_one_list_with_days(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as vendor:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{vendor.url}/v1")
        job = TuningJob.model_validate({"name": "t", "dataset": str(rows), "model": MODEL})
        run_made_here = start(job, "openai", yes=True)
        run_made_here.wait(timeout=60)
        monkeypatch.setenv("LLMTUNE_TODAY", "2027-01-07")
        models, unseen, _ = doctor.owned_models(["openai", "bedrock"])
        our_models = [model for model in models if model.run == run_made_here.id]
        assert [(model.provider, model.job is not None, model.days_left) for model in our_models] == [
            ("openai", True, 7)
        ]
        assert [backend.provider for backend in unseen] == ["bedrock"]
        assert unseen[0].reason.startswith("not asked: ")
        monkeypatch.setenv("LLMTUNE_TODAY", "2027-02-01")
        assert "stopped answering on 2027-01-14" in run("--lifecycle", "--provider", "openai").stdout
    # the vendor is gone: the store still knows the model
    monkeypatch.setenv("LLMTUNE_TODAY", "2027-01-07")
    models, unseen, _ = doctor.owned_models(["openai"])
    assert [(model.run, model.days_left) for model in models] == [(run_made_here.id, 7)]
    assert [backend.provider for backend in unseen] == ["openai"]
    assert open_store().get(run_made_here.id).state.value == "succeeded"


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, rows: Path, tmp_path: Path) -> Iterator[FakeOpenAI]:
    """An account with one tuned model, made from another machine."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as vendor:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{vendor.url}/v1")
        vendor.add_tuned_model(train=rows.read_bytes(), suffix="router", job_id="ftjob-000001")
        yield vendor


def test_one_odd_record_hurts_no_other_model_and_is_counted(account: FakeOpenAI) -> None:
    account.odd_jobs = [
        {"object": "fine_tuning.job", "status": "succeeded", "fine_tuned_model": "ft:gpt-4o:acme:no-id:x"},
        {
            "id": "ftjob-iso",
            "status": "succeeded",
            "fine_tuned_model": "ft:gpt-4o:acme:iso:x",
            "finished_at": "2026-03-01T12:00:00Z",
        },
        {"id": "ftjob-odd", "status": "succeeded", "model": MODEL, "fine_tuned_model": ["what is this"]},
        None,
    ]
    done = run("--lifecycle", "--json", "--provider", "openai")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert {model["model"] for model in document["models"]} >= {
        f"ft:{MODEL}:fake:router:000001",
        "ft:gpt-4o:acme:no-id:x",
        "ft:gpt-4o:acme:iso:x",
    }
    assert "1 record of the list cannot be read" in document["not_seen"][0]["reason"]


def test_a_vendor_whose_part_breaks_takes_no_other_with_it(
    account: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("the SDK of this vendor has a bug")

    monkeypatch.setattr("llmtune.testing.fake_provider.FakeProvider.inventory", broken)
    models, unseen, answered = doctor.owned_models(["fake", "openai"])
    assert [model.provider for model in models] == ["openai"]
    assert [(backend.provider, backend.reason) for backend in unseen] == [
        ("fake", "its list of models cannot be read (RuntimeError: the SDK of this vendor has a bug)")
    ]
    assert answered == ["openai"]
    (line,) = doctor.backends(["fake"], online=True)
    assert "has a bug" in line.online


def test_checkpoints_stand_under_their_model(account: FakeOpenAI) -> None:
    account.add_tuned_model(train=b"", suffix="router", job_id="ftjob-000002", checkpoints=2)
    models, *_ = doctor.owned_models(["openai"])
    name = f"ft:{MODEL}:fake:router:000002"
    assert [model.model for model in models if model.checkpoint_of == name] == [
        f"ft:{MODEL}:fake:router:000002x:ckpt-step-3",
        f"ft:{MODEL}:fake:router:000002x:ckpt-step-7",
    ]
    lines = run("--lifecycle", "--provider", "openai").stdout.splitlines()
    at = lines.index(name)
    assert lines.index(f"  checkpoint {name}x:ckpt-step-3") > at
    assert sum("llmtune rescue" in line for line in lines) == 2


def test_only_vendors_that_were_used_or_configured_are_shown(
    account: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    models, unseen, _ = doctor.owned_models()
    assert [model.provider for model in models] == ["openai"]
    assert unseen == []
    assert "cohere" not in run("--lifecycle").stdout
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llmtune.toml").write_text('[providers.bedrock]\nregion = "us-east-1"\n')
    assert [backend.provider for backend in doctor.owned_models()[1]] == ["bedrock"]


def test_nobody_could_be_asked_is_said_when_it_is_so() -> None:
    output = run("--lifecycle", "--provider", "bedrock,vertex").stdout
    assert "no backend could be asked" in output
    assert "no tuned model was found" not in output
    everybody = run("--lifecycle").stdout
    assert "no vendor could be asked, only this machine" in everybody


def test_an_unverified_day_says_so_with_its_source(account: FakeOpenAI) -> None:
    output = run("--lifecycle", "--provider", "openai").stdout
    assert "(unverified: secondary sources of 2026-10 and 2026-11)" in output
    account.shutdowns = {MODEL: "2027-03-01"}
    output = run("--lifecycle", "--provider", "openai").stdout
    assert "2027-03-01" in output
    assert "unverified" not in output
    account.shutdowns = {MODEL: "soon"}
    assert "unverified" in run("--lifecycle", "--provider", "openai").stdout
