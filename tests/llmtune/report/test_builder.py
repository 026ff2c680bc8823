"""The report: there and back through JSON, what is not known said, and the published schema."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.errors import InvalidData, MissingExtra, UnknownName
from llmtune.metrics.points import MetricPoint, NotReported, Series
from llmtune.metrics.samples import Sample
from llmtune.provider.types import RunState
from llmtune.report.builder import RunFacts, build_report, current_environment
from llmtune.report.format import difference, escape_control_chars, number, one_line, seconds
from llmtune.report.schema import ReceiptRow, Report, schema
from llmtune.report.summary import summary_rows
from tests.llmtune.report.conftest import STATES, evaluation, identity, make, points, receipt


@pytest.mark.parametrize("name", ["report", "hosted", "failed"])
def test_a_report_goes_to_json_and_back(name: str, request: pytest.FixtureRequest) -> None:
    original = request.getfixturevalue(name)
    assert Report.from_json(original.to_json()) == original
    assert Report.model_validate(original.model_dump(mode="json")) == original
    assert Report.model_validate(json.loads(json.dumps(original.model_dump(mode="json")))) == original


def test_a_diverged_run_goes_to_json_and_back() -> None:
    broken = make(points=[MetricPoint(step=s, series="train/loss", value=math.nan) for s in (1, 2, 3)])
    text = broken.to_json()
    assert "NaN" in text
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert repr(Report.from_json(text).series) == repr(broken.series)
    assert broken.diagnosis.verdict == "diverged"


@pytest.mark.parametrize("name", ["report", "hosted", "failed"])
def test_every_report_keeps_the_published_schema(name: str, request: pytest.FixtureRequest) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = schema()
    jsonschema.Draft202012Validator.check_schema(document)
    validator = jsonschema.Draft202012Validator(document)
    assert list(validator.iter_errors(json.loads(request.getfixturevalue(name).to_json()))) == []
    assert list(validator.iter_errors({"schema_version": 1})) != []


def test_where_training_stopped_is_said() -> None:
    sentence = "stopped after 4 of at most 10 epochs: validation no longer improved; step 40 was kept"
    report = make(resolved={"stopping": sentence})
    assert report.stopping == sentence
    assert ("training", sentence) in list(summary_rows(report))
    assert "training" not in dict(summary_rows(make()))


def test_the_schema_names_its_version() -> None:
    assert schema()["properties"]["schema_version"]["const"] == 1


def test_a_report_of_a_newer_llmtune_is_refused_with_the_remedy(report: Report) -> None:
    newer = json.loads(report.to_json()) | {"schema_version": 2, "hologram": True}
    with pytest.raises(InvalidData, match="schema version 2") as caught:
        Report.from_json(json.dumps(newer))
    assert caught.value.hint == "pip install -U llmtune-sdk"
    with pytest.raises(InvalidData, match="no llmtune report"):
        Report.from_json("[]")
    with pytest.raises(InvalidData, match="no llmtune report"):
        Report.from_json("not json")
    with pytest.raises(InvalidData, match=r"no valid report: identity\.run_id"):
        Report.from_json('{"schema_version": 1, "identity": {"run_id": 7}}')


def test_saving_and_loading(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report
    report.save(tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == report.to_markdown()
    report.save(tmp_path / "report.txt")
    assert (tmp_path / "report.txt").read_text(encoding="utf-8") == report.to_text()


# --- what is not known ---------------------------------------------------------------------
def test_what_is_not_known_is_a_value_with_a_reason(hosted: Report, failed: Report) -> None:
    assert isinstance(hosted.series["validation/loss"], NotReported)
    assert isinstance(hosted.final["validation/loss"], NotReported)
    assert failed.evaluation == NotReported("the run was not evaluated")
    assert failed.snippet == NotReported("there is no tuned model to call")
    assert isinstance(failed.cost.billed, NotReported)
    assert isinstance(failed.timing.training, NotReported)
    assert isinstance(make(points=[]).timing.tokens_per_second, float)  # from billed tokens and time
    assert isinstance(make(points=[], billed=None).timing.tokens_per_second, NotReported)


def test_a_backends_reason_for_a_missing_curve_is_kept() -> None:
    report = make(points=[], not_reported={"train/loss": "the service shows no curves"})
    assert report.series["train/loss"] == NotReported("the service shows no curves")
    assert "the service shows no curves" in report.to_text()
    assert "the service shows no curves" in report.to_markdown()


def test_zero_is_not_the_same_as_unknown() -> None:
    free = make(billed=None)
    assert free.cost.estimated == 0.0
    assert isinstance(free.cost.billed, NotReported)


# --- put together ---------------------------------------------------------------------
def test_times_come_from_the_states() -> None:
    timing = make().timing
    assert (timing.queued, timing.training, timing.total, timing.evaluating) == (4.0, 95.0, 110.0, 7.5)
    paused = [*STATES[:5], (RunState.PAUSED, 30.0), (RunState.RUNNING, 50.0), *STATES[5:]]
    assert make(transitions=paused).timing.training == 75.0


def test_the_receipt_has_every_field_and_what_the_backend_chose() -> None:
    report = make(resolved={"batch_size": 8, "epochs": 99})
    rows = {row.field: row for row in report.receipt}
    assert set(rows) == {row.field for row in receipt().fields}
    assert rows["batch_size"].effective == 8
    assert rows["batch_size"].reason == "chosen by the backend"
    assert (rows["epochs"].requested, rows["epochs"].effective) == (3, 99), "what the backend says it used"
    assert "epochs: asked 3, the vendor used 99" in report.warnings
    assert not any(warning.startswith("batch_size") for warning in report.warnings)
    assert rows["lora_target_modules"].requested == ["q_proj", "v_proj"]


def test_warnings_are_kept_once_and_the_evaluations_come_too(hosted: Report) -> None:
    assert len(hosted.warnings) == len(set(hosted.warnings))
    assert any("paid deployment" in warning for warning in hosted.warnings)


def test_the_diagnosis_uses_scores_and_curves(report: Report) -> None:
    assert report.diagnosis.verdict == "good fit"
    assert "train" in report.diagnosis.sentence
    assert report.diagnosis.evidence


def test_the_environment_names_versions() -> None:
    environment = current_environment(packages=("pydantic", "no-such-package"))
    assert list(environment.versions) == ["pydantic"]
    assert environment.python.count(".") == 2


def test_the_smallest_report(tmp_path: Path) -> None:
    smallest = build_report(RunFacts(identity=identity(state=RunState.RUNNING), receipt=receipt(), job={}))
    assert Report.from_json(smallest.to_json()) == smallest
    assert smallest.headline == "The run is not over yet: it is running."
    assert smallest.to_text()
    assert smallest.to_markdown()


# --- the verdict in words ---------------------------------------------------------------------
def test_headlines(report: Report, hosted: Report, failed: Report) -> None:
    assert report.headline.startswith("Tuning helped: accuracy rose from 33.3% to 86.7% (+53.3 points, 95% interval")
    assert "p < 0.001" in report.headline
    assert "the base model was not asked: the base model needs a paid deployment" in hosted.headline
    assert failed.headline == "The run failed: the training file has 2 rows that are too long"
    cancelled = make(identity=identity(state=RunState.CANCELLED), evaluation=None)
    assert cancelled.headline == "The run was cancelled; there is no model."
    unevaluated = make(evaluation=NotReported("the service answers no questions"))
    assert unevaluated.headline == "A model was tuned, and not evaluated: the service answers no questions"


def test_a_difference_that_can_be_chance_is_called_so_in_those_words() -> None:
    from tests.llmtune.evaluation.conftest import Scripted, often

    same = make(evaluation=evaluation(generators={"base": Scripted(often), "tuned": Scripted(often)}, fit_rows=0))
    assert "are not separable" in same.headline
    assert "; not certain on 120 rows" in same.headline
    assert "not separable" in same.to_text()
    assert "not separable" in same.to_markdown()


def test_harm_is_called_harm() -> None:
    from tests.llmtune.evaluation.conftest import Scripted, often

    worse = make(
        evaluation=evaluation(generators={"base": Scripted(often), "tuned": Scripted(lambda _: "bug")}, fit_rows=0)
    )
    assert worse.headline.startswith("Tuning hurt: accuracy fell from 86.7% to 33.3%")
    assert "not separable from the tuned model" in worse.headline  # the majority class does as well


def test_numbers_in_words() -> None:
    assert number(0.9104, "share") == "91.0%"
    assert number(2.34567) == "2.346"
    assert number(123.456) == "123.5"
    assert number(123456.7) == "123,457"
    assert number(1e-5) == "1e-05"
    assert number(0.0) == "0.000"
    assert number(math.nan) == "not a number"
    assert number(math.inf) == "infinite"
    assert difference(0.01, "share") == "+1.0 point"
    assert difference(-0.0421, "share") == "-4.2 points"
    assert seconds(0.0421) == "42 ms"
    assert seconds(9.44) == "9.4 s"
    assert seconds(95) == "1 min 35 s"
    assert seconds(3900) == "1 h 05 min"


@given(st.text())
def test_no_control_character_gets_through(text: str) -> None:
    for escaped in (escape_control_chars(text), one_line(text)):
        assert not any(ord(char) < 32 and char != "\n" for char in escaped)
        assert not any(0x7F <= ord(char) < 0xA0 for char in escaped)
        assert "\u202e" not in escaped


# --- pandas ---------------------------------------------------------------------
def test_tables_as_data_frames(report: Report) -> None:
    pandas = pytest.importorskip("pandas")
    series = report.to_pandas()
    assert isinstance(series, pandas.DataFrame)
    assert len(series) == sum(len(curve) for curve in report.series.values() if isinstance(curve, Series))
    assert set(series["source"]) == {"computed"}
    metrics = report.to_pandas("metrics")
    row = metrics[(metrics.system == "tuned") & (metrics.metric == "accuracy")].iloc[0]
    assert row.low < row.value < row.high
    assert set(metrics.system) == {"base", "linear", "tuned", "majority"}
    assert set(report.to_pandas("receipt").field) == {row.field for row in report.receipt}
    assert list(report.to_pandas("classes").label) == ["bug", "feature", "question"] * 3
    assert "prompt" in report.to_pandas("worst").columns


def test_empty_tables_have_their_columns(failed: Report) -> None:
    pytest.importorskip("pandas")
    for table in ("series", "metrics", "classes", "worst"):
        frame = failed.to_pandas(table)  # type: ignore[arg-type]
        assert len(frame) == 0
        assert len(frame.columns) > 5


def test_an_unknown_table_and_a_missing_pandas(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="metrics"):
        report.to_pandas("metric")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match="pandas"):
        report.to_pandas()


def test_importing_the_report_brings_nothing_heavy() -> None:
    heavy = "('numpy', 'sklearn', 'scipy', 'pandas', 'rich', 'torch', 'sqlalchemy')"
    code = f"import sys, llmtune.report; print([name for name in {heavy} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_a_notebook_shows_markdown(report: Report) -> None:
    assert report._repr_markdown_() == report.to_markdown()


def test_points_are_as_many_as_were_given(report: Report) -> None:
    assert sum(len(curve) for curve in report.series.values() if isinstance(curve, Series)) == len(points())


def test_a_field_that_was_never_set_is_not_lost() -> None:
    assert not ReceiptRow(field="warmup_ratio", support="unsupported", reason="no knob").lost
    assert ReceiptRow(field="warmup_ratio", support="unsupported", requested=0.1, reason="no knob").lost
    assert not ReceiptRow(field="warmup_ratio", support="sent", requested=0.1).lost


# --- answers while training ------------------------------------------------------------------------------------------
def sampled(*steps: int, rows: int = 2, text: str = "answer") -> list[Sample]:
    return [
        Sample(step=step, number=number, prompt=f"question {number}", expected="yes", answer=f"{text} {step}")
        for step in steps
        for number in range(1, rows + 1)
    ]


def test_answers_while_training_are_rows_with_an_answer_a_step_and_go_to_json_and_back() -> None:
    report = make(samples=list(reversed(sampled(0, 10, 20))))
    assert [row.prompt for row in report.samples] == ["question 1", "question 2"]
    assert report.samples[0].answers == {0: "answer 0", 10: "answer 10", 20: "answer 20"}
    assert Report.from_json(report.to_json()) == report
    assert make().samples == ()
    assert "Answers while training" not in make().to_markdown()


def test_answers_while_training_are_in_every_rendering() -> None:
    report = make(samples=sampled(0, 10, 20, text="\x1b[31m<b>|"))
    for text in (report.to_text(100), report.to_markdown(), report.to_html()):
        assert "Answers while training" in text
        assert "question 1" in text
        assert "step 20" in text
        assert "\x1b[31m" not in text
    assert "<b>|" not in report.to_html()
    assert "question 2" in report.to_markdown()
    assert "1 more row" in report.to_text(100)


def test_of_many_steps_the_first_the_last_and_the_last_changes_are_shown() -> None:
    samples = [
        Sample(step=step, number=1, prompt="q", answer="same" if step < 50 else f"at {step}")
        for step in range(0, 100, 10)
    ]
    text = make(samples=samples).to_markdown()
    assert [step for step in range(0, 100, 10) if f"step {step} " in text] == [0, 60, 70, 80, 90]
    assert len(make(samples=samples).samples[0].answers) == 10
