"""What an evaluation asks: which rows, scored how, by which metrics. Settled, and refused, before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmtune.data.example import Example
from llmtune.data.hashing import label_of, label_set, names_labels
from llmtune.errors import InvalidData, did_you_mean
from llmtune.evaluation import scoring
from llmtune.evaluation.results import ScoredBy
from llmtune.evaluation.sampling import calls_tools, clip, expected_text, subsample, token_limit
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.labels import LIKELIHOOD, LabelRule, check_labels, label_rule, rule_for
from llmtune.metrics.text import RowScore, TextMetric
from llmtune.provider.generation import Generator, LabelScorer, Unavailable


@dataclass(frozen=True)
class Part:
    """Some rows of one part of the dataset. `numbers` are their places in it, from 0; `truth` their label indices."""

    name: str
    rows: Sequence[Example]
    numbers: Sequence[int]
    truth: Sequence[int] | None


@dataclass(frozen=True)
class Questions:
    """Everything that is the same for every system of one evaluation."""

    spec: EvaluationSpec
    metrics: tuple[str | TextMetric, ...]
    scored_by: ScoredBy
    labels: tuple[str, ...] | None
    rule: LabelRule | None
    max_tokens: int
    seed: int
    sets: tuple[str, ...] | None = None
    """The label set where rows have several labels each."""

    labels_told: bool | None = None
    """Whether the prompts name the labels; None where there are none."""

    said: tuple[str, ...] = field(default=())
    """What there is to say about these choices."""

    @property
    def wants_loss(self) -> bool:
        """Whether a metric over tokens is among the metrics."""
        return any(isinstance(metric, str) and metric in scoring.TOKEN_METRICS for metric in self.metrics)

    def part(self, name: str, every: Sequence[Example], most: int) -> Part:
        """At most `most` of some rows with their true labels. `InvalidData` for a label that is not in the set."""
        numbers = subsample(every, most)
        rows = [every[number] for number in numbers]
        truth = None
        if self.labels is not None and self.rule is not None:
            truth = [_true_label(row, number, name, self.labels) for row, number in zip(rows, numbers, strict=True)]
        return Part(name, rows, numbers, truth)


def name_of(metric: str | TextMetric) -> str:
    """The name a metric is reported under."""
    return metric.name if isinstance(metric, TextMetric) else metric


def settle(
    test: Sequence[Example],
    every: Sequence[Example],
    generators: Mapping[str, Generator | Unavailable],
    spec: EvaluationSpec,
    *,
    labels: Sequence[str] | None,
    metrics: Sequence[str | RowScore] | None,
    rule: str | LabelRule | None,
    seed: int,
) -> Questions:
    """Decide what is asked. See `evaluate` for the arguments; `every` are all rows of all parts."""
    askable = [each for each in generators.values() if not isinstance(each, Unavailable)]
    can_score = bool(askable) and all(isinstance(each, LabelScorer) for each in askable)
    label_names, label_reading = _labels(test, every, spec, labels, rule)
    as_classifier = label_reading is LIKELIHOOD  # a classifier serves the likeliest label; it has no other answer
    sets = _several(every, spec)
    preference = all(row.preference is not None for row in test)
    plain_text = all(row.text is not None for row in test)

    wanted: Sequence[str | RowScore] | None = metrics if metrics is not None else spec.metrics
    said: list[str] = []
    chosen: list[str | TextMetric]
    if wanted is not None:
        chosen = [scoring.resolve(name) for name in dict.fromkeys(wanted)]
    elif plain_text:
        chosen = list(scoring.TOKEN_METRICS)
    else:
        chosen, said = scoring.suited(
            labelled=label_names is not None,
            preference=preference and can_score,
            tools=all(calls_tools(row) for row in test),
            expected=[expected_text(row) for row in test],
            sets=sets is not None,
        )
        if label_names is not None and can_score and not as_classifier:
            chosen.append(scoring.LIKELIHOOD_ACCURACY)  # beside what is answered, which is what a user gets
        chosen += scoring.TOKEN_METRICS  # reported as well where logits exist

    scored_by: ScoredBy = "text"
    if plain_text or all(isinstance(metric, str) and metric in scoring.TOKEN_METRICS for metric in chosen):
        scored_by = "loss"
    elif can_score and (as_classifier or (preference and label_names is None)):
        scored_by = "likelihood"
    elif as_classifier and label_names is not None:
        label_reading = rule_for(label_names)
    return Questions(
        spec=spec,
        metrics=tuple(chosen),
        scored_by=scored_by,
        labels=label_names,
        rule=label_reading,
        max_tokens=token_limit(test, spec),
        seed=seed,
        sets=sets,
        labels_told=None if label_names is None else names_labels(test, label_names),
        said=tuple(said),
    )


def _several(every: Sequence[Example], spec: EvaluationSpec) -> tuple[str, ...] | None:
    """The labels of all rows, where rows have several each."""
    if not every or not all(isinstance(row.label, tuple) for row in every):
        return None
    found = {label for row in every for label in row.label or ()}
    return spec.labels if spec.labels is not None else tuple(sorted(found)) or None


def _labels(
    test: Sequence[Example],
    every: Sequence[Example],
    spec: EvaluationSpec,
    labels: Sequence[str] | None,
    rule: str | LabelRule | None,
) -> tuple[tuple[str, ...] | None, LabelRule | None]:
    found = spec.labels if spec.labels is not None else labels
    if found is None:
        found = label_set(every)
    if not found or any(isinstance(row.label, tuple) for row in test):
        return None, None  # several labels a row are compared as text
    reading = label_rule(rule) if rule is not None else rule_for(found)
    return check_labels(found, reading), reading


def _true_label(row: Example, number: int, part: str, labels: tuple[str, ...]) -> int:
    label = label_of(row) or expected_text(row).strip()
    found = label if label in labels else rule_for(labels).match(label, labels)
    if found is not None:
        return labels.index(found)
    near = did_you_mean(label, labels)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    where = f"line {row.line}" if row.line is not None else f"row {number + 1}"
    raise InvalidData(
        f"{part} {where}: the label {clip(label, 60)!r} is not in the label set{meant}",
        hint="add it to evaluation.labels, or leave that out to take the labels of the dataset",
    )
