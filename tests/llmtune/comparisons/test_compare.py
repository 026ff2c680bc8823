"""Several backends on one held-out split: who is better, is that luck, and what does it cost."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import llmtune
from llmtune import Board, Hyperparameters, Member, TuningJob
from llmtune.comparisons.compare import plan_members
from llmtune.errors import InvalidJob, LlmtuneError, OverBudget
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.points import NotReported
from llmtune.provider.limits import Price
from llmtune.provider.types import RunState
from llmtune.report.leaderboard.board import Entry, build_board
from llmtune.report.schema import Cost
from llmtune.runs.poller import PollInterval
from llmtune.runs.store.store import open_store
from llmtune.testing import Phase
from llmtune.testing.generic_vendor import Fake
from llmtune.testing.http import Refusal
from llmtune_nebius.fake.service import FakeNebius
from llmtune_openai.fake.service import FakeOpenAI

QUICK = PollInterval(first=0.01, most=0.05)
WORDS = {"billing": "invoice", "network": "router", "hardware": "screen"}
MODELS = {
    "fake": "m-1",
    "other": "m-2",
    "openai": "gpt-4.1-mini-2025-04-14",
    "nebius": "meta-llama/Llama-3.3-70B-Instruct",
    "local": "tiny",
}


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    teams = list(WORDS)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"case {at}: the {WORDS[teams[at % 3]]} is broken"},
                {"role": "assistant", "content": teams[at % 3]},
            ]
        }
        for at in range(240)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TuningJob(
        name="router",
        dataset=str(tmp_path / "rows.jsonl"),
        model=MODELS,
        hyperparameters=Hyperparameters(epochs=2, batch_size=16, lora_rank=8, label_smoothing=0.1),
        evaluation=EvaluationSpec(max_rows=40),
    )


@pytest.fixture
def vendors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Four services on loopback: two of the neutral kind, and two that speak vendors' own APIs."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("NEBIUS_API_KEY", "nb-test")
    with (
        Fake() as fake,
        Fake() as second,
        FakeOpenAI(api_key="sk-test") as openai,
        FakeNebius(api_key="nb-test") as neb,
    ):
        config = tmp_path / "config.toml"
        config.write_text(
            f'[providers.fake]\nbase_url = "{fake.url}"\n'
            f'[providers.other]\nkind = "fake"\nbase_url = "{second.url}"\n'
            f'[providers.openai]\nbase_url = "{openai.url}/v1"\n'
            f'[providers.nebius]\nbase_url = "{neb.url}/v1"\n'
        )
        monkeypatch.setenv("LLMTUNE_CONFIG", str(config))
        vendors_by_name = {"fake": fake, "other": second, "openai": openai, "nebius": neb}
        yield vendors_by_name
        for vendor in vendors_by_name.values():
            assert not vendor.complaints, "\n".join(vendor.complaints)


def jobs(vendors: dict[str, Any]) -> dict[str, int]:
    return {name: len(vendor.jobs) for name, vendor in vendors.items()}


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
def test_two_ranks_here_and_three_vendors_from_one_command(
    job: TuningJob, vendors: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    from llmtune.cli.app import app

    job.save(tmp_path / "job.yaml")
    members = "local[lora_rank=4],local[lora_rank=16],openai,nebius,fake"
    arguments = ["compare", str(tmp_path / "job.yaml"), "-p", members, "--yes", "--format", "json", "--few-shot", "2"]
    arguments += ["--set", "evaluation.deploy=true"]  # one of them answers only once its adapter is registered
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    board = Board.model_validate_json(result.stdout)
    assert jobs(vendors) == {"fake": 1, "other": 0, "openai": 1, "nebius": 1}
    tuned = {standing.label: standing for standing in board.standings if standing.kind == "tuned"}
    assert set(tuned) == {"local[lora_rank=4]", "local[lora_rank=16]", "openai", "nebius", "fake"}
    assert all(standing.state is RunState.SUCCEEDED for standing in tuned.values())
    # One split, held away from all: the same rows in every report.
    store = open_store()
    rows = {
        llmtune.attach(record.id).report().evaluation.row_ids
        for record in store.runs(group=board.group)  # type: ignore[union-attr]
    }
    assert len(rows) == 1
    assert board.rows == len(next(iter(rows))) > 0
    # What is lost stands beside whoever loses it.
    assert set(tuned["openai"].lost) == {"label_smoothing", "lora_rank"}, "and nothing that was never set"
    assert not tuned["local[lora_rank=4]"].lost
    # The two local runs shared one device: one after the other.
    spans = []
    for record in store.runs(group=board.group, provider="local"):
        moves = {transition.state: transition.time for transition in store.transitions(record.id)}
        spans.append((moves[RunState.PLANNED], moves[RunState.SUCCEEDED]))
    spans.sort()
    assert spans[0][1] <= spans[1][0]
    assert {standing.kind for standing in board.standings} >= {"tuned", "base", "few-shot"}
    assert {standing.kind for standing in board.standings} >= {"linear", "majority"}
    assert board.verdict
    assert "# router" in board.to_markdown()


def test_the_board_is_what_one_would_compute_by_hand(job: TuningJob, vendors: dict[str, Any]) -> None:
    from scipy.stats import binomtest
    from sklearn.metrics import accuracy_score

    vendors["other"].teach([("case", "billing")])  # knows one answer only
    vendors["other"].teach = lambda rows: None
    board = llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK)
    reports = {
        record.provider: llmtune.attach(record.id).report().evaluation
        for record in open_store().runs(group=board.group)
    }
    right = {}
    for name, evaluation in reports.items():
        system = evaluation.system("tuned")  # type: ignore[union-attr]
        assert board[name].quality.value == pytest.approx(  # type: ignore[union-attr]
            accuracy_score(evaluation.truth, system.predicted)  # type: ignore[union-attr]
        )
        right[name] = [one == predicted for one, predicted in zip(evaluation.truth, system.predicted, strict=True)]  # type: ignore[union-attr]
    only = [
        sum(a and not b for a, b in zip(right["fake"], right["other"], strict=True)),
        sum(b and not a for a, b in zip(right["fake"], right["other"], strict=True)),
    ]
    (pair,) = [
        pairing
        for pairing in board.pairs
        if {pairing.comparison.name_a, pairing.comparison.name_b} == {"fake", "other"}
    ]
    assert pair.p_value == pytest.approx(binomtest(min(only), sum(only), 0.5).pvalue)
    # Two members are one question; each baseline is a question of its own, asked of both members.
    assert pair.p_holm == pair.p_value
    assert {pairing.family for pairing in board.pairs if pairing is not pair} == {2}
    assert pair.separable
    assert board.standings[0].label == "fake"
    assert board.verdict[0].startswith("fake leads other by ")
    assert "of accuracy (95% interval " in board.verdict[0]
    tuned = {standing.label for standing in board.standings if standing.kind == "tuned"}
    assert all(tuned & {pairing.comparison.name_a, pairing.comparison.name_b} for pairing in board.pairs)
    untuned = len(board.standings) - len(tuned)
    every = len(board.standings) * (len(board.standings) - 1) // 2
    assert len(board.pairs) == every - untuned * (untuned - 1) // 2


def test_a_linear_model_is_on_the_board_once_and_its_lead_is_said(job: TuningJob, vendors: dict[str, Any]) -> None:
    vendors["other"].teach = lambda rows: None
    board = llmtune.compare(job, ["other"], few_shot=0, pace=QUICK)
    (linear,) = [standing for standing in board.standings if standing.kind == "linear"]
    (always,) = [standing for standing in board.standings if standing.kind == "majority"]
    assert linear.quality.value == 1.0  # type: ignore[union-attr]
    assert always.quality.value < 0.5  # type: ignore[union-attr]
    assert board.verdict[0] == (
        "Tuning did not help: linear model (TF-IDF) needs none and is ahead of every tuned model."
        " Do not pay for tuning."
    )
    assert any(line.startswith("linear model (TF-IDF) leads other by ") for line in board.verdict)
    assert "linear model" in board.to_markdown()
    assert "linear model" in board.to_html()


def test_one_that_fails_does_not_stop_the_others(job: TuningJob, vendors: dict[str, Any]) -> None:
    vendors["other"].outcome = "failure"
    board = llmtune.compare(job, ["fake", "other", "cohere:command-r"], few_shot=0, pace=QUICK)
    assert board["fake"].state is RunState.SUCCEEDED
    assert board["other"].state is RunState.FAILED
    assert board["other"].error
    assert isinstance(board["other"].quality, NotReported)
    assert "retired" in str(board["cohere:command-r"].error)
    assert {entry.label for entry in board.failed} == {"other", "cohere:command-r"}
    assert any(line.startswith("other made no model") for line in board.verdict)


@pytest.mark.slow
def test_a_second_call_pays_for_nothing_twice(job: TuningJob, vendors: dict[str, Any]) -> None:
    vendors["other"].outcome = "failure"
    llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK)
    vendors["other"].outcome = "success"
    again = llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK)
    assert jobs(vendors) == {"fake": 1, "other": 1, "openai": 0, "nebius": 0}
    assert again["other"].state is RunState.FAILED
    retried = llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK, retry_failed=True)
    assert jobs(vendors) == {"fake": 1, "other": 2, "openai": 0, "nebius": 0}
    assert retried["other"].state is RunState.SUCCEEDED


CHILD = """
import os, signal, sys
from llmtune import TuningJob, compare
from llmtune.runs.poller import PollInterval
from llmtune.runs import failpoints
where, nth = sys.argv[2], int(sys.argv[3])
passed = 0
def die(arrow):
    global passed
    passed += arrow == where
    if arrow == where and passed == nth:
        os.kill(os.getpid(), signal.SIGKILL)
