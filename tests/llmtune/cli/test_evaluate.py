"""`llmtune report`, `evaluate`, `gate`, `diff` and `chat`, on runs at a fake vendor and on report files."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from llmtune.cli import evaluate
from llmtune.errors import InvalidData, NotJudged, RunNotFound, TransientError, UnknownName
from llmtune.evaluation.results import EvaluationResult
from llmtune.job.spec import EvaluationSpec, Hyperparameters, TuningJob
from llmtune.metrics.decisions import Decision
from llmtune.report.schema import Report
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune.runs.run import Run
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.evaluation.test_decisions import run as evaluate_decisions

APP = typer.Typer()
evaluate.mount(APP)

QUICK = PollInterval(first=0.005, most=0.02)


@pytest.fixture
def vendor() -> Iterator[Fake]:
    with Fake() as fake:
        yield fake


@pytest.fixture
def run(vendor: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A finished run of a job that names its rows as a user does.

    Its base model always says "shipping", and its tuned model is nearly always right.
    """
    monkeypatch.chdir(tmp_path)
    rows = Path("rows.jsonl")
    labels = ("billing", "shipping", "returns")
    rows.write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"case {n} of {labels[n % 3]}"},
                        {"role": "assistant", "content": labels[n % 3]},
                    ]
                }
            )
            + "\n"
            for n in range(300)
        )
    )
    vendor.say = lambda prompt, *, tuned: prompt.split()[-1] if tuned and "7" not in prompt else "shipping"  # type: ignore[method-assign, assignment]
    job = TuningJob(
        name="tickets",
        dataset={"path": str(rows), "split": (0.5, 0.1, 0.4)},  # type: ignore[arg-type]
        model="m-1",
        hyperparameters=Hyperparameters(epochs=2),
        evaluation=EvaluationSpec(max_rows=100),
    )
    provider = FakeProvider("fake", FakeSettings.model_validate({"base_url": vendor.url, "window": 0.2, "timeout": 5}))
    started = start(job, provider)
    started.wait(pace=QUICK)
    return started


def llmtune(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments], input=stdin, catch_exceptions=False)


# --- report ---------------------------------------------------------------------
def test_a_report_is_shown_in_three_shapes(run: Run) -> None:
    result = llmtune("report", run.id[:6])
    assert result.exit_code == 0
    assert "Tuning helped: accuracy rose" in " ".join(result.stdout.replace("\u2502", " ").split())
    data = json.loads(llmtune("report", run.id, "--format", "json").stdout)
    assert Report.model_validate(data) == run.report()
    assert llmtune("report", "tickets", "-f", "markdown").stdout == run.report().to_markdown()


