"""Classification figures, through scikit-learn: what people ask for instead of a loss number.

Answers outside the label set are wrong answers: they count in accuracy and recall, have a column of their own in the
confusion matrix, and are listed. They take no part in the precision of any label, exactly as scikit-learn's
`classification_report(labels=...)` has it (scikit-learn 1.x, checked against it in the tests).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData, InvalidJob, did_you_mean
from llmtune.metrics.intervals import Interval, wilson
from llmtune.metrics.labels import LabelRule, check_labels, label_rule

#: Distinct outside answers a result lists; the rest are counted.
OUTSIDE_LISTED = 20

#: A share, 0..1.
Share = Annotated[float, Field(ge=0, le=1)]


class ClassMetrics(DocumentedModel):
    """The figures of one label. A figure without a denominator is 0, as in scikit-learn; the counts tell."""

    label: str
    precision: Share
    """Of the answers that say this label, the share that is right; 0 where no answer says it (`predicted` 0)."""

    recall: Share
    """Of the rows with this true label, the share answered with it; 0 where there is no such row (`support` 0)."""

    f1: Share
    """Harmonic mean of precision and recall."""

    f_beta: Share
    """Weighted harmonic mean in which recall weighs `beta` times as much as precision."""

    support: int
    """Rows with this true label."""

    predicted: int
    """Answers that say this label."""


def recall_interval(row: ClassMetrics) -> Interval | None:
    """Return Wilson's interval of a label's recall; None for a label without a row."""
    return wilson(round(row.recall * row.support), row.support) if row.support else None


class Average(DocumentedModel):
    """One way of averaging over the labels: `precision`, `recall`, `f1` and `f_beta` are shares, 0..1."""

    precision: Share
    recall: Share
    f1: Share
    f_beta: Share


class OutsideAnswer(DocumentedModel):
    """An `answer` that is no label of the set, and the `count` of it; None is "no answer at all"."""

    answer: str | None
    count: int


class ClassificationResult(DocumentedModel):
    """Everything about one set of answers; `rule` says when an answer counted as a label.

    `correct` of `rows` answers are right. `classes` has the figures of each of `labels`; `beta` is the weight of recall
    in their f_beta.
    """

    rows: int
    correct: int
    accuracy: Share
    """`correct / rows`: an answer outside the label set is a wrong answer."""

    rule: str
    """Name of the label-matching rule."""

    rule_says: str
    """The rule in words."""

    beta: float
    labels: tuple[str, ...]
    classes: tuple[ClassMetrics, ...]
    macro: Average
    """Mean over the labels, each the same."""

    micro: Average
    """Over all decisions together; equals accuracy when no answer is outside the set."""

    weighted: Average
    """Mean over the labels by their support."""

    confusion: tuple[tuple[int, ...], ...]
    """True label by row, answered label by column; the last column counts answers outside the set. Empty where a row
    has several labels."""

    outside: int
    """Answers outside the label set, "no answer" included."""

    outside_answers: tuple[OutsideAnswer, ...] = ()
    """The most frequent of them, at most 20, normalised by nothing."""

    several: bool = False
    """Whether a row may have several labels: `correct` then counts rows with all of theirs and no other."""

    def __getitem__(self, label: str) -> ClassMetrics:
        for row in self.classes:
            if row.label == label:
                return row
        raise KeyError(label)

    @property
    def majority(self) -> tuple[str, float]:
        """The most frequent true label, and the accuracy of always answering it."""
        row = max(self.classes, key=lambda metrics: metrics.support)
        return row.label, row.support / self.rows

    def to_dict(self) -> dict[str, Any]:
        """Return what scikit-learn's `classification_report(output_dict=True, labels=...)` returns, with its names."""
        report: dict[str, Any] = {
            row.label: {"precision": row.precision, "recall": row.recall, "f1-score": row.f1, "support": row.support}
            for row in self.classes
        }
        if self._micro_is_accuracy:
            report["accuracy"] = self.accuracy
        else:
            report["micro avg"] = self._average_row(self.micro)
        report["macro avg"] = self._average_row(self.macro)
        report["weighted avg"] = self._average_row(self.weighted)
        return report

    def to_text(self, digits: int = 2) -> str:
        """Return the table that scikit-learn's `classification_report(labels=...)` prints, character for character.

        `digits` are the decimals of its figures.
        """
        width = max([*(len(label) for label in self.labels), len("weighted avg"), digits])
        total = sum(row.support for row in self.classes)

        def line(name: str, figures: Sequence[float | None], support: int) -> str:
            cells = [f"{'':>9}" if figure is None else f"{figure:>9.{digits}f}" for figure in figures]
            return " ".join([f"{name:>{width}s} ", *cells, f"{support:>9}"])

        heads = " ".join(f"{head:>9}" for head in ("precision", "recall", "f1-score", "support"))
        lines = [f"{'':>{width}s}  {heads}", ""]
        lines += [line(row.label, (row.precision, row.recall, row.f1), row.support) for row in self.classes]
        lines.append("")
        if self._micro_is_accuracy:
            lines.append(line("accuracy", (None, None, self.accuracy), total))
        else:
            lines.append(line("micro avg", (self.micro.precision, self.micro.recall, self.micro.f1), total))
        for name, average in (("macro avg", self.macro), ("weighted avg", self.weighted)):
            lines.append(line(name, (average.precision, average.recall, average.f1), total))
        return "\n".join(lines) + "\n"

    @property
    def _micro_is_accuracy(self) -> bool:
        return self.outside == 0 and not self.several

    def _average_row(self, average: Average) -> dict[str, float]:
        support = sum(row.support for row in self.classes)
        return {
            "precision": average.precision,
            "recall": average.recall,
            "f1-score": average.f1,
            "support": support,
        }


