"""Metrics of one answer: matches, the final number, overlap by well-kept libraries, and the user's own functions."""

from __future__ import annotations

import json
import math
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.errors import InvalidData, InvalidJob, MissingExtra, UnknownName
from llmtune.metrics import text
from llmtune.metrics.points import TokenStats
from llmtune.metrics.registry import METRICS, Metric, get_metric
from llmtune.metrics.text import TokenFigures, final_number, perplexity_of, token_figures


def apply(metric: Metric, expected: str, got: str) -> float:
    """Score one answer by a text metric."""
    assert metric.score is not None
    return metric.score(expected, got)


def test_exact_and_normalised_match() -> None:
    assert text.exact_match("Paris", " Paris\n") == 1
    assert text.exact_match("Paris", "paris") == 0
    assert text.normalised_match("Paris", '"paris".') == 1
    assert text.normalised_match("New York", "new\n york") == 1
    assert text.normalised_match("New York", "newyork") == 0


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("so 9 * 2 = 18\n#### 18", 18),
        ("#### 1,234", 1234),
        ("#### $1,234.50", "1234.50"),
        ("####-5", -5),
        ("#### \u22125", -5),
        ("#### 18\nQuestion: and now?\n#### 99", 18),
        ("#### 70%", 70),
        ("#### 18.", 18),
        ("#### none", None),
        ("The answer is 18.", 18),
        ("It costs $3, in all 1,250.75 dollars", "1250.75"),
        ("between 1,2,3", 3),
        ("10-3", 3),
        ("it fell to -3", -3),
        ("x = -3", -3),
        ("about 1.5e3 units", 1500),
        (".5", "0.5"),
        ("version v2", 2),
        ("no number", None),
        ("", None),
    ],
)
def test_the_final_number(answer: str, number: int | str | None) -> None:
    assert final_number(answer) == (None if number is None else Decimal(number))


def test_final_answers_are_compared_by_value() -> None:
    assert text.final_answer("#### 18", "The answer is $18.00.") == 1
    assert text.final_answer("#### 18", "19, no: 18, or rather 17") == 0
    assert text.final_answer("#### 18", "eighteen") == 0
    with pytest.raises(InvalidData, match="holds no number"):
        text.final_answer("eighteen", "18")


@given(st.integers(-(10**9), 10**9), st.text(alphabet="abc .\n", max_size=20))
def test_any_integer_is_found_again(number: int, prefix: str) -> None:
    assert final_number(f"{prefix} {number:,}") == number
    assert final_number(f"7 {prefix}#### {number}") == number


def test_every_published_gsm8k_answer_has_a_final_number(shared: Path) -> None:
    lines = (shared / "data" / "originals" / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        answer = json.loads(line)["answer"]
        published = Decimal(answer.split("####")[1].strip().replace(",", ""))
        assert final_number(answer) == published
        assert text.final_answer(answer, f"so it must be {published}") == 1
        assert text.final_answer(answer, f"so it must be {published + 1}") == 0
    assert len(lines) == 1319


def test_rouge_l_is_the_librarys() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    for expected, got in [
        ("the quick brown fox jumps over the lazy dog", "The quick brown dog jumps on the log."),
        ("a_b 12-3", "a b 12 4"),
        ("same", "same"),
        ("one", "two"),
    ]:
        assert text.rouge_l(expected, got) == scorer.score(expected, got)["rougeL"].fmeasure


def test_rouge_l_reads_every_script() -> None:
    pytest.importorskip("rouge_score")
    assert text.rouge_l("καλημέρα κόσμε", "καλημέρα κόσμε") == 1
    assert text.rouge_l("καλημέρα κόσμε", "καλημέρα") == pytest.approx(2 / 3)
    assert text.rouge_l("今天天气好", "今天天气坏") == pytest.approx(0.8)
    assert text.rouge_l("x", "") == 0


def test_chrf_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    expected, got = "the cat sat on the mat", "the cat is on the mat"
    assert text.chrf(expected, got) == pytest.approx(sacrebleu.sentence_chrf(got, [expected]).score / 100)
    assert text.chrf("same words", "same words") == pytest.approx(1.0)
    assert text.chrf("x", "") == 0


@pytest.mark.parametrize(
    ("metric", "package"), [("rouge_l", "rouge_score.rouge_scorer"), ("chrf", "sacrebleu.metrics.chrf")]
)
def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, metric: str, package: str) -> None:
    text._rouge.cache_clear()
    text._chrf.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra) as caught:
        apply(METRICS[metric], "a", "b")
    assert caught.value.hint == "pip install 'llmtune-sdk[report]'"


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="exact_match"):
        get_metric("exact_mach")
    with pytest.raises(UnknownName, match="macro_f1"):
        get_metric("macro_f")


def test_a_function_of_ones_own() -> None:
    def length_error(expected: str, got: str) -> int:
        """Characters too many or too few."""
        return abs(len(expected) - len(got))

    length_error.better = "lower"  # type: ignore[attr-defined]
    metric = get_metric(length_error)
    assert (metric.name, metric.better, metric.says) == ("length_error", "lower", "Characters too many or too few.")
    assert apply(metric, "abc", "a") == 2.0
    assert apply(get_metric(lambda expected, got: expected == got), "a", "a") == 1.0


def test_a_function_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics_of_mine.py").write_text("def half(expected, got):\n    return 0.5\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    metric = get_metric("metrics_of_mine:half")
    assert metric.name == "metrics_of_mine:half"
    assert apply(metric, "a", "b") == 0.5
    assert sys.path == before


def test_faults_of_ones_own_function_are_sentences() -> None:
    with pytest.raises(InvalidJob, match="cannot be loaded"):
        get_metric("no_such_module_here:f")
    with pytest.raises(InvalidJob, match="has no function 'nope'"):
        get_metric("json:nope")
    with pytest.raises(InvalidJob, match="failed on the answer 'b': ZeroDivisionError"):
        apply(get_metric(lambda expected, got: 1 / 0), "a", "b")
    with pytest.raises(InvalidJob, match="must return a number, not 'good'"):
        apply(get_metric(lambda expected, got: "good"), "a", "b")  # type: ignore[arg-type, return-value]


def test_token_figures_weigh_every_token_the_same() -> None:
    stats = [TokenStats(loss_sum=2.0, tokens=1, correct=0), TokenStats(loss_sum=3.0, tokens=9, correct=9)]
    figures = token_figures(stats)
    assert figures.loss == 0.5
    assert figures.perplexity == pytest.approx(math.exp(0.5))
    assert figures.token_accuracy == 0.9
    assert (figures.rows, figures.tokens) == (2, 10)
    with pytest.raises(InvalidData):
        token_figures([])


def test_a_diverged_loss_has_infinite_perplexity_and_survives_json() -> None:
    assert perplexity_of(1000) == math.inf
    figures = token_figures([TokenStats(loss_sum=math.inf, tokens=3, correct=0)])
    assert TokenFigures.model_validate_json(figures.model_dump_json()) == figures
