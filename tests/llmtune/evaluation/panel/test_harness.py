"""Tasks of lm-evaluation-harness as panels: its documents, filters and metrics, of a task file with rows beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidData, MissingExtra
from llmtune.evaluation.panel.harness import MAX_DOCUMENTS, load_harness_panel
from llmtune.evaluation.panel.measure import PanelRun
from llmtune.evaluation.panel.questions import load_panel
from llmtune.evaluation.panel.rules import PanelAnswer
from llmtune.evaluation.predictions import ModelAccess
from llmtune.evaluation.results import PanelResult
from llmtune.job.spec import EvaluationSpec, TuningJob
from llmtune.provider.generation import GenerationRequest
from tests.llmtune.evaluation.conftest import Scripted

#: Importing the harness takes seconds.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("harness")]

GENERATE = """
task: plums
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_text: "Ann has {{first}} plums and gets {{second}}. How many has she?"
doc_to_target: "{{total}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 12}
filter_list:
  - name: last-number
    filter:
      - {function: regex, regex_pattern: "(\\\\d+)"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""

CHOOSE = """
task: more-plums
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{first}} plums and {{second}} more are"
doc_to_choice: "{{['few', total, 'no plums at all']}}"
doc_to_target: 1
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture
def write_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def write(text: str, rows: int = 6) -> str:
        documents = [{"first": number, "second": 3, "total": str(number + 3)} for number in range(rows)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
        path = tmp_path / "task.yaml"
        path.write_text(text.replace("ROWS", str(tmp_path / "rows.jsonl")))
        return f"lm-eval:{path}"

    return write


def test_a_task_that_is_written_is_scored_by_its_own_filter_and_metric(write_task: Any) -> None:
    panel = load_panel(write_task(GENERATE))
    assert (len(panel.questions), panel.max_tokens) == (6, 12)
    question = panel.questions[0]
    assert question.row.prompt()[0].content == "Ann has 0 plums and gets 3. How many has she?"
    assert question.row.completion() == "3"
    assert (question.id, question.skill) == ("plums-1", "plums")
    assert question.is_right(PanelAnswer("She has 3."))
    assert question.is_right(PanelAnswer("3\n\nAnn has 4 plums"))
    assert not question.is_right(PanelAnswer("4 and not 3"))
    assert not question.is_right(PanelAnswer("\n\n3"))
    assert not question.is_right(PanelAnswer(""))


def test_the_same_task_has_the_same_hash_and_another_one_has_not(write_task: Any) -> None:
    first = load_panel(write_task(GENERATE))
    assert load_panel(write_task(GENERATE)).sha256 == first.sha256
    assert load_panel(write_task(GENERATE, rows=7)).sha256 != first.sha256


def test_of_many_documents_some_are_asked_the_same_every_time(write_task: Any) -> None:
    name = write_task(GENERATE, rows=MAX_DOCUMENTS + 40)
    panel = load_panel(name)
    assert len(panel.questions) == MAX_DOCUMENTS
    assert [question.id for question in load_panel(name).questions] == [question.id for question in panel.questions]


class Choosing(Scripted):
    """Finds the choice likeliest that ends in its letter; asked to write, it writes nothing."""

    def __init__(self, ending: str) -> None:
        super().__init__(lambda prompt: "")
        self.ending = ending

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        return [[-1.0 if label.endswith(self.ending) else -5.0 for label in labels] for _ in requests]


def ask(name: str, base: Any, tuned: Any) -> PanelResult:
    from llmtune._retry import RetryPolicy

    run = PanelRun(load_panel(name), EvaluationSpec())
    for system, model in (("base", base), ("tuned", tuned)):
        run.ask(system, model, ModelAccess(None, None, RetryPolicy(tries=1), lambda *_: None))
    return run.build_result(resamples=200)


def test_of_choices_the_likeliest_counts(write_task: Any) -> None:
    result = ask(write_task(CHOOSE), Choosing("5"), Choosing("w"))
    base, tuned = result.system("base"), result.system("tuned")
    assert base is not None
    assert tuned is not None
    assert (base.accuracy.value, tuned.accuracy.value) == (pytest.approx(1 / 6), 0.0)
    assert (result.lost[0].before, result.lost[0].after) == ("5", "few")


def test_a_backend_without_likelihoods_says_why_it_is_not_asked(write_task: Any) -> None:
    result = ask(write_task(CHOOSE), Scripted(lambda prompt: "5"), Scripted(lambda prompt: "5"))
    reasons = {str(system) for system in result.systems.values()}
    assert all("reports no likelihoods of given answers" in reason for reason in reasons), reasons


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("output_type: generate_until", "output_type: loglikelihood"), "is a task of kind loglikelihood"),
        (("exact_match", "bleu"), "has no metric that is 0 or 1 for one answer"),
        (("{{total}}", "{{nothing.at.all}}"), "cannot be read"),
        (("dataset_path: json", "dataset_path: no-such-kind-of-file"), "cannot be read"),
        (("task: plums", "task: [plums"), "cannot be read"),
        (("{{total}}", ""), "has no document with an answer"),
    ],
)
def test_a_task_that_cannot_be_asked_is_one_sentence(write_task: Any, change: tuple[str, str], sentence: str) -> None:
    name = write_task(GENERATE.replace(*change))
    with pytest.raises(InvalidData, match=sentence) as caught:
        load_panel(name)
    assert "\n" not in caught.value.message


def test_a_metric_that_fails_on_an_answer_loses_the_panel_alone(write_task: Any) -> None:
    from llmtune.evaluation.evaluate import AnswerOptions, evaluate
    from llmtune.metrics.points import NotReported
    from tests.llmtune.evaluation.conftest import ticket, truth

    panel = load_panel(write_task(GENERATE))

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("nothing to divide by")

    panel.questions[0].task.process_results = fail  # type: ignore[attr-defined]
    models = {name: Scripted(lambda prompt: truth(prompt) if "ticket" in prompt else "3") for name in ("base", "tuned")}
    options = AnswerOptions(panel=PanelRun(panel, EvaluationSpec()))
    result = evaluate([ticket(number) for number in range(9)], models, answering=options)
    assert isinstance(result.panel, NotReported)
    assert "exact_match of plums failed on an answer: ZeroDivisionError" in result.panel.reason
    assert result.rows == 9


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(InvalidData, match=r"task\.yaml does not exist"):
        load_panel(f"lm-eval:{tmp_path / 'task.yaml'}")


def test_names_of_the_hub_are_refused_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InvalidData, match="the documents of lm-eval:arc_easy are not on this machine") as caught:
        load_panel("lm-eval:arc_easy")
    assert "lm-eval:task.yaml" in str(caught.value.hint)
    with pytest.raises(InvalidData, match="'arc_esy' is no task of the harness"):
        load_panel("lm-eval:arc_esy")
    with pytest.raises(InvalidData, match="'mmlu' is a group of tasks"):
        load_panel("lm-eval:mmlu")


def test_without_the_harness_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(MissingExtra) as caught:
        load_harness_panel("lm-eval:arc_easy")
    assert "llmtune-sdk[harness]" in str(caught.value.hint)


def test_a_path_is_read_from_the_folder_of_the_job(tmp_path: Path) -> None:
    job = tmp_path / "jobs" / "job.yaml"
    job.parent.mkdir()
    job.write_text("name: a\ndataset: rows.jsonl\nmodel: m\nevaluation: {panel: 'lm-eval:tasks/plums.yaml'}\n")
    assert TuningJob.load(job).evaluation.panel == f"lm-eval:{job.parent / 'tasks/plums.yaml'}"
    job.write_text("name: a\ndataset: rows.jsonl\nmodel: m\nevaluation: {panel: 'lm-eval:arc_easy'}\n")
    assert TuningJob.load(job).evaluation.panel == "lm-eval:arc_easy"