def classify(
    true: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str] | None = None,
    *,
    rule: str | LabelRule = "normalised",
    beta: float = 1.0,
) -> ClassificationResult:
    """Score answers against true labels.

    Args:
        true: the true label of each row, one of `labels` (read by the same rule).
        predicted: the answer of each row as the model gave it; None is no answer.
        labels: the label set, in the order it is shown; None is the sorted set of true labels.
        rule: when an answer counts as a label: "exact", "normalised", "mentioned", or a `LabelRule`.
        beta: weight of recall against precision in F-beta. > 0; 1 is F1.

    Raises:
        InvalidData: no rows, unequal lengths, or a true label that is not in the set.
        InvalidJob: two labels that the rule cannot tell apart, an empty set, or beta <= 0.
    """
    if len(true) != len(predicted):
        raise InvalidData(f"there are {len(true)} true labels and {len(predicted)} answers; each row needs both")
    if not true:
        raise InvalidData("there are no rows to score")
    if not beta > 0:
        raise InvalidJob(f"beta must be above 0, not {beta:g}")
    chosen = label_rule(rule)
    label_set = check_labels(sorted(set(true)) if labels is None else labels, chosen)
    read = chosen.reader(label_set)
    label_index = {label: index for index, label in enumerate(label_set)}
    truth = [
        label_index[_resolve_true_label(label, row, label_index, label_set, chosen)]
        for row, label in enumerate(true, start=1)
    ]
    read_labels = [read(answer) for answer in predicted]
    outside_mark = len(label_set)
    answered = [outside_mark if label is None else label_index[label] for label in read_labels]
    outside = Counter(answer for answer, label in zip(predicted, read_labels, strict=True) if label is None)
    return _score(truth, answered, label_set, chosen, beta, outside)


def classify_sets(
    true: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str] | None],
    labels: Sequence[str] | None = None,
    *,
    beta: float = 1.0,
) -> ClassificationResult:
    """Score answers to rows that may have several labels, each label a decision of its own.

    Args:
        true: the true labels of each row, all of them in `labels`; a row may have none.
        predicted: the labels each answer names; None is no answer. A name outside the set counts in `outside`, and its
            row is not right.
        labels: the label set, in the order it is shown; None is the sorted set of true labels.
        beta: weight of recall against precision in F-beta. > 0; 1 is F1.

    Raises:
        InvalidData: no rows, unequal lengths, or a true label that is not in the set.
        InvalidJob: an empty set, or beta <= 0.
    """
    if len(true) != len(predicted):
        raise InvalidData(f"there are labels of {len(true)} rows and {len(predicted)} answers; each row needs both")
    if not true:
        raise InvalidData("there are no rows to score")
    if not beta > 0:
        raise InvalidJob(f"beta must be above 0, not {beta:g}")
    rule = label_rule("exact")
    label_names = sorted({label for row in true for label in row}) if labels is None else labels
    label_set = check_labels(label_names, rule)
    label_index = {label: index for index, label in enumerate(label_set)}
    for row, row_labels in enumerate(true, start=1):
        for label in row_labels:
            _resolve_true_label(label, row, label_index, label_set, rule)
    answer_sets = [tuple(dict.fromkeys(answer or ())) for answer in predicted]
    outside = Counter(label for answer in answer_sets for label in answer if label not in label_index)
    return _score_sets(true, answer_sets, label_set, rule, beta, outside)