def test_a_report_is_written_to_a_file_and_read_from_it(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert llmtune("report", run.id, "--output", path).exit_code == 0
    assert Report.load(path) == run.report()
    assert llmtune("report", path, "-f", "markdown").stdout == run.report().to_markdown()


def test_a_report_that_is_not_there_is_a_sentence(tmp_path: Path, run: Run) -> None:
    with pytest.raises(RunNotFound):
        llmtune("report", "nope")
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    with pytest.raises(InvalidData, match="no llmtune report"):
        llmtune("report", broken)


# --- gate and diff ---------------------------------------------------------------------
@pytest.fixture
def weaker(run: Run, tmp_path: Path) -> Path:
    """The report of the base model, as if it were a run of its own."""
    report = run.report()
    result = report.evaluation
    assert isinstance(result, EvaluationResult)
    base = result.system("base")
    assert base is not None
    swapped = result.model_copy(update={"systems": {"tuned": base.model_copy(update={"name": "tuned"})}})
    weaker_report = report.model_copy(
        update={"evaluation": swapped, "identity": report.identity.model_copy(update={"run_id": "ltweaker0001"})}
    )
    path = tmp_path / "weaker.json"
    weaker_report.save(path)
    return path


def test_the_gate_tells_by_its_exit_code_and_writes_the_comment(run: Run, weaker: Path, tmp_path: Path) -> None:
    comment = tmp_path / "comment.md"
    better = llmtune("gate", run.id, "--baseline", weaker, "--better", "--comment", comment)
    assert better.exit_code == 0
    assert better.stdout.startswith("passed\nThe run is better than the baseline: accuracy")
    assert comment.read_text(encoding="utf-8").startswith("### \u2705 llmtune gate: passed")
    worse = llmtune("gate", weaker, "--baseline", run.id, "--not-worse", "1")
    assert worse.exit_code == 5
    assert "not passed" in worse.stdout
    itself = llmtune("gate", run.id, "--baseline", run.id, "--better")
    assert itself.exit_code == 5
    assert llmtune("gate", run.id, "--baseline", run.id, "--not-worse", "99").exit_code == 0
    for tests in ([], ["--better", "--not-worse", "1"]):
        assert llmtune("gate", run.id, "--baseline", weaker, *tests).exit_code == 2
    result = llmtune("gate", run.id, "--baseline", weaker, "--better", "--metric", "macro_f1", "-f", "json")
    data = json.loads(result.stdout)
    assert (data["metric"], data["passed"], data["paired"], data["unit"]) == ("macro_f1", True, True, "points")
    assert "llmtune gate: passed" in llmtune("gate", run.id, "--baseline", weaker, "--better", "-f", "markdown").stdout


def test_the_gate_does_not_guess_without_an_evaluation(run: Run, tmp_path: Path) -> None:
    bare = run.report().model_copy(update={"evaluation": Report.model_fields["evaluation"].default})
    bare.save(tmp_path / "bare.json")
    with pytest.raises(NotJudged, match="has no evaluation to compare"):
        llmtune("gate", run.id, "--baseline", tmp_path / "bare.json", "--better")


def test_the_gate_holds_a_run_to_a_promise(run: Run, tmp_path: Path) -> None:
    result = evaluate_decisions(EvaluationSpec(max_rows=500, calibration_rows=300))
    decided = run.report().model_copy(update={"evaluation": result})
    decided.save(tmp_path / "decided.json")
    words = ("gate", tmp_path / "decided.json", "--abstain-error", "0.05", "--min-coverage")
    passed = llmtune(*words, "0.4", "--comment", tmp_path / "gate.md")
    assert (passed.exit_code, passed.stdout.splitlines()[0]) == (0, "passed")
    assert (tmp_path / "gate.md").read_text(encoding="utf-8").startswith("### \u2705 llmtune gate: passed")
    failed = llmtune(*words, "0.9", "--json")
    assert (failed.exit_code, json.loads(failed.stdout)["passed"]) == (5, False)
    with pytest.raises(NotJudged, match="promises nothing"):
        llmtune("gate", run.id, *words[2:], "0.4")
    for options in (words[2:4], ("--min-coverage", "0.5"), (*words[2:], "0.4", "--better"), ()):
        assert llmtune("gate", run.id, *options).exit_code == 2


def test_a_finished_run_is_asked_a_panel_once_and_gated_by_it(run: Run, vendor: Fake, tmp_path: Path) -> None:
    questions = [
        {
            "id": f"sum-{n}",
            "skill": "sums",
            "messages": [{"role": "user", "content": f"the sum is {n}"}, {"role": "assistant", "content": str(n)}],
            "rules": [{"rule": "number", "value": n}],
        }
        for n in range(100)
    ]
    Path("sums.jsonl").write_text("\n".join(map(json.dumps, questions)))
    with pytest.raises(NotJudged, match="was asked no panel"):
        llmtune("gate", run.id, "--panel-margin", "5")
    prompts: list[str] = []

    def say(prompt: str, *, tuned: bool) -> str:
        prompts.append(prompt)
        return "100" if tuned and "9" in prompt else prompt.split()[-1]

    vendor.say = say  # type: ignore[method-assign, assignment]
    assert "What else changed" in llmtune("evaluate", run.id, "--panel", "sums.jsonl").stdout
    assert len(prompts) == 200  # of base and tuned model; the test rows were asked when the run ended
    assert "What else changed" in llmtune("evaluate", run.id, "--panel", "sums.jsonl").stdout
    assert len(prompts) == 200
    assert run.report().earlier_evaluations[-1].asked == 200
    lost = llmtune("gate", run.id, "--panel-margin", "5", "--json", "--comment", tmp_path / "gate.md")
    assert (lost.exit_code, json.loads(lost.stdout)["verdict"]) == (5, "worse")
    assert (tmp_path / "gate.md").read_text(encoding="utf-8").startswith("### \u274c llmtune gate: not passed")
    unclear = llmtune("gate", run.id, "--panel-margin", "19")
    assert (unclear.exit_code, unclear.stdout.splitlines()[0]) == (6, "undecided")
    assert llmtune("gate", run.id, "--panel-margin", "40").exit_code == 0
    with pytest.raises(NotJudged, match="the backend reports no likelihoods of tokens"):
        llmtune("gate", run.id, "--panel-margin", "1", "--metric", "log_likelihood")
    with pytest.raises(UnknownName, match="did you mean 'general'"):
        llmtune("evaluate", run.id, "--panel", "generall")
    for options in (["--baseline", run.id], ["--better"], ["--abstain-error", "0.02", "--min-coverage", "0.5"]):
        assert llmtune("gate", run.id, "--panel-margin", "5", *options).exit_code == 2


def test_a_diff_in_three_shapes(run: Run, weaker: Path) -> None:
    result = llmtune("diff", weaker, run.id)
    assert result.exit_code == 0
    assert "accuracy" in result.stdout
    assert "better" in result.stdout
    assert json.loads(llmtune("diff", weaker, run.id, "-f", "json").stdout)["run_b"] == run.id
    assert "| accuracy |" in llmtune("diff", weaker, run.id, "-f", "markdown").stdout
    itself = json.loads(llmtune("diff", run.id, run.id, "-f", "json").stdout)
    assert itself["settings"] == itself["facts"] == []
    assert {comparison["verdict"] for comparison in itself["comparisons"]} == {"not separable"}


# --- chat ---------------------------------------------------------------------
def test_one_question(run: Run) -> None:
    assert llmtune("chat", run.id, "case 1 of returns").stdout == "returns\n"


def test_each_line_of_a_pipe_is_a_question(run: Run, vendor: Fake) -> None:
    questions: list[str] = []

    def say(prompt: str, *, tuned: bool) -> str:
        questions.append(prompt)
        return f"[bold]{prompt}[/]\x1b[31m"

    vendor.say = say  # type: ignore[method-assign, assignment]
    result = llmtune("chat", run.id, stdin="one\n\ntwo\n")
    assert questions == ["one", "two"]
    assert result.stdout == "[bold]one[/]\\x1b[31m\n[bold]two[/]\\x1b[31m\n"


class Parrot:
    """A tuned model that says what it was asked, and how many turns it saw."""

    rules: object = None

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def generate(self, turns: list, **settings: object):  # type: ignore[no-untyped-def, type-arg]
        from llmtune.provider.generation import Generation

        self.seen.append([f"{turn.role}: {turn.words}" for turn in turns])
        if turns[-1].words == "fail":
            raise TransientError("too many requests")
        return Generation(text=f"you said {turns[-1].words}", finish_reason="stop")


class SureParrot(Parrot):
    """The same, with labels of its own; it is never sure enough."""

    rules = object()

    def decide(self, turns: list) -> dict[str, Decision]:  # type: ignore[type-arg]
        decision = Decision(
            question="answer", answer="no\x1b[31m", confidence=0.61, probabilities={"no": 0.61}, abstained=True
        )
        return {"answer": decision}


def test_chat_says_how_sure_a_calibrated_model_is(capsys: pytest.CaptureFixture[str]) -> None:
    conversation = evaluate._Conversation(SureParrot(), None)  # type: ignore[arg-type]
    answer = conversation.ask("hello")
    evaluate._print_answer(answer, conversation.decisions)
    captured = capsys.readouterr()
    assert captured.out == "you said hello\n"
    assert "61.0% sure, too little for the promise: ask a person)" in captured.err
    assert "\x1b[31m" not in captured.err


def test_a_conversation_remembers_until_told_to_forget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["hello", "fail", "again", "/new", "  ", "afresh", "/quit", "never asked"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(lines))
    parrot = Parrot()
    talk = evaluate._Conversation(parrot, "be brief", temperature=0.0, max_tokens=9)  # type: ignore[arg-type]
    evaluate._converse(talk)
    assert parrot.seen == [
        ["system: be brief", "user: hello"],
        ["system: be brief", "user: hello", "assistant: you said hello", "user: fail"],
        ["system: be brief", "user: hello", "assistant: you said hello", "user: again"],
        ["system: be brief", "user: afresh"],
    ]
    assert capsys.readouterr().out == "you said hello\nyou said again\nyou said afresh\n"


def test_the_end_of_input_ends_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(builtins, "input", end)
    evaluate._converse(evaluate._Conversation(Parrot(), None))  # type: ignore[arg-type]


def test_a_run_without_a_model_is_a_sentence(vendor: Fake, tmp_path: Path, run: Run) -> None:
    with pytest.raises(RunNotFound):
        llmtune("chat", "nope", "hello")


# --- evaluate --------------------------------------------------------------------------------------------------------
def test_evaluating_again_costs_nothing_and_keeps_what_was_there(run: Run, vendor: Fake) -> None:
    calls, first = vendor.counts["generate"], run.report()
    result = llmtune("evaluate", run.id, "--json")
    assert result.exit_code == 0
    report = Report.model_validate(json.loads(result.stdout))
    assert vendor.counts["generate"] == calls
    assert isinstance(first.evaluation, EvaluationResult)
    assert isinstance(report.evaluation, EvaluationResult)
    again, before = report.evaluation.system("tuned"), first.evaluation.system("tuned")
    assert again is not None and before is not None  # noqa: PT018
    assert again.metrics == before.metrics
    (earlier,) = report.earlier_evaluations
    assert (earlier.rows, earlier.asked) == (first.evaluation.rows, calls)
    assert isinstance(earlier.prompt_tokens, int)
    assert run.report() == report
    assert (first.evaluated_on, report.evaluated_on) == ("", ""), "these are the job's own test rows"


def test_other_rows_are_named_in_the_report(run: Run, tmp_path: Path) -> None:
    june = tmp_path / "june.jsonl"
    lines = (tmp_path / "rows.jsonl").read_text().replace("case", "matter").splitlines()[:20]
    june.write_text("".join(f"{line}\n" for line in lines))
    result = llmtune("evaluate", run.id, "--dataset", june, "--max-rows", 10)
    assert result.exit_code == 0
    assert "june.jsonl" in "".join(result.stdout.split())
    report = run.report()
    assert report.evaluated_on == str(june)
    assert isinstance(report.evaluation, EvaluationResult)
    assert (report.evaluation.rows, report.evaluation.available) == (10, 20)


def test_a_file_that_is_no_dataset_leaves_the_report_as_it_was(run: Run, tmp_path: Path) -> None:
    before = run.report()
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(InvalidData):
        llmtune("evaluate", run.id, "--dataset", empty)
    assert run.report() == before
