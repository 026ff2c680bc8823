"""Every provider meets every odd value that JSON, or what passes for it, can hold: none of them ends a run for good."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmtune.data.example import Message
from llmtune.errors import LlmtuneError, TransientError, VendorError
from llmtune.metrics.points import MetricPoint
from llmtune.provider import intake
from llmtune.provider.chat import ChatGenerator
from llmtune.provider.generation import GenerationRequest, Unavailable
from llmtune.provider.types import Snapshot
from llmtune.runs.ids import new_run_id, run_key
from tests.system.gates.worlds import WORLDS, World, leaves, opened, replaced

#: SDKs warn of what their models do not expect.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ODD: dict[str, str] = {
    "null": "null",
    "true": "true",
    "false": "false",
    "zero": "0",
    "minus one": "-1",
    "a fraction": "1.5",
    "minus zero": "-0.0",
    "a tiny number": "1e-400",
    "a huge float": "1e308",
    "a negative huge float": "-1e308",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e400": "1e400",
    "-1e400": "-1e400",
    "the largest 64-bit integer": str(2**63 - 1),
    "a 65-bit integer": str(2**64),
    "below 64 bits": str(-(2**63) - 1),
    "30 digits": "1" + "0" * 30,
    "400 digits": "1" + "0" * 400,
    "5,000 digits": "1" * 5000,
    "an empty text": '""',
    "a blank": '" "',
    "half a surrogate pair": '"a\\ud800b"',
    "the other half": '"\\udfff"',
    "a whole pair": '"\\ud83d\\ude00"',
    "NUL": '"a\\u0000b"',
    "escape": '"\\u001b[2J\\u001b]0;x\\u0007"',
    "C1": '"\\u009b31m"',
    "right to left": '"\\u202eabc"',
    "NaN as text": '"NaN"',
    "infinity as text": '"inf"',
    "1e400 as text": '"1e400"',
    "5,000 digits as text": '"' + "1" * 5000 + '"',
    "no number": '"not a number"',
    "a path": '"../../../etc/passwd"',
    "markup": '"<script>alert(1)</script>[red]"',
    "no date": '"2026-13-45T99:99:99Z"',
    "the last day": '"9999-12-31T23:59:59Z"',
    "the first day": '"0001-01-01T00:00:00Z"',
    "a date before time": '"-0001-01-01T00:00:00Z"',
    "100,000 characters": '"' + "x" * 100_000 + '"',
    "a list": "[]",
    "a list of null": "[null]",
    "a list of lists": "[[[[1]]]]",
    "an object": "{}",
    "an object of null": '{"a": null}',
    "an object of an empty name": '{"": {"": []}}',
    "an object with a list": '{"data": [1, "a", {}], "code": 7}',
    "90 levels": "[" * 90 + "]" * 90,
    "500 levels": "[" * 500 + "]" * 500,
    "20,000 levels": "[" * 20_000 + "]" * 20_000,
    "a thousand numbers": str(list(range(1000))),
}


@pytest.fixture(scope="module", params=list(WORLDS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with opened(request.param, tmp_path_factory.mktemp("world")) as made:
        yield made


def test_the_list_is_long_enough() -> None:
    assert len(ODD) >= 50


def odd_at(raw: str, share: int, rest: int) -> Callable[[Any], bytes]:
    """A change that puts the odd value at every `share`-th leaf, from the `rest`-th on."""
    return lambda data: replaced(data, leaves(data)[rest::share] or [()], raw)


def in_turn(raw: str) -> Iterator[Callable[[Any], bytes]]:
    """Changes: the answer as a whole; all leaves at once; each fifth of them."""
    yield lambda data: raw.encode()
    yield from (odd_at(raw, 5, rest) for rest in range(5))
    yield odd_at(raw, 1, 0)


def _other_share(name: str) -> Callable[[Any], bytes]:
    return odd_at(ODD[name], 3, ODD_ORDER[ODD[name]] % 3)


ODD_ORDER = {raw: place for place, raw in enumerate(ODD.values())}


def check_sound(snapshot: Snapshot) -> None:
    """What the store, the database and every `--json` must be able to take."""
    text = snapshot.model_dump_json()
    assert "\\u0000" not in text.replace("\\\\u0000", "")
    orjson.dumps(snapshot.model_dump(mode="json"))  # refuses half characters and more than 64 bits
    numbers = [*snapshot.progress.model_dump().values(), *(event.time for event in snapshot.events)]
    if snapshot.billed is not None:
        numbers += [snapshot.billed.tokens, snapshot.billed.amount]
    assert all(value is None or math.isfinite(value) for value in numbers)
    assert all(len(event.message) <= 20_000 for event in snapshot.events)
    assert all(isinstance(point, MetricPoint) and 0 <= point.step < 2**63 for point in snapshot.points)


def poll(world: World, change: Callable[[Any], bytes]) -> None:
    world.change = {"poll": change}
    with suppress(LlmtuneError):  # a sentence is an answer too; anything else is a crash
        check_sound(intake.poll_job(world.provider, world.ref, None))


def ask(world: World, change: Callable[[Any], bytes]) -> None:
    """What is put into the place of an answer is an answer, with counts that are counts, or none."""
    target = world.provider.generator(world.model)
    if isinstance(target, Unavailable):
        return
    world.change = {"generate": change}
    request = GenerationRequest(messages=world.dataset.test[0].messages[:-1], max_tokens=5)
    with suppress(LlmtuneError), target as model:
        (answer,) = intake.generate(model, [request])
        answer.text.encode()
        assert answer.prompt_tokens is None or 0 <= answer.prompt_tokens < 2**63
        assert answer.completion_tokens is None or 0 <= answer.completion_tokens < 2**63


def list_all(world: World, change: Callable[[Any], bytes]) -> None:
    world.change = {"": change}
    with suppress(LlmtuneError):
        for model in intake.list_models(world.provider):
            orjson.dumps(model.model_dump(mode="json"))


def upload(world: World, change: Callable[[Any], bytes]) -> None:
    """What the vendor says of an uploaded file is a file that can be named in a request, or an error."""
    world.change = {"": change}
    for call in (lambda: world.provider.upload(world.files[0]), lambda: world.provider.find_upload("0" * 64)):
        with suppress(LlmtuneError):
            ref = intake.read_ref(world.provider, "train file", call)
            assert ref is None or ref.id
            orjson.dumps(ref and ref.model_dump(mode="json"))


def submit(world: World, change: Callable[[Any], bytes]) -> None:
    """The vendor has taken the job: whatever it answers, it is the job, or unclear, so that it is looked for first."""
    remove_other_jobs(world)
    world.change = {"submit": change}
    before = len(world.vendor.jobs)
    error = None
    try:
        ref = intake.submit_job(world.provider, world.request, run_key(new_run_id()))
        orjson.dumps(ref.model_dump(mode="json"))
    except TransientError as raised:
        error = raised
    assert error is None or error.sent, error
    assert len(world.vendor.jobs) == before + 1


def remove_other_jobs(world: World) -> None:
    """Take the jobs of earlier tests away: lists stay short, and a service that trains one at a time is free."""
    for job in list(world.vendor.jobs.values()):
        job.at = len(job.walk) - 1
        if job.id not in (world.ref.id, world.job_id):
            del world.vendor.jobs[job.id]


def find(world: World, change: Callable[[Any], bytes]) -> None:
    """A job that is there is found, or the search fails: only an answer without the key says that there is none."""
    sent: list[bytes] = []

    def remembered(data: Any) -> bytes:
        sent.append(change(data))
        return sent[-1]

    if world.provider.submit_safety.kind == "none":
        return
    remove_other_jobs(world)
    world.change = {}
    key = run_key(new_run_id())
    ref = intake.submit_job(world.provider, world.request, key)
    world.change = {"find": remembered, "": remembered}
    with suppress(LlmtuneError):
        found = intake.read_ref(world.provider, "job", lambda: world.provider.find(key))
        orjson.dumps(found and found.model_dump(mode="json"))
        if found is None and sent:
            assert ref.id
            assert all(answer.startswith(b"{") and key.encode() not in answer for answer in sent), sent


def fetch(world: World, change: Callable[[Any], bytes]) -> None:
    """The job behind a model, and its files: values that a store and a job file can hold."""
    if world.remote is None:
        return
    world.change = {"": change}
    with suppress(LlmtuneError):
        job = intake.fetch_job(world.provider, world.remote)
        orjson.dumps(job.model_dump(mode="json"))


def download(world: World, change: Callable[[Any], bytes], folder: Path) -> None:
    """A file lands in the folder and nowhere else, whatever name the vendor gives it."""
    assert world.remote is not None
    world.change = {}
    try:
        files = intake.fetch_job(world.provider, world.remote).files
    except LlmtuneError:
        return
    for id in files.values():
        world.change = {"": change}
        into = folder / "into"
        into.mkdir(exist_ok=True)
        with suppress(LlmtuneError):
            path = intake.download_file(world.provider, id, into)
            assert path.is_file()
            assert path.resolve().parent == into.resolve()
        shutil.rmtree(into)
        assert not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_upload_submit_find_fetch_download_and_inventory_survive(world: World, name: str, tmp_path: Path) -> None:
    for change in (lambda data: ODD[name].encode(), _other_share(name)):
        upload(world, change)
        submit(world, change)
        find(world, change)
        fetch(world, change)
        list_all(world, change)
        if world.remote is not None:
            download(world, change, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_a_poll_survives(world: World, name: str) -> None:
    poll(world, _other_share(name))


def test_nothing_stuck(world: World) -> None:
    world.change.clear()
    assert intake.poll_job(world.provider, world.ref, None).model == world.model


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_everything_survives(world: World, name: str) -> None:
    for change in in_turn(ODD[name]):
        poll(world, change)
        ask(world, change)
        list_all(world, change)


@pytest.mark.parametrize("answer", [{"choices": []}, {"choices": None}, {}, {"choices": [{"message": {"content": 5}}]}])
def test_no_answer_is_no_wrong_answer(answer: dict[str, Any]) -> None:
    model = ChatGenerator("m", lambda body: answer)
    with pytest.raises(VendorError):
        intake.generate(model, [GenerationRequest(messages=(Message("user", "q"),))])
