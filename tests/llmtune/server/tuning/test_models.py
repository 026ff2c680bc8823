"""Which model a name stands for, and what may be done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidJob, InvalidSettings, RunNotFound, UnknownName
from llmtune.runs.api import attach
from llmtune.runs.planned import StartOptions
from llmtune.server.tuning import chat
from llmtune.server.tuning.models import ModelMap, Target, normalize_suffix, tuned_name
from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning.conftest import BASE, client, upload, wait

openai = pytest.importorskip("openai")
HI = [{"role": "user", "content": "case 1"}]


def test_a_map_is_read_from_a_file_and_its_mistakes_are_found_at_once(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text('"gpt-4.1-mini-2025-04-14": local:/models/a:b\ndefault: fake:m-1\n')
    models = ModelMap.load(path)
    assert models.names == ["gpt-4.1-mini-2025-04-14"]
    assert models.get("gpt-4.1-mini-2025-04-14") == Target("local", "/models/a:b")
    assert models.get("anything") == Target("fake", "m-1")
    assert models.get("ft:of:nobody::x") is None
    assert models.get("default") is None
    for text, error, message in (
        ("default: tiny\n", InvalidSettings, "'tiny' is neither PROVIDER:MODEL nor run:ID"),
        ("default: nowhere:m-1\n", UnknownName, "unknown provider 'nowhere'"),
        ("default: run:nobody\n", RunNotFound, "there is no run 'nobody'"),
        ("default: [fake]\n", InvalidSettings, "must stand for a text"),
        ("{}\n", InvalidSettings, "is empty"),
        ("default: a: b\n", InvalidJob, "broken YAML"),
    ):
        path.write_text(text)
        with pytest.raises(error, match=message):
            ModelMap.load(path)


@pytest.mark.parametrize(
    ("model", "suffix", "expected"),
    [
        ("gpt-4o", None, "ft:gpt-4o:acme::ltabcdefghij"),
        ("gpt-4o", "Mein Büro: v2", "ft:gpt-4o:acme:mein-b-ro-v2:ltabcdefghij"),
        ("ft:gpt-4o:acme:one:ltaaaaaaaaaa", "two", "ft:gpt-4o:acme:two:ltabcdefghij"),
        ("qwen:7b", "x", "ft:qwen-7b:acme:x:ltabcdefghij"),
    ],
)
def test_a_tuned_models_name_has_five_parts(model: str, suffix: str | None, expected: str) -> None:
    name = tuned_name(model, "acme", suffix, "abcdefghij")
    assert name == expected
    assert len(name.split(":")) == 5
    assert normalize_suffix("::") == ""


def test_base_and_tuned_models_are_listed_asked_and_deleted(api: Any, vendor: Fake) -> None:
    assert [model.id for model in api.models.list()] == [BASE]
    assert api.chat.completions.create(model=BASE, messages=HI).choices[0].message.content
    job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id, suffix="x").id)
    name = job.fine_tuned_model
    assert [model.id for model in api.models.list()] == [BASE, name]
    assert api.models.retrieve(name).owned_by == "llmtune"
    stream = api.chat.completions.create(
        model=name, messages=HI, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "n"
    assert chunks[-1].usage.total_tokens
    with pytest.raises(openai.PermissionDeniedError, match="is not a tuned model of this endpoint"):
        api.models.delete(BASE)
    model_id = attach(job.id.removeprefix("ftjob-")).model_ref.id
    assert model_id in vendor.models
    assert api.models.delete(name).deleted
    assert model_id not in vendor.models
    for call in (lambda: api.models.retrieve(name), lambda: api.chat.completions.create(model=name, messages=HI)):
        with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
            call()
        assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="is not available for fine-tuning"):
        api.fine_tuning.jobs.create(model=name, training_file=upload(api).id)
    assert api.fine_tuning.jobs.retrieve(job.id).fine_tuned_model == name


def test_an_old_name_can_stand_for_a_run(server: TuningServer, api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id).id)
    server.close()
    old = f"ft:{BASE}:acme:router:AbC123xy"
    run_id = job.id.removeprefix("ftjob-")
    with (
        TuningServer({old: f"run:{run_id}"}, port=0, spending=StartOptions(yes=True)) as second,
        client(second) as again,
    ):
        answer = again.chat.completions.create(model=old, messages=HI, temperature=0)
        assert (answer.model, answer.choices[0].message.content) == (old, "n")
        further = wait(again, again.fine_tuning.jobs.create(model=old, training_file=upload(again).id).id)
        assert further.fine_tuned_model.startswith(f"ft:{BASE}:llmtune::lt")
        assert attach(further.id.removeprefix("ftjob-")).record.model == attach(run_id).model_ref.id


def test_models_are_put_away_when_others_are_wanted(
    server: TuningServer, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "MAX_OPEN", 1)
    job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id).id)
    assert api.chat.completions.create(model=BASE, messages=HI).choices
    with pytest.raises(openai.InternalServerError, match="1 models are in use already") as caught:
        api.chat.completions.create(model=job.fine_tuned_model, messages=HI)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "10"
    monkeypatch.setattr(chat, "MIN_OPEN_SECONDS", 0.0)
    for name in (job.fine_tuned_model, BASE, job.fine_tuned_model):
        assert api.chat.completions.create(model=name, messages=HI).choices


def test_a_model_that_needs_a_deployment_says_so(vendor: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_FAKE_DEPLOYMENT", "required")
    with TuningServer({BASE: "fake:m-1"}, port=0, spending=StartOptions(yes=True)) as server, client(server) as api:
        job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id).id)
        with pytest.raises(openai.InternalServerError, match="answers only from a deployment that costs money"):
            api.chat.completions.create(model=job.fine_tuned_model, messages=HI)
    assert not vendor.deployments