def _score_sets(
    true: Sequence[Sequence[str]],
    answers: Sequence[Sequence[str]],
    labels: tuple[str, ...],
    rule: LabelRule,
    beta: float,
    outside: Counter[str],
) -> ClassificationResult:
    import numpy as np
    from sklearn.metrics import precision_recall_fscore_support

    def indicate_labels(rows: Sequence[Sequence[str]]) -> Any:
        return np.array([[label in row for label in labels] for row in rows], dtype=int)

    truth, answered = indicate_labels(true), indicate_labels(answers)

    def score_labels(average: str | None, weight: float) -> Any:
        return precision_recall_fscore_support(truth, answered, average=average, beta=weight, zero_division=0.0)

    def average_figures(average: str) -> Average:
        precision, recall, f1, _ = score_labels(average, 1.0)
        return Average(
            precision=float(precision), recall=float(recall), f1=float(f1), f_beta=float(score_labels(average, beta)[2])
        )

    precision, recall, f1, support = score_labels(None, 1.0)
    f_beta = score_labels(None, beta)[2]
    correct = sum(set(expected) == set(answer) for expected, answer in zip(true, answers, strict=True))
    return ClassificationResult(
        rows=len(true),
        correct=correct,
        accuracy=correct / len(true),
        rule="sets",
        rule_says="a row is right when it is answered with all of its labels and no other",
        beta=beta,
        labels=labels,
        classes=tuple(
            ClassMetrics(
                label=label,
                precision=float(precision[index]),
                recall=float(recall[index]),
                f1=float(f1[index]),
                f_beta=float(f_beta[index]),
                support=int(support[index]),
                predicted=int(answered[:, index].sum()),
            )
            for index, label in enumerate(labels)
        ),
        macro=average_figures("macro"),
        micro=average_figures("micro"),
        weighted=average_figures("weighted"),
        confusion=(),
        outside=sum(outside.values()),
        outside_answers=tuple(
            OutsideAnswer(answer=answer, count=count)
            for answer, count in sorted(outside.items(), key=lambda answer_count: (-answer_count[1], answer_count[0]))[
                :OUTSIDE_LISTED
            ]
        ),
        several=True,
    )


def _resolve_true_label(
    label: str, row: int, label_index: dict[str, int], labels: Sequence[str], rule: LabelRule
) -> str:
    if label in label_index:
        return label
    # A true label must be one: it is never searched for inside a longer text.
    match = label_rule("normalised").match(label, labels) if rule.name in ("normalised", "mentioned") else None
    if match is not None:
        return match
    candidates = did_you_mean(label, labels)
    suggestion = f"; did you mean {candidates[0]!r}?" if candidates else ""
    raise InvalidData(
        f"row {row}: the true label {label!r} is not in the label set{suggestion}",
        hint="add it to evaluation.labels, or leave evaluation.labels out to take the labels found in the dataset",
    )


def _score(
    truth: list[int],
    answered: list[int],
    labels: tuple[str, ...],
    rule: LabelRule,
    beta: float,
    outside: Counter[str | None],
) -> ClassificationResult:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    indices = list(range(len(labels)))

    def score_labels(average: str | None, weight: float) -> Any:
        return precision_recall_fscore_support(
            truth, answered, labels=indices, average=average, beta=weight, zero_division=0.0
        )

    def average_figures(average: str) -> Average:
        precision, recall, f1, _ = score_labels(average, 1.0)
        return Average(
            precision=float(precision), recall=float(recall), f1=float(f1), f_beta=float(score_labels(average, beta)[2])
        )

    precision, recall, f1, support = score_labels(None, 1.0)
    f_beta = score_labels(None, beta)[2]
    confusion = confusion_matrix(truth, answered, labels=[*indices, len(labels)])[: len(labels)]
    predicted = confusion.sum(axis=0)
    correct = sum(expected == answer for expected, answer in zip(truth, answered, strict=True))
    return ClassificationResult(
        rows=len(truth),
        correct=correct,
        accuracy=correct / len(truth),
        rule=rule.name,
        rule_says=rule.says,
        beta=beta,
        labels=labels,
        classes=tuple(
            ClassMetrics(
                label=label,
                precision=float(precision[index]),
                recall=float(recall[index]),
                f1=float(f1[index]),
                f_beta=float(f_beta[index]),
                support=int(support[index]),
                predicted=int(predicted[index]),
            )
            for index, label in enumerate(labels)
        ),
        macro=average_figures("macro"),
        micro=average_figures("micro"),
        weighted=average_figures("weighted"),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        outside=sum(outside.values()),
        outside_answers=tuple(
            OutsideAnswer(answer=answer, count=count)
            for answer, count in sorted(
                outside.items(), key=lambda answer_count: (-answer_count[1], answer_count[0] or "")
            )[:OUTSIDE_LISTED]
        ),
    )