failpoints.failpoint_hook = die
compare(TuningJob.load(sys.argv[1]), ["fake", "other", "openai"], few_shot=2, pace=PollInterval(first=0.01, most=0.05))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("where", "nth"), [("after-submit", 2), ("job-kept", 3), ("evaluated", 1), ("reported", 2)])
def test_killed_in_the_middle_it_goes_on(
    job: TuningJob, vendors: dict[str, Any], tmp_path: Path, where: str, nth: int
) -> None:
    job.save(tmp_path / "job.yaml")
    arguments = [sys.executable, "-c", CHILD, str(tmp_path / "job.yaml"), where, str(nth)]
    done = subprocess.run(arguments, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    loaded = TuningJob.load(tmp_path / "job.yaml")
    board = llmtune.compare(loaded, ["fake", "other", "openai"], few_shot=2, pace=QUICK)
    assert jobs(vendors) == {"fake": 1, "other": 1, "openai": 1, "nebius": 0}
    assert not board.failed
    assert len(open_store().runs()) == 3


@pytest.mark.slow
def test_the_last_word_on_a_member_counts(job: TuningJob, vendors: dict[str, Any]) -> None:
    """A failure that was mended later, or whose rows have changed since, is no failure any more."""
    vendors["other"].outcome = "failure"
    llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK)
    vendors["other"].outcome = "success"
    llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK, retry_failed=True)
    again = llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK)
    assert again["other"].state is RunState.SUCCEEDED
    assert jobs(vendors) == {"fake": 1, "other": 2, "openai": 0, "nebius": 0}

    vendors["fake"].outcome = "failure"
    rows = Path(str(job.dataset.path))
    rows.write_text(rows.read_text().replace("is broken", "is out of order"))
    assert llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK)["fake"].state is RunState.FAILED
    vendors["fake"].outcome = "success"
    rows.write_text(rows.read_text().replace("is out of order", "does not work"))
    mended = llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK)
    assert mended["fake"].state is RunState.SUCCEEDED
    assert jobs(vendors) == {"fake": 3, "other": 4, "openai": 0, "nebius": 0}


