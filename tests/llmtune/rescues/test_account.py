"""A whole account comes home: every job, every row, every answer once, whatever is killed or broken on the way."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import llmtune
from llmtune._retry import RetryPolicy
from llmtune.cli.app import app
from llmtune.errors import LlmtuneError, OverBudget
from llmtune.job.spec import TuningJob
from llmtune.provider.types import RemoteModel
from llmtune.rescues import account
from llmtune.rescues.account import Filters
from llmtune.rescues.folder import hold_folder
from llmtune.runs import failpoints
from llmtune.runs.poller import PollInterval
from llmtune.testing.faults import refusal
from llmtune.testing.generic_vendor import Fake
from llmtune_openai.fake.service import FakeOpenAI
from tests.llmtune.rescues.helpers import tickets

MODELS = 60
QUICK = RetryPolicy(first=0.01, most=0.02, tries=2)


class Killed(BaseException):
    """The process is gone."""


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def fill(vendor: FakeOpenAI, models: int, **fields: Any) -> list[str]:
    """Make an account of so many tuned models, each with rows of its own. Returns their ids, oldest first."""
    return [
        vendor.add_tuned_model(
            train=jsonl(tickets(6, first=100 * at)),
            validation=jsonl(tickets(3, first=100 * at + 50)),
            suffix=f"team-{at}",
            **fields,
        )
        for at in range(models)
    ]


def asked(vendor: FakeOpenAI) -> Counter[tuple[str, str]]:
    """How often each model was asked each question."""
    return Counter(
        (call.data["model"], call.data["messages"][-1]["content"])
        for call in vendor.requests
        if call.path.endswith("/chat/completions")
    )


@pytest.fixture
def passing() -> Iterator[Callable[[Callable[[str], None] | None], None]]:
    """Put a hook at the arrows of a rescue; it is taken away at the end."""

    def put(hook: Callable[[str], None] | None) -> None:
        failpoints.failpoint_hook = hook

    yield put
    failpoints.failpoint_hook = None


@pytest.mark.slow
def test_killed_at_20_random_moments_every_answer_is_asked_once(
    vendor: FakeOpenAI, tmp_path: Path, passing: Callable[[Callable[[str], None] | None], None]
) -> None:
    ids = fill(vendor, MODELS)
    # Of each model: fetching, fetched, three answers, recorded, job written.
    kills = set(random.Random(20270106).sample(range(1, MODELS * 7), 20))
    passed: list[str] = []

    def pass_arrow(name: str) -> None:
        passed.append(name)
        if len(passed) in kills:
            raise Killed

    passing(pass_arrow)
    died = 0
    while True:
        try:
            done = llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True)
            break
        except Killed:
            died += 1
    assert died == 20
    assert set(passed) <= set(failpoints.RESCUE_ARROWS)
    questions = {
        (model, row["messages"][1]["content"])
        for at, model in enumerate(ids)
        for row in tickets(3, first=100 * at + 50)
    }
    assert asked(vendor) == dict.fromkeys(questions, 1)
    assert len(done.models) == MODELS
    assert not done.failed
    assert {(model.job, model.train_rows, model.answered, model.questions) for model in done.models} == {
        (True, 6, 3, 3)
    }
    for at, model in enumerate(ids):
        (folder,) = [tmp_path / "home" / each.folder for each in done.models if each.model == model]
        train = (folder / "data/train.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in train] == tickets(6, first=100 * at)
        golden = [json.loads(line) for line in (folder / "golden.jsonl").read_text().splitlines()]
        assert len(golden) == 3
        job = TuningJob.load(folder / "job.yaml")
        assert job.model == {"openai": "gpt-4.1-mini-2025-04-14"}
    assert (
        "60 jobs, 60 training files (360 rows), 180 of 180 golden answers" in (tmp_path / "home/summary.md").read_text()
    )


def test_the_command_needs_an_account_and_no_new_model_for_a_snapshot(
    vendor: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(vendor, 2)
    shown = CliRunner().invoke(app, ["rescue", "--all", "--from", "openai", "--snapshot-only", "--yes"])
    assert shown.exit_code == 0, shown.output
    assert "2 tuned models at openai: 2 jobs, 2 training files (12 rows), 6 of 6 golden answers" in shown.stdout
    assert sorted(path.name for path in (tmp_path / "rescue-openai").iterdir()) == [
        "summary.json",
        "summary.md",
        "team-0-000003",
        "team-1-000007",
    ]
    for arguments, words in (
        (["--all"], "say whose account"),
        (["ft:x", "--all", "--from", "openai"], "takes every model"),
        (["ft:x", "--limit", "3"], "needs --all"),
        (["--all", "--from", "openai", "--prompts", "p.jsonl"], "is for one model"),
        ([], "name a model or a run"),
    ):
        refused = CliRunner().invoke(app, ["rescue", *arguments])
        assert refused.exit_code == 2
        assert words in " ".join(refused.output.replace("│", " ").split())


def test_filters_choose_and_the_summary_counts_what_they_left_out(vendor: FakeOpenAI, tmp_path: Path) -> None:
    ids = fill(vendor, 4)
    done = llmtune.rescue_all(
        "openai", out=tmp_path / "named", snapshot_only=True, filters=Filters(name="*team-2*", since=date(2020, 1, 1))
    )
    assert [model.model for model in done.models] == [ids[2]]
    assert done.left_out == 3
    late = Filters(since=date(2999, 1, 1))
    assert llmtune.rescue_all("openai", out=tmp_path / "late", snapshot_only=True, filters=late).models == ()
    other = Filters(base="gpt-4o*")
    assert llmtune.rescue_all("openai", out=tmp_path / "other", snapshot_only=True, filters=other).models == ()
    few = llmtune.rescue_all("openai", out=tmp_path / "few", snapshot_only=True, filters=Filters(limit=2))
    assert len(few.models) == 2
    assert few.left_out == 2


def test_the_summary_keeps_models_of_earlier_calls_and_those_that_are_gone_from_the_account(
    vendor: FakeOpenAI, tmp_path: Path
) -> None:
    ids = fill(vendor, 2)
    home = tmp_path / "home"
    llmtune.rescue_all("openai", out=home, snapshot_only=True)
    vendor.jobs.clear()
    done = llmtune.rescue_all("openai", out=home, snapshot_only=True, filters=Filters(name="*none*"))
    assert done.models == ()
    kept = json.loads((home / "summary.json").read_text())["models"]
    assert {(model["model"], model["answered"]) for model in kept} == {(id, 3) for id in ids}
    assert "2 tuned models at openai: 2 jobs" in (home / "summary.md").read_text()


def test_what_one_model_lacks_stops_no_other(vendor: FakeOpenAI, tmp_path: Path) -> None:
    ids = fill(vendor, 3)
    vendor.odd_jobs = [{"id": "ftjob-odd", "status": "succeeded", "fine_tuned_model": ["what is this"]}]
    jobs = list(vendor.jobs.values())
    del vendor.files[jobs[0].body["training_file"]]  # expired
    del vendor.models[ids[1]]  # removed: it answers no more
    done = llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True, patience=QUICK)
    found = {model.model: model for model in done.models}
    assert set(found) == set(ids)
    assert all(model.job for model in found.values())
    assert [found[id].train_rows for id in ids] == [None, 6, 6]
    assert [found[id].answered for id in ids] == [3, 0, 3]
    assert any("put your own copy of the rows there" in note for note in found[ids[0]].notes)
    assert any("does not answer any more" in note for note in found[ids[1]].notes)
    assert "1 record of the list cannot be read" in done.notes[0]
    job = TuningJob.load(tmp_path / "home" / found[ids[0]].folder / "job.yaml")
    assert str(job.dataset.train).endswith("data/train.jsonl")


def test_two_at_once_on_one_folder_the_second_says_so_and_asks_nothing(vendor: FakeOpenAI, tmp_path: Path) -> None:
    first, second = fill(vendor, 2)
    home = tmp_path / "home"
    refused: list[LlmtuneError] = []

    def meanwhile(*_: Any) -> None:
        for again in (
            lambda: llmtune.rescue_all("openai", out=home, snapshot_only=True),
            lambda: llmtune.rescue(first, source_provider="openai", out=home / "team-0-000003", snapshot_only=True),
        ):
            with pytest.raises(LlmtuneError, match="is being worked on by another rescue") as error:
                again()
            refused.append(error.value)

    done = llmtune.rescue_all("openai", out=home, snapshot_only=True, yes=False, confirm=meanwhile)
    assert len(refused) == 2
    assert all("\n" not in error.message for error in refused)
    assert not done.failed
    assert set(asked(vendor).values()) == {1}
    assert llmtune.rescue(second, source_provider="openai", out=home / "team-1-000007", snapshot_only=True).golden


def test_a_model_that_another_process_rescues_is_left_to_it(vendor: FakeOpenAI, tmp_path: Path) -> None:
    first, second = fill(vendor, 2)
    home = tmp_path / "home"
    with hold_folder(home / "team-0-000003"):
        done = llmtune.rescue_all("openai", out=home, snapshot_only=True)
    assert [model.model for model in done.failed] == [first]
    assert {model for model, _ in asked(vendor)} == {second}
    assert not llmtune.rescue_all("openai", out=home, snapshot_only=True).failed
    assert set(asked(vendor).values()) == {1}


def test_models_of_one_short_name_keep_their_folders_whichever_are_chosen(vendor: FakeOpenAI, tmp_path: Path) -> None:
    one = RemoteModel(id="ft:old:a:router:x1", base="b", created=1.0)
    other = RemoteModel(id="ft:old:b:router:x1", base="b", created=2.0)
    said: list[str] = []

    def folder(model: RemoteModel, taken: set[Path]) -> Path:
        made = account._folder_for(model, tmp_path, taken, said.append)
        made.keep()
        return made.path

    alone = folder(one, set())
    assert alone.name == "router-x1"
    beside = folder(other, set())
    assert beside.name.startswith("router-x1-")
    assert folder(other, set()) == beside
    assert [folder(other, set()), folder(one, {beside})] == [beside, alone]
    (alone / "rescue.json").write_text("{")
    assert folder(one, {beside}).name.startswith("router-x1-")
    assert "is not what llmtune rescue writes" in said[-1]


def test_checkpoints_are_counted_and_left_alone(vendor: FakeOpenAI, tmp_path: Path) -> None:
    (id,) = fill(vendor, 1, checkpoints=2)
    done = llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True)
    assert [model.model for model in done.models] == [id]
    assert done.checkpoints == 2
    assert "2 checkpoints left alone" in (tmp_path / "home/summary.md").read_text()


def test_the_cost_of_all_answers_is_agreed_to_once_and_before_any_is_asked(vendor: FakeOpenAI, tmp_path: Path) -> None:
    fill(vendor, 3)
    shown: list[tuple[float | None, str]] = []

    def refuse(cost: float | None, formula: str, _: Any) -> None:
        shown.append((cost, formula))
        raise OverBudget("not today")

    with pytest.raises(OverBudget, match="not today"):
        llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True, yes=False, confirm=refuse)
    ((cost, formula),) = shown
    assert cost
    assert "answers of 3 models" in formula
    assert not asked(vendor)
    with pytest.raises(OverBudget, match="over the budget"):
        llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True, budget=cost / 2)
    assert not asked(vendor)
    llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True, budget=cost)
    assert set(asked(vendor).values()) == {1}


def test_a_vendor_that_is_unwell_is_tried_again_by_the_same_call(vendor: FakeOpenAI, tmp_path: Path) -> None:
    fill(vendor, 5)
    vendor.faults.add(refusal(503, "overloaded"), route="chat", times=1000)
    done = llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True, patience=QUICK)
    assert len(done.failed) == 5
    assert "did not answer for 3 models in a row" in str(done.models[4].error)
    assert all(model.train_rows == 6 and model.job for model in done.models)
    vendor.faults.clear()
    again = llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True)
    assert not again.failed
    assert sum(model.answered for model in again.models) == 15


def test_a_file_that_cannot_be_had_for_a_moment_is_not_gone(vendor: FakeOpenAI, tmp_path: Path) -> None:
    fill(vendor, 2)
    vendor.faults.add(refusal(503, "overloaded"), route="get_content", times=1000)
    done = llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True)
    assert [model.train_rows for model in done.failed] == [None, None]
    vendor.faults.clear()
    again = llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True)
    assert not again.failed
    assert [(model.train_rows, model.answered) for model in again.models] == [(6, 3), (6, 3)]


def test_a_file_that_cannot_be_read_is_kept_as_it_came(vendor: FakeOpenAI, tmp_path: Path) -> None:
    fill(vendor, 1)
    (job,) = vendor.jobs.values()
    vendor.files[job.body["training_file"]].content = b'{"messages": [{"role"\n'
    (model,) = llmtune.rescue_all("openai", out=tmp_path / "home", snapshot_only=True).models
    (kept,) = (tmp_path / "home" / model.folder / "data").glob("train-as-fetched*")
    assert kept.read_bytes() == b'{"messages": [{"role"\n'
    assert any(str(kept) in note and ".fetched-" not in note for note in model.notes)


def test_the_whole_account_is_trained_again(
    vendor: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(vendor, 2)
    with pytest.raises(LlmtuneError, match="which model shall fake train"):
        llmtune.rescue_all("openai", "fake", out=tmp_path / "home")
    assert not asked(vendor)
    with Fake() as fake:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", fake.url)
        done = llmtune.rescue_all(
            "openai",
            "fake",
            model="m-1",
            out=tmp_path / "home",
            follow=lambda run: run.wait(timeout=120, pace=PollInterval(first=0.01, most=0.05)),
        )
        assert len(fake.jobs) == 2
    assert all(model.run for model in done.models)
    assert set(asked(vendor).values()) == {1}
    assert (tmp_path / "home" / done.models[0].folder / "report.md").exists()
