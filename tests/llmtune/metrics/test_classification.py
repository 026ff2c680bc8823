"""Classification: label matching, what counts as outside, figures equal to scikit-learn's, and published
label pairs with their published reports, reproduced to the printed digit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune.errors import InvalidData, InvalidJob, UnknownName
from llmtune.metrics.classification import ClassificationResult, classify
from llmtune.metrics.labels import RULES, check_labels, label_rule, normalise, rule_for


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("card_arrival", "card_arrival"),
        ("  Card_Arrival.\n", "card_arrival"),
        ('"card_arrival".', "card_arrival"),
        ("**card_arrival**", "card_arrival"),
        ("`card_arrival`!", "card_arrival"),
        ("Card_arrival\u2026", "card_arrival"),
        ("the label is card_arrival", None),
        ("card arrival", None),
        ("", None),
        (None, None),
    ],
)
def test_the_normalised_rule(answer: str | None, label: str | None) -> None:
    assert label_rule("normalised").reader(["card_arrival", "lost_card"])(answer) == label


def test_normalising_twice_changes_nothing() -> None:
    for text in ("'a.'", 'a."."', " A ", "...", "C#", "C++", "STRASSE", "Straße."):
        assert normalise(normalise(text)) == normalise(text)
    assert normalise("C#") == "c#"
    assert normalise("C++.") == "c++"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("I think this is a bug.", "bug"),
        ("bug or feature?", None),
        ("debugging", None),
        ("It is a feature request", "feature request"),
        ("feature", "feature"),
    ],
)
def test_the_mentioned_rule_wants_exactly_one_label_as_a_whole_word(answer: str, label: str | None) -> None:
    read = label_rule("mentioned").reader(["bug", "feature", "feature request"])
    assert read(answer) == label


def test_the_exact_rule_forgives_nothing() -> None:
    read = label_rule("exact").reader(["bug"])
    assert read("bug") == "bug"
    assert read("Bug") is read("bug ") is None


def test_an_exact_answer_wins_over_a_normalised_one() -> None:
    assert label_rule("normalised").match("b.", ["B", "b."]) == "b."


def test_labels_the_rule_cannot_tell_apart_are_refused_by_name() -> None:
    with pytest.raises(InvalidJob, match=r"'Yes' and 'yes\.' are the same under the rule 'normalised'"):
        check_labels(["Yes", "no", "yes."], RULES["normalised"])
    assert check_labels(["Yes", "no", "yes."], RULES["exact"]) == ("Yes", "no", "yes.")
    assert rule_for(["Yes", "no", "yes."]).name == "exact"
    assert rule_for(["yes", "no"]).name == "normalised"


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="normalised"):
        label_rule("normalized")


def test_the_result_says_its_rule() -> None:
    result = classify(["a", "b"], ["A.", "b"], rule="normalised")
    assert result.rule == "normalised"
    assert "case" in result.rule_says
    assert result.accuracy == 1.0
    assert classify(["a", "b"], ["A.", "b"], rule="exact").accuracy == 0.5


def test_mistakes_are_answered_in_sentences() -> None:
    with pytest.raises(InvalidData, match="2 true labels and 1 answers"):
        classify(["a", "b"], ["a"])
    with pytest.raises(InvalidData, match="no rows"):
        classify([], [])
    with pytest.raises(InvalidData, match=r"row 2: the true label 'card_arival' .* did you mean 'card_arrival'"):
        classify(["x", "card_arival"], ["x", "x"], labels=["x", "card_arrival"])
    with pytest.raises(InvalidJob, match="empty"):
        classify(["a"], ["a"], labels=[])
    with pytest.raises(InvalidJob, match="beta must be above 0"):
        classify(["a"], ["a"], beta=0)


def test_labels_that_never_occur_have_no_support_and_count_in_the_macro_mean() -> None:
    result = classify(["a", "a"], ["a", "a"], labels=["a", "b"])
    assert result["b"].support == result["b"].predicted == 0
    assert result.macro.f1 == 0.5
    assert result.weighted.f1 == 1.0


def test_the_majority_class() -> None:
    assert classify(["a", "b", "b"], ["a", "a", "a"]).majority == ("b", 2 / 3)


def test_outside_answers_are_listed_by_count_and_no_answer_is_one_of_them() -> None:
    result = classify(["a"] * 5, ["z", "z", None, "a", "y"], labels=["a"])
    assert result.outside == 4
    assert [(outside.answer, outside.count) for outside in result.outside_answers] == [("z", 2), (None, 1), ("y", 1)]
    assert result.confusion == ((1, 4),)


ROWS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcdxy")), min_size=1, max_size=60)


@pytest.mark.slow
@settings(max_examples=60)
@given(ROWS, st.sampled_from([0.5, 1.0, 2.0]))
def test_every_figure_is_scikit_learns(rows: list[tuple[str, str]], beta: float) -> None:
    from sklearn import metrics

    true, answers = [t for t, _ in rows], [s for _, s in rows]
    labels = ["a", "b", "c", "d"]
    result = classify(true, answers, labels, rule="exact", beta=beta)
    assert result.accuracy == metrics.accuracy_score(true, answers)
    for average in ("macro", "micro", "weighted"):
        figures = getattr(result, average)
        options = {"labels": labels, "average": average, "zero_division": 0.0}
        assert figures.precision == pytest.approx(metrics.precision_score(true, answers, **options))
        assert figures.recall == pytest.approx(metrics.recall_score(true, answers, **options))
        assert figures.f1 == pytest.approx(metrics.f1_score(true, answers, **options))
        assert figures.f_beta == pytest.approx(metrics.fbeta_score(true, answers, beta=beta, **options))
    square = metrics.confusion_matrix(true, answers, labels=labels)
    assert np.array_equal(np.array(result.confusion)[:, :-1], square)
    assert sum(row[-1] for row in result.confusion) == result.outside == sum(s not in labels for s in answers)
    expected = metrics.classification_report(true, answers, labels=labels, zero_division=0.0)
    # scikit-learn 1.9 prints some supports as "1.0"; that apart the tables are the same, cell by cell.
    cells = [re.sub(r"^(\d+)\.0$", r"\1", cell) for cell in expected.split()]
    assert result.to_text().split() == cells


def test_a_result_survives_json() -> None:
    result = classify(["a", "b", "b"], ["a", None, "q"], beta=2.0)
    assert ClassificationResult.model_validate_json(result.model_dump_json()) == result


# --- published results
# The material is of a public repository on issue-report classification (MIT): 300 true and predicted labels a set, and
# the scikit-learn report its authors printed as a data frame. One pair of files does not belong together: it must be
# told apart.
LABELS = ("bug", "feature", "question")
GENUINE = ("bitcoin", "facebook_new", "microsoft_new", "opencv", "tensorflow", "tensorflow_new")
PAIR = re.compile(r"Correct GitHub Issue type:(?P<true>.*)\nPredicted GitHub Issue type:(?P<said>.*)")


def pairs(folder: Path, name: str) -> tuple[list[str], list[str]]:
    """Return true labels and answers. Lines between the pairs (a retry's notice) are no answers."""
    text = (folder / f"pairs_{name}.txt").read_text(encoding="utf-8")
    text = re.sub(r"^Attempt .*\n", "", text, flags=re.MULTILINE)
    matches = PAIR.findall(text)
    return [true.strip() for true, _ in matches], [answer.removeprefix(" ") for _, answer in matches]


def published(folder: Path, name: str) -> dict[str, list[str]]:
    """Row name -> the four figures, as they were printed."""
    rows = {}
    for line in (folder / f"report_{name}.txt").read_text(encoding="utf-8").splitlines()[1:]:
        *label, precision, recall, f1, support = line.split()
        rows[" ".join(label)] = [precision, recall, f1, support]
    return rows


def ours(result: ClassificationResult) -> dict[str, list[float]]:
    rows = {}
    for name, row in result.to_dict().items():
        rows[name] = (
            [row] * 4 if name == "accuracy" else [row[k] for k in ("precision", "recall", "f1-score", "support")]
        )
    return rows


def differences(result: ClassificationResult, report: dict[str, list[str]]) -> list[str]:
    """Return the published figures that ours, printed with as many digits, do not equal."""
    figures = ours(result)
    faults = [f"row {name!r} on one side only" for name in figures.keys() ^ report.keys()]
    for name in figures.keys() & report.keys():
        for column, mine_value, printed in zip(("p", "r", "f1", "n"), figures[name], report[name], strict=True):
            digits = len(printed.partition(".")[2])
            if f"{mine_value:.{digits}f}" != printed:
                faults.append(f"{name} {column}: {mine_value:.{digits}f}, published {printed}")
    return faults


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "results" / "classification"


@pytest.fixture(scope="session")
def frame_text() -> object:
    pandas = pytest.importorskip("pandas")

    def show(result: ClassificationResult) -> str:
        return str(pandas.DataFrame(result.to_dict()).transpose().to_string()) + "\n"

    return show


@pytest.mark.parametrize("name", GENUINE)
def test_every_printed_digit_is_reproduced(folder: Path, name: str) -> None:
    true, answers = pairs(folder, name)
    assert len(true) == len(answers) == 300
    assert differences(classify(true, answers, LABELS), published(folder, name)) == []


@pytest.mark.parametrize("name", GENUINE)
def test_the_printed_data_frame_is_reproduced_to_the_character(folder: Path, name: str, frame_text) -> None:  # type: ignore[no-untyped-def]
    true, answers = pairs(folder, name)
    printed = (folder / f"report_{name}.txt").read_text(encoding="utf-8")
    assert frame_text(classify(true, answers, LABELS)) == printed


def test_the_pair_that_does_not_belong_together_is_caught(folder: Path) -> None:
    true, answers = pairs(folder, "facebook")
    faults = differences(classify(true, answers, LABELS), published(folder, "facebook"))
    assert any(fault.startswith("bug") for fault in faults)
    assert any(fault.startswith("accuracy") for fault in faults)


@pytest.mark.parametrize("name", [*GENUINE, "facebook"])
def test_the_text_table_is_scikit_learns(folder: Path, name: str) -> None:
    from sklearn.metrics import classification_report

    true, answers = pairs(folder, name)
    result = classify(true, answers, LABELS, rule="exact")
    for digits in (2, 4, 6):
        expected = classification_report(true, answers, labels=list(LABELS), digits=digits, zero_division=0.0)
        assert result.to_text(digits) == expected


@pytest.mark.parametrize(("name", "answer"), [("bitcoin", ""), ("opencv", "class")])
def test_the_answer_outside_the_set_is_counted_and_listed(folder: Path, name: str, answer: str) -> None:
    true, answers = pairs(folder, name)
    result = classify(true, answers, LABELS)
    assert result.outside == 1
    assert [(outside.answer, outside.count) for outside in result.outside_answers] == [(answer, 1)]
    assert sum(row[-1] for row in result.confusion) == 1
    assert sum(map(sum, result.confusion)) == 300
    assert result.accuracy == result.correct / 300 == result.micro.recall
    assert result.micro.precision == result.correct / 299


def test_a_dropped_outside_answer_would_have_been_noticed(folder: Path) -> None:
    """The other negative control: leaving the outside row out gives other figures than the published ones."""
    true, answers = pairs(folder, "opencv")
    inside = [(t, s) for t, s in zip(true, answers, strict=True) if s in LABELS]
    result = classify([t for t, _ in inside], [s for _, s in inside], LABELS)
    assert differences(result, published(folder, "opencv"))
