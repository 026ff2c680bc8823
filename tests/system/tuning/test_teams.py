"""Several members at one endpoint: none sees or touches what another has, and who started what is on record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmtune.runs.planned import StartOptions
from llmtune.server.tuning.keys import add_key
from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning import scenario
from tests.llmtune.server.tuning.conftest import BASE, KEY, client, rows, upload, wait

openai = pytest.importorskip("openai")
pytest.importorskip("httpx")
HI = [{"role": "user", "content": "case 1"}]


@dataclass
class Team:
    """An endpoint and the keys of its members, by name."""

    server: TuningServer
    keys: dict[str, str]

    def client(self, name: str, **options: Any) -> Any:
        return client(self.server, self.keys[name], **options)


@pytest.fixture
def team(vendor: Fake, tmp_path: Path) -> Iterator[Team]:
    path = tmp_path / "keys.yaml"
    keys = {name: add_key(path, name) for name in ("ana", "ben")}
    keys["ana-app"] = add_key(path, "ana-app", owner="ana", rights=["ask"])
    keys["ana-board"] = add_key(path, "ana-board", owner="ana", rights=["read"])
    keys["tuner"] = add_key(path, "tuner", rights=["tune"])
    with TuningServer({BASE: "fake:m-1"}, port=0, keys=path, spending=StartOptions(yes=True)) as server:
        yield Team(server, keys)


def refused(call: Callable[[], Any], status: int) -> Any:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert caught.value.status_code == status, caught.value
    return caught.value


def test_a_member_sees_and_touches_its_own_only(team: Team) -> None:
    with team.client("ana") as ana, team.client("ben") as ben:
        file = upload(ana)
        pending = ana.uploads.create(bytes=5, filename="a.jsonl", purpose="fine-tune", mime_type="text/jsonl")
        part = ana.uploads.parts.create(pending.id, data=b"12345")
        job = wait(ana, ana.fine_tuning.jobs.create(model=BASE, training_file=file.id, suffix="x").id)
        model, jobs = job.fine_tuned_model, ben.fine_tuning.jobs
        own = upload(ben)
        for call in (
            lambda: ben.files.retrieve(file.id),
            lambda: ben.files.content(file.id),
            lambda: ben.files.delete(file.id),
            lambda: ben.files.content(job.result_files[0]),
            lambda: ben.files.list(after=file.id),
            lambda: ben.uploads.parts.create(pending.id, data=b"1"),
            lambda: ben.uploads.complete(pending.id, part_ids=[part.id]),
            lambda: ben.uploads.cancel(pending.id),
            lambda: jobs.retrieve(job.id),
            lambda: jobs.cancel(job.id),
            lambda: jobs.pause(job.id),
            lambda: jobs.resume(job.id),
            lambda: jobs.list_events(job.id),
            lambda: jobs.checkpoints.list(job.id),
            lambda: jobs.list(after=job.id),
            lambda: ben.models.retrieve(model),
            lambda: ben.models.delete(model),
            lambda: ben.chat.completions.create(model=model, messages=HI),
        ):
            assert job.fine_tuned_model not in refused(call, 404).message.partition("there are")[2]
        refused(lambda: jobs.create(model=BASE, training_file=file.id), 400)
        refused(lambda: jobs.create(model=BASE, training_file=own.id, validation_file=file.id), 400)
        refused(lambda: jobs.create(model=model, training_file=own.id), 400)
        assert [entry.id for entry in ben.files.list()] == [own.id]
        assert list(jobs.list()) == []
        assert [entry.id for entry in ben.models.list()] == [BASE]
        assert [entry.id for entry in ana.models.list()] == [BASE, model]
        assert [entry.id for entry in ana.files.list(purpose="fine-tune")] == [file.id]


def test_a_retry_or_an_idempotency_key_finds_ones_own_job_only(team: Team) -> None:
    with team.client("ana") as ana, team.client("ben") as ben:
        ids = []
        for api in (ana, ben):
            file = api.files.create(
                file=("a.jsonl", rows()), purpose="fine-tune", extra_headers={"idempotency-key": "same"}
            )
            headers = {"idempotency-key": "same"}
            jobs = [
                api.fine_tuning.jobs.create(model=BASE, training_file=file.id, extra_headers=headers) for _ in range(2)
            ]
            ids.append((file.id, *{job.id for job in jobs}))
        assert [len(own) for own in ids] == [2, 2]
        assert not set(ids[0]) & set(ids[1])
        retried = ben.files.create(
            file=("a.jsonl", rows()), purpose="fine-tune", extra_headers={"x-stainless-retry-count": "3"}
        )
        assert retried.id == ids[1][0]


def test_a_deleted_file_takes_nothing_from_another_member_with_the_same_content(team: Team) -> None:
    with team.client("ana") as ana, team.client("ben") as ben:
        first, second = upload(ana), upload(ben)
        ana.files.delete(first.id)
        assert ben.files.content(second.id).read() == rows()


def test_a_key_may_do_what_its_rights_say(team: Team) -> None:
    with team.client("ana") as ana:
        file = upload(ana)
        job = wait(ana, ana.fine_tuning.jobs.create(model=BASE, training_file=file.id).id)
    tuning = (
        lambda api: upload(api),
        lambda api: api.uploads.create(bytes=5, filename="a", purpose="fine-tune", mime_type="a"),
        lambda api: api.fine_tuning.jobs.create(model=BASE, training_file=file.id),
        lambda api: api.fine_tuning.jobs.cancel(job.id),
        lambda api: api.fine_tuning.jobs.pause(job.id),
        lambda api: api.models.delete(job.fine_tuned_model),
        lambda api: api.files.delete(file.id),
    )
    reading = (
        lambda api: api.files.list(),
        lambda api: api.files.content(file.id),
        lambda api: api.fine_tuning.jobs.list(),
        lambda api: api.fine_tuning.jobs.retrieve(job.id),
        lambda api: api.fine_tuning.jobs.list_events(job.id),
    )
    asking = (lambda api: api.chat.completions.create(model=job.fine_tuned_model, messages=HI),)
    for name, allowed, denied in (
        ("ana-app", asking, (*tuning, *reading)),
        ("ana-board", reading, (*tuning, *asking)),
        ("tuner", (), (*reading, *asking)),
    ):
        with team.client(name) as api:
            for call in allowed:
                assert call(api)
            for call in denied:
                error = refused(lambda call=call, api=api: call(api), 403)
                assert (error.code, error.type) == ("insufficient_permissions", "permission_error")
                assert f"the key '{name}' may not" in error.message
    with team.client("ana-app") as app:
        assert job.fine_tuned_model in [model.id for model in app.models.list()]
    with team.client("tuner") as tuner:
        own = upload(tuner)
        assert tuner.fine_tuning.jobs.create(model=BASE, training_file=own.id).id


def test_a_strange_key_is_refused(team: Team) -> None:
    for key in (KEY, "none", team.keys["ana"][:-1], team.keys["ana"].upper()):
        with client(team.server, key) as api, pytest.raises(openai.AuthenticationError) as caught:
            api.models.list()
        assert caught.value.code == "invalid_api_key"


def test_a_key_in_a_job_is_refused_before_it_is_written_down(team: Team, own_home: Path) -> None:
    with team.client("ana") as ana:
        file = upload(ana)
        for secret in (team.keys["ana"], team.keys["ben"]):
            error = refused(
                lambda secret=secret: ana.fine_tuning.jobs.create(
                    model=BASE, training_file=file.id, metadata={"note": f"with {secret}"}
                ),
                400,
            )
            assert secret not in error.message
    for path in own_home.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(key.encode() in content for key in team.keys.values()), path


def test_who_started_what_is_on_record(team: Team, own_home: Path, vendor: Fake) -> None:
    with team.client("ana") as ana, team.client("ana-app") as app, team.client("ben") as ben:
        file, strange = upload(ana), upload(ben, name="a\x1b[31m.jsonl")
        job = wait(ana, ana.fine_tuning.jobs.create(model=BASE, training_file=file.id).id)
        with scenario.held(vendor):
            held = ben.fine_tuning.jobs.create(model=BASE, training_file=strange.id)
            ben.fine_tuning.jobs.cancel(held.id)
            wait(ben, held.id)
        app.chat.completions.create(model=job.fine_tuned_model, messages=HI)
        app.chat.completions.create(model=job.fine_tuned_model, messages=HI)
        ana.models.delete(job.fine_tuned_model)
        ana.files.delete(file.id)
    path = own_home / "tuning" / "audit.jsonl"
    assert path.stat().st_mode & 0o077 == 0
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["key"], line["owner"], line["action"], line["id"]) for line in lines] == [
        ("ana", "ana", "file.create", file.id),
        ("ben", "ben", "file.create", strange.id),
        ("ana", "ana", "job.create", job.id),
        ("ben", "ben", "job.create", held.id),
        ("ben", "ben", "job.cancel", held.id),
        ("ana-app", "ana", "model.open", job.fine_tuned_model),
        ("ana", "ana", "model.delete", job.fine_tuned_model),
        ("ana", "ana", "file.delete", file.id),
    ]
    assert lines[2]["target"] == "fake:m-1"
    assert lines[0]["time"].endswith("+00:00")
    assert "\x1b" not in text
    assert not any(key in text for key in team.keys.values())


def test_members_work_with_the_async_client_at_the_same_time(team: Team) -> None:
    async def both() -> list[Any]:
        tasks = [scenario.run_async(team.server.url, team.keys[name], BASE) for name in ("ana", "ben")]
        return await asyncio.gather(*tasks)

    first, second = asyncio.run(both())
    assert first.id != second.id