def test_an_adapters_slip_is_that_members_failure(
    job: TuningJob, vendors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = plan_members(job, ["fake", "other"], few_shot=0)

    def slip(*_: object, **__: object) -> None:
        raise KeyError("choices")

    monkeypatch.setattr(plans.providers["other"], "encode", slip)
    board = llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK, plans=plans)
    assert board["fake"].state is RunState.SUCCEEDED
    assert "KeyError" in str(board["other"].error)
    assert jobs(vendors)["other"] == 0


def test_a_callback_that_raises_ends_the_waiting_not_the_runs(job: TuningJob, vendors: dict[str, Any]) -> None:
    def refuse(label: str, update: Any) -> None:
        raise ZeroDivisionError(label)

    with pytest.raises(ZeroDivisionError):
        llmtune.compare(job, ["fake", "other"], few_shot=0, on_update=refuse, pace=QUICK)
    board = llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK)
    assert not board.failed
    assert jobs(vendors) == {"fake": 1, "other": 1, "openai": 0, "nebius": 0}


@pytest.mark.slow
def test_ctrl_c_leaves_at_once_and_the_runs_go_on(job: TuningJob, vendors: dict[str, Any], tmp_path: Path) -> None:
    walks = {name: vendors[name].walks for name in ("fake", "other")}
    for name, walk in walks.items():
        endless = Phase("training", looks=0, seconds=3600, training=True)
        vendors[name].walks = {**walk, "success": (endless, walk["success"][-1])}
    job.save(tmp_path / "job.yaml")
    command = [sys.executable, "-m", "llmtune", "compare", str(tmp_path / "job.yaml"), "-p", "fake,other", "--yes"]

    def hears_ctrl_c() -> None:  # a test session in the background would hand down that it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c) as child:
        assert child.stderr is not None
        output = ""
        while output.count(": running") < 2 and (line := child.stderr.readline()):
            output += line
        child.send_signal(signal.SIGINT)
        try:
            _, errors = child.communicate(timeout=60)  # the jobs themselves take an hour
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    assert child.returncode == 130, output + errors
    assert "the runs continue" in errors
    for name, walk in walks.items():
        vendors[name].walks = walk
    assert jobs(vendors) == {"fake": 1, "other": 1, "openai": 0, "nebius": 0}
    assert {record.state for record in open_store().runs()} == {RunState.RUNNING}


