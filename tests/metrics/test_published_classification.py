"""Published label pairs and their published reports, reproduced to the printed digit.

The material is of a public repository on issue-report classification (MIT): 300 true and predicted labels a set, and
the scikit-learn report its authors printed as a data frame. One pair of files does not belong together: it must be
told apart.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmtune.metrics.classification import ClassificationResult, classify

LABELS = ("bug", "feature", "question")
GENUINE = ("bitcoin", "facebook_new", "microsoft_new", "opencv", "tensorflow", "tensorflow_new")
PAIR = re.compile(r"Correct GitHub Issue type:(?P<true>.*)\nPredicted GitHub Issue type:(?P<said>.*)")


def pairs(folder: Path, name: str) -> tuple[list[str], list[str]]:
    """True labels and answers. Lines between the pairs (a retry's notice) are no answers."""
    text = (folder / f"pairs_{name}.txt").read_text(encoding="utf-8")
    text = re.sub(r"^Attempt .*\n", "", text, flags=re.MULTILINE)
    found = PAIR.findall(text)
    return [true.strip() for true, _ in found], [said.removeprefix(" ") for _, said in found]


def published(folder: Path, name: str) -> dict[str, list[str]]:
    """Row name -> the four figures, as they were printed."""
    rows = {}
    for line in (folder / f"report_{name}.txt").read_text(encoding="utf-8").splitlines()[1:]:
        *words, precision, recall, f1, support = line.split()
        rows[" ".join(words)] = [precision, recall, f1, support]
    return rows


def ours(result: ClassificationResult) -> dict[str, list[float]]:
    rows = {}
    for name, row in result.to_dict().items():
        rows[name] = (
            [row] * 4 if name == "accuracy" else [row[k] for k in ("precision", "recall", "f1-score", "support")]
        )
    return rows


def differences(result: ClassificationResult, report: dict[str, list[str]]) -> list[str]:
    """The published figures that ours, printed with as many digits, do not equal."""
    mine = ours(result)
    faults = [f"row {name!r} on one side only" for name in mine.keys() ^ report.keys()]
    for name in mine.keys() & report.keys():
        for column, mine_value, printed in zip(("p", "r", "f1", "n"), mine[name], report[name], strict=True):
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
    true, said = pairs(folder, name)
    assert len(true) == len(said) == 300
    assert differences(classify(true, said, LABELS), published(folder, name)) == []


@pytest.mark.parametrize("name", GENUINE)
def test_the_printed_data_frame_is_reproduced_to_the_character(folder: Path, name: str, frame_text) -> None:  # type: ignore[no-untyped-def]
    true, said = pairs(folder, name)
    printed = (folder / f"report_{name}.txt").read_text(encoding="utf-8")
    assert frame_text(classify(true, said, LABELS)) == printed


def test_the_pair_that_does_not_belong_together_is_caught(folder: Path) -> None:
    true, said = pairs(folder, "facebook")
    faults = differences(classify(true, said, LABELS), published(folder, "facebook"))
    assert any(fault.startswith("bug") for fault in faults)
    assert any(fault.startswith("accuracy") for fault in faults)


@pytest.mark.parametrize("name", [*GENUINE, "facebook"])
def test_the_text_table_is_scikit_learns(folder: Path, name: str) -> None:
    from sklearn.metrics import classification_report

    true, said = pairs(folder, name)
    result = classify(true, said, LABELS, rule="exact")
    for digits in (2, 4, 6):
        expected = classification_report(true, said, labels=list(LABELS), digits=digits, zero_division=0.0)
        assert result.to_text(digits) == expected


@pytest.mark.parametrize(("name", "answer"), [("bitcoin", ""), ("opencv", "class")])
def test_the_answer_outside_the_set_is_counted_and_listed(folder: Path, name: str, answer: str) -> None:
    true, said = pairs(folder, name)
    result = classify(true, said, LABELS)
    assert result.outside == 1
    assert [(each.answer, each.count) for each in result.outside_answers] == [(answer, 1)]
    assert sum(row[-1] for row in result.confusion) == 1
    assert sum(map(sum, result.confusion)) == 300
    assert result.accuracy == result.correct / 300 == result.micro.recall
    assert result.micro.precision == result.correct / 299


def test_a_dropped_outside_answer_would_have_been_noticed(folder: Path) -> None:
    """The other negative control: leaving the outside row out gives other figures than the published ones."""
    true, said = pairs(folder, "opencv")
    kept = [(t, s) for t, s in zip(true, said, strict=True) if s in LABELS]
    result = classify([t for t, _ in kept], [s for _, s in kept], LABELS)
    assert differences(result, published(folder, "opencv"))
