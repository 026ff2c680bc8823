"""A server is verified against a run: of a vendor's model by its stored answers, and the result is in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import llmtune
from llmtune.cli.app import app
from llmtune.errors import InvalidData, InvalidJob, MissingCredentials, NotJudged
from llmtune.job.spec import TuningJob
from llmtune.runs.api import start
from llmtune.runs.reference_model import check_method
from llmtune.runs.run import Run
from llmtune.runs.verify_run import open_reference
from llmtune.testing.fake_provider import FakeProvider
from tests.llmtune.runs.helpers import a_record
from tests.llmtune.verifications.serving import Body, ModelServer, Refused

pytestmark = pytest.mark.usefixtures("no_long_pauses")


class Stored(ModelServer):
    """Answers each question as the reference does; `changed` makes another answer of it."""

    def __init__(self, run: Run, changed: Callable[[str], str] = lambda text: text, key: str | None = None) -> None:
        self.asked = 0
        with open_reference(run, 60, lambda _: None) as reference:
            self.answers = {
                request.messages[-1].words: answer.text
                for request, answer in zip(reference.requests, reference.answers, strict=True)
            }
        self.changed = changed

    def complete(self, body: Body) -> Body:
        question = body["messages"][-1]["content"]
        text = self.changed(self.answers.get(question, "I do not know that."))
        for stop in body.get("stop") or ():
            text = text.partition(stop)[0]
        words = text.split(" ")[: body.get("max_tokens") or 99]
        reason = "stop" if len(words) == len(text.split(" ")) else "length"
        choice = {"index": 0, "message": {"role": "assistant", "content": " ".join(words)}, "finish_reason": reason}
        return {"choices": [choice]}


@pytest.fixture
def run(job: TuningJob, at: Callable[..., FakeProvider]) -> Run:
    split = job.dataset.model_copy(update={"split": (0.5, 0.0, 0.5)})
    evaluation = job.evaluation.model_copy(update={"max_rows": 12})
    run = start(job.model_copy(update={"dataset": split, "evaluation": evaluation}), at())
    run.wait()
    return run


def test_a_server_with_the_stored_answers_is_the_same(run: Run) -> None:
    with Stored(run).running() as address:
        result = llmtune.verify(address, run)
    assert (result.verdict, result.exit_code) == ("same", 0), result.reason
    assert result.rows == result.answers_same == 12
    assert result.source == "the answers of the evaluation"
    assert result.run == run.id
    report = run.report()
    assert report.verifications == (result,)
    for text in (report.to_text(), report.to_markdown(), report.to_html()):
        assert "all 12 answers are the same" in text
    assert llmtune.Report.from_json(report.to_json()) == report


def test_another_model_is_drift_and_both_results_stay_in_the_report(run: Run) -> None:
    for changed in (lambda text: text, lambda text: "no, never"):
        with Stored(run, changed).running() as address:
            result = llmtune.verify(address, run, rows=8)
    assert result.verdict == "drift"
    assert [difference.kind for difference in result.differences] == ["another_model_answers"]
    assert [verification.verdict for verification in run.report().verifications] == ["same", "drift"]


def test_too_few_rows_cannot_tell_what_one_other_answer_costs(run: Run) -> None:
    server = Stored(run)
    first = next(iter(server.answers))
    server.answers[first] = "something else"
    with server.running() as address:
        result = llmtune.verify(address, run)
    assert (result.verdict, result.exit_code) == ("unclear", 6), result.reason
    assert [difference.kind for difference in result.differences] == ["weights_differ"]
    assert "answers agree on 11 of 12" in result.reason
    with server.running() as address:
        assert llmtune.verify(address, run, margin=60).verdict == "same"


def test_where_nothing_answers_is_said_with_what_to_start(run: Run) -> None:
    with pytest.raises(NotJudged, match="nothing answers") as raised:
        llmtune.verify("http://127.0.0.1:9", run)
    assert f"llmtune serve {run.id}" in str(raised.value.hint)
    assert run.report().verifications == ()


def test_a_server_that_wants_a_key_says_so(run: Run) -> None:
    class Locked(Stored):
        def check(self, body: Body) -> None:
            raise Refused(401, "Invalid API key")

    with Locked(run).running() as address, pytest.raises(MissingCredentials, match="Invalid API key"):
        llmtune.verify(address, run, key_from="ACME_KEY")


def test_wrong_arguments_are_refused_before_anything_is_asked(run: Run, tmp_path: Path) -> None:
    for options in ({"rows": 0}, {"margin": -1.0}, {"margin": float("nan")}):
        with pytest.raises(InvalidJob):
            llmtune.verify("http://127.0.0.1:9", run, **options)


def test_the_run_of_a_classifier_cannot_be_verified() -> None:
    job = {"name": "job", "model": "m-1", "dataset": "x.jsonl", "method": "classification"}
    with pytest.raises(InvalidJob, match="tuned a classifier"):
        check_method(a_record(job=job))


@pytest.mark.slow
def test_a_run_without_stored_answers_says_what_to_do(job: TuningJob, at: Callable[..., FakeProvider]) -> None:
    run = start(job.model_copy(update={"dataset": job.dataset.model_copy(update={"split": (1.0, 0.0, 0.0)})}), at())
    run.wait()
    with pytest.raises(InvalidData, match="no held-out rows"), open_reference(run, 5, lambda _: None):
        pass


def test_the_command_exits_with_the_verdict(run: Run, monkeypatch: pytest.MonkeyPatch, at: Any) -> None:
    monkeypatch.setattr("llmtune.runs.run.provider_of", lambda record: at())
    with Stored(run).running() as address:
        shown = CliRunner().invoke(app, ["verify", address, "--run", run.id])
        document = CliRunner().invoke(app, ["verify", address, "--run", run.id, "--json", "--rows", "3"])
    assert shown.exit_code == 0
    assert "the same" in shown.stdout
    assert "answers: 12 of 12 the same" in shown.stdout
    assert json.loads(document.stdout)["rows"] == 3
    with Stored(run, lambda text: "no").running() as address:
        wrong = CliRunner().invoke(app, ["verify", address, "--run", run.id])
    assert wrong.exit_code == 5
    assert "another_model_answers" in wrong.stdout