class Crowded(FakeOpenAI):
    """OpenAI with room for one job at once, which counts what it refuses; other limits come from `limit_code`."""

    limit_code = "max_active_jobs_exceeded"
    refused = 0

    def new_job(self, *args: Any, **kwargs: Any) -> Any:
        if any(not job.ended for job in self.jobs.values()):
            self.refused += 1
            raise Refusal(429, "You have reached the maximum number of active jobs, 1.", code=self.limit_code)
        return super().new_job(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize(("code", "finished"), [("max_active_jobs_exceeded", 2), ("exceeded_quota", 1)])
def test_a_vendor_with_room_for_one_job_trains_one_member_after_the_other(
    job: TuningJob, monkeypatch: pytest.MonkeyPatch, code: str, finished: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    with Crowded(api_key="key") as vendor:
        vendor.limit_code = code
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{vendor.url}/v1")
        board = llmtune.compare(job, ["openai[epochs=1]", "openai[epochs=2]"], few_shot=0, pace=QUICK)
        assert len(vendor.jobs) == finished
        assert vendor.refused, "the second member has met the limit"
        if finished == 1:  # no other limit lifts while one waits
            assert vendor.refused == 1
            assert "maximum number" in str(board.failed[0].error)
            again = llmtune.compare(job, ["openai[epochs=1]", "openai[epochs=2]"], few_shot=0, pace=QUICK)
            assert not again.failed, "what was never accepted is asked for again, what has finished is not"
            assert len(vendor.jobs) == 2


def test_hosted_members_run_at_once(job: TuningJob, vendors: dict[str, Any]) -> None:
    """Each vendor's job waits for the other's to be there."""
    both = threading.Barrier(2, timeout=20)
    running: set[str] = set()

    def meet(label: str, update: Any) -> None:
        if update.record.state in (RunState.QUEUED, RunState.RUNNING) and label not in running:
            running.add(label)
            both.wait()

    board = llmtune.compare(job, ["fake", "other"], few_shot=0, on_update=meet, pace=QUICK)
    assert not board.failed


def test_examples_in_the_prompt_are_a_row_of_the_board(job: TuningJob, vendors: dict[str, Any]) -> None:
    board = llmtune.compare(job, ["fake"], few_shot=3, pace=QUICK)
    few_shot_row = board["fake:m-1 with 3 examples"]
    assert few_shot_row.kind == "few-shot"
    requests = [
        call.data["messages"]
        for call in vendors["fake"].requests
        if call.path.endswith("/generate") and call.data["model"] == "m-1"
    ]
    with_examples = [messages for messages in requests if len(messages) == 7]
    assert len(with_examples) == board.rows
    answers = {messages[at]["content"] for messages in with_examples for at in (1, 3, 5)}
    assert answers == set(WORDS)  # one of each label
    (even,) = board.break_even
    assert even.answers == 0.0  # the tuned model asks nothing for an answer and cost nothing to train


@pytest.mark.slow
def test_money_is_for_all_members_together(job: TuningJob, vendors: dict[str, Any]) -> None:
    job = job.model_copy(update={"hyperparameters": Hyperparameters(epochs=3)})
    plans = plan_members(job, ["openai", "fake"])
    assert plans.total is not None
    with pytest.raises(OverBudget, match="together, over the budget"):
        llmtune.compare(job, ["openai", "fake"], budget=plans.total / 2)
    with pytest.raises(OverBudget, match="not confirmed"):
        llmtune.compare(job, ["openai", "fake"], yes=False)
    assert jobs(vendors) == {"fake": 0, "other": 0, "openai": 0, "nebius": 0}
    # An unknown price that may pass does not take the known ones with it.
    without = job.model_copy(update={"hyperparameters": Hyperparameters()})
    some: list[str | Member] = [
        Member(provider="openai", hyperparameters=Hyperparameters(epochs=3)),
        "nebius:no-price",
        "openai",
        "fake",
    ]
    mixed = plan_members(without, some)
    assert mixed.total is None
    assert mixed.known > 0
    with pytest.raises(OverBudget, match="and an unknown amount together, over the budget"):
        llmtune.compare(without, some, budget=mixed.known / 2, allow_unknown_cost=True, plans=mixed)
    assert jobs(vendors) == {"fake": 0, "other": 0, "openai": 0, "nebius": 0}
    llmtune.compare(job, ["openai", "fake"], budget=plans.total * 1.01, pace=QUICK, allow_unknown_cost=True)
    assert jobs(vendors) == {"fake": 1, "other": 0, "openai": 1, "nebius": 0}


@pytest.mark.parametrize(
    ("text", "label", "provider", "model", "hyperparameters"),
    [
        ("fake", "fake", "fake", None, {}),
        ("bedrock:amazon.nova-lite-v1:0:300k", None, "bedrock", "amazon.nova-lite-v1:0:300k", {}),
        ("local:tiny[lora_rank=4,epochs=2]", None, "local", "tiny", {"lora_rank": 4, "epochs": 2}),
        ("local[learning_rate=1e-3]", None, "local", None, {"learning_rate": 1e-3}),
    ],
)
def test_members_are_said_in_words(
    text: str, label: str | None, provider: str, model: str | None, hyperparameters: dict[str, Any]
) -> None:
    member = Member.parse(text)
    assert (member.provider, member.model) == (provider, model)
    assert member.hyperparameters.model_dump(exclude_none=True) == hyperparameters
    assert Member.parse(member.label) == member
    if label:
        assert member.label == label


def test_what_is_no_member_is_refused(job: TuningJob) -> None:
    for text in ("", "local[lora_rank]", "local[no_such=1]", "local[lora_rank=none]", "a b"):
        with pytest.raises(InvalidJob):
            Member.parse(text)
    with pytest.raises(InvalidJob, match="takes part twice"):
        llmtune.compare(job, ["fake", "fake"])
    with pytest.raises(InvalidJob, match="needs members"):
        llmtune.compare(job, [])
    with pytest.raises(LlmtuneError, match="no member of the comparison has a result"):
        llmtune.compare(job, ["cohere:command-r"])


def test_a_board_goes_through_json_markdown_and_a_data_frame(job: TuningJob, vendors: dict[str, Any]) -> None:
    board = llmtune.compare(job, ["fake", "other"], few_shot=0, pace=QUICK)
    assert Board.model_validate_json(board.to_json()) == board
    page = board.to_markdown()
    assert page.startswith("# router")
    assert "Told apart?" in page
    frame = board.to_pandas()
    assert list(frame["label"]) == [standing.label for standing in board.standings]
    assert set(board["fake"].curves) >= {"train/loss"}
    assert frame["prompt_tokens"][0] == board.standings[0].usage.prompt_tokens  # type: ignore[union-attr]
    (record,) = open_store().runs(group=board.group, provider="fake")
    report = llmtune.attach(record.id).report()
    assert board["fake"].trained_tokens == report.data.trained_tokens
    assert board["fake"].usage == report.evaluation.system("tuned").usage  # type: ignore[union-attr]


@pytest.fixture
def entries(job: TuningJob, vendors: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """Return the entries of a board: two members of one base model, which was evaluated with examples too."""
    recorded: list[Entry] = []

    def keep(name: str, group: str, board_entries: list[Entry], **options: Any) -> Board:
        recorded.extend(board_entries)
        return build_board(name, group, board_entries, **options)

    monkeypatch.setattr("llmtune.comparisons.compare.build_board", keep)
    llmtune.compare(job, ["fake", "fake[lora_rank=4]"], few_shot=2, pace=QUICK)
    return recorded


def test_the_break_even_is_training_by_what_an_answer_saves(entries: list[Entry]) -> None:
    price = Price(input=2.0, output=4.0, base_input=1.0, base_output=3.0)
    priced = [entry.model_copy(update={"price": price, "training": 5.0}) for entry in entries]
    priced = [entry.model_copy(update={"report": _unbilled(entry)}) for entry in priced]
    board = build_board("router", "g", priced)
    (few_shot_row,) = [standing for standing in board.standings if standing.kind == "few-shot"]
    usage = few_shot_row.usage
    assert not isinstance(usage, NotReported)
    by_hand = 1000 * (usage.prompt_tokens * 1.0 + usage.completion_tokens * 3.0) / 1e6 / board.rows  # type: ignore[operator]
    assert few_shot_row.price_per_1000 == pytest.approx(by_hand)
    assert [break_even.tuned for break_even in board.break_even] == [
        "fake",
        "fake[lora_rank=4]",
    ]
    for even in board.break_even:
        saved = few_shot_row.price_per_1000 - board[even.tuned].price_per_1000  # type: ignore[operator]
        assert saved > 0
        assert even.answers == math.ceil(5.0 / (saved / 1000))
        assert any(f"after {even.answers:,.0f} answers" in line for line in board.verdict)

    def answers(**changes: Any) -> Any:
        repriced = [entry.model_copy(update={"price": dataclasses.replace(price, **changes)}) for entry in priced]
        return build_board("router", "g", repriced)

    dear = answers(input=200.0)
    assert "not cheaper" in dear.break_even[0].answers.reason
    hourly = answers(hosting=1.7)
    assert "1.7 USD an hour" in hourly.break_even[0].answers.reason
    assert any("1.7 USD an hour" in line for line in hourly.warnings)
    silent = answers(base_input=None)
    assert "base model's answers is not in the catalogue" in silent.break_even[0].answers.reason


def _unbilled(entry: Entry) -> Any:
    assert entry.report is not None
    return entry.report.model_copy(update={"cost": Cost(estimated=9.0)})


def test_where_nothing_beats_no_tuning_the_board_says_so(entries: list[Entry]) -> None:
    """The base model with examples gets every row right, the tuned ones all but some."""
    first, second = entries
    assert first.few_shot is not None
    label, evaluation = first.few_shot
    assert evaluation.truth is not None
    system = evaluation.system("few-shot")
    assert system is not None
    right = tuple(evaluation.truth)
    values = tuple(
        value.model_copy(update={"value": 1.0}) if value.name == evaluation.main else value for value in system.metrics
    )
    scores = {evaluation.main: tuple(1.0 for _ in right)} if evaluation.main in system.scores else {}
    best = system.model_copy(update={"predicted": right, "metrics": values, "scores": system.scores | scores})
    perfect = evaluation.model_copy(update={"systems": {"few-shot": best}})

    def wrong(entry: Entry, rows: int) -> Entry:
        assert entry.report is not None
        evaluation = entry.report.evaluation
        assert not isinstance(evaluation, NotReported)
        assert evaluation.truth is not None
        tuned = evaluation.system("tuned")
        assert tuned is not None
        guesses = tuple((label + 1) % 3 if at < rows else label for at, label in enumerate(evaluation.truth))
        share = 1 - rows / len(guesses)
        metrics = tuple(
            metric.model_copy(update={"value": share}) if metric.name == evaluation.main else metric
            for metric in tuned.metrics
        )
        got = {evaluation.main: tuple(float(a == b) for a, b in zip(guesses, evaluation.truth, strict=True))}
        changed = tuned.model_copy(
            update={
                "predicted": guesses,
                "metrics": metrics,
                "scores": tuned.scores | (got if evaluation.main in tuned.scores else {}),
            }
        )
        systems = evaluation.systems | {"tuned": changed}
        report = entry.report.model_copy(update={"evaluation": evaluation.model_copy(update={"systems": systems})})
        return entry.model_copy(update={"report": report})

    start = first.model_copy(update={"few_shot": (label, perfect)})
    all_worse = build_board("router", "g", [wrong(start, 12), wrong(second, 13)])
    assert any(line.startswith(f"Tuning did not help: {label}") for line in all_worse.verdict)
    (members,) = [line for line in all_worse.verdict if line.startswith("fake leads fake[lora_rank=4] by ")]
    assert "; not certain on " in members
    assert members.endswith("would settle it.")  # and no word of a price
    one_alike = build_board("router", "g", [wrong(start, 1), wrong(second, 13)])
    assert any(line.startswith(f"Tuning is not shown to help: {label}") for line in one_alike.verdict)
    assert any(line.startswith("fake leads fake[lora_rank=4]") for line in one_alike.verdict)


def test_holm_is_statsmodels_by_hand() -> None:
    from llmtune.report.leaderboard.board import holm, sign_flip

    assert holm([0.01, 0.04, 0.03, None]) == pytest.approx([0.03, 0.06, 0.06, None])
    assert holm([]) == []
    assert sign_flip([0.1, 0.2], [0.1, 0.2]) == 1.0
    assert sign_flip([0.0] * 30, [1.0] * 30) < 0.01


def test_the_page_of_a_board_holds_everything_and_escapes_it(
    job: TuningJob, vendors: dict[str, Any], tmp_path: Path
) -> None:
    evil = Member(provider="fake", name="<script>alert(1)</script>")
    board = llmtune.compare(job, [evil, "other"], few_shot=0, pace=QUICK)
    board.save(tmp_path / "board.html")
    page = (tmp_path / "board.html").read_text()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "Told apart?" in page
    (tokens,) = {standing.trained_tokens for standing in board.standings if standing.kind == "tuned"}
    table = page[page.index(">tokens<") :]
    assert f"{tokens:,}</td>" in table  # under the heading of its own
    assert table.index(">tokens<") < table.index(">p50 / p95<") < table.index(f"{tokens:,}</td>")
    data = json.loads(page.split('type="application/json" id="page-data">')[1].split("</script>")[0])
    (losses,) = [chart for chart in data["charts"] if chart["id"] == "train/loss"]
    assert {curve["label"] for curve in losses["curves"]} == {"<script>alert(1)</script>", "other"}
    with pytest.raises(LlmtuneError, match=r"\.json, \.md or \.html"):
        board.save(tmp_path / "board.pdf")
