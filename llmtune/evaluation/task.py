"""The task of an evaluation: rows, scoring and metrics, resolved and checked before any model is asked."""

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
from llmtune.metrics.intervals import RESAMPLES
from llmtune.metrics.labels import LIKELIHOOD, LabelRule, check_labels, label_rule, rule_for
from llmtune.metrics.registry import Metric, RowScore, get_metric
from llmtune.provider.generation import Generator, LabelScorer, Unavailable


@dataclass(frozen=True)
class ScoringOptions:
    """How the answers of an evaluation are scored, besides what its `EvaluationSpec` says."""

    labels: Sequence[str] | None = None
    """Label set of the dataset; `spec.labels` comes first. None finds it in all rows, by the rule of `llmtune.data`.
    An empty sequence says that the rows have no labels."""

    metrics: Sequence[str | RowScore] | None = None
    """Names or functions, instead of `spec.metrics`."""

    rule: str | LabelRule | None = None
    """When a generated answer counts as a label; None is "normalised" unless that confuses two labels. "likelihood"
    takes the likeliest label as the answer, for models that serve it so (classifiers)."""

    seed: int = 0
    """Of sampled answers and of the resampling."""

    resamples: int = RESAMPLES
    """Bootstrap samples."""


@dataclass(frozen=True)
class Part:
    """Rows of one part of the dataset. `numbers` are their positions in it, from 0; `truth` their label indices."""

    name: str
    rows: Sequence[Example]
    numbers: Sequence[int]
    truth: Sequence[int] | None


@dataclass(frozen=True)
class Questions:
    """The settings that all systems of one evaluation share."""

    spec: EvaluationSpec
    metrics: tuple[Metric, ...]
    scored_by: ScoredBy
    labels: tuple[str, ...] | None
    rule: LabelRule | None
    max_tokens: int
    seed: int
    sets: tuple[str, ...] | None = None
    """The label set where rows have several labels each."""

    labels_told: bool | None = None
    """Whether the prompts name the labels; None where there are no labels."""

    notes: tuple[str, ...] = field(default=())
    """Remarks on these choices, for the report."""

    @property
    def wants_loss(self) -> bool:
        """Whether one of the metrics is computed over tokens."""
        return any(metric.kind == "tokens" for metric in self.metrics)

    @property
    def wants_probabilities(self) -> bool:
        """Whether one of the metrics is computed from the probabilities of labels."""
        return self.labels is not None and any(metric.kind == "probabilities" for metric in self.metrics)

    def measures(self, name: str) -> bool:
        """Return whether a metric of that name is among those to report."""
        return any(metric.name == name for metric in self.metrics)

    def part(self, name: str, rows_of_part: Sequence[Example], limit: int) -> Part:
        """Return at most `limit` rows, with their true labels. Raises `InvalidData` for a label outside the set."""
        numbers = subsample(rows_of_part, limit)
        rows = [rows_of_part[number] for number in numbers]
        truth = None
        if self.labels is not None and self.rule is not None:
            truth = [
                _find_true_label(row, number, name, self.labels) for row, number in zip(rows, numbers, strict=True)
            ]
        return Part(name, rows, numbers, truth)


def resolve_task(
    test: Sequence[Example],
    every: Sequence[Example],
    generators: Mapping[str, Generator | Unavailable],
    spec: EvaluationSpec,
    options: ScoringOptions,
) -> Questions:
    """Resolve metrics, labels and scoring. The arguments are those of `evaluate`; `every` has the rows of all parts."""
    askable = [generator for generator in generators.values() if not isinstance(generator, Unavailable)]
    can_score = bool(askable) and all(isinstance(generator, LabelScorer) for generator in askable)
    label_names, label_reading = _resolve_labels(test, every, spec, options)
    as_classifier = label_reading is LIKELIHOOD  # a classifier returns the likeliest label and generates no text
    sets = _find_label_sets(every, spec)
    preference = all(row.preference is not None for row in test)
    plain_text = all(row.text is not None for row in test)

    requested: Sequence[str | RowScore] | None = spec.metrics if options.metrics is None else options.metrics
    notes: list[str] = []
    if requested is not None:
        metrics = [get_metric(name) for name in dict.fromkeys(requested)]
    elif plain_text:
        metrics = [get_metric(name) for name in scoring.TOKEN_METRICS]
    else:
        names, notes = scoring.default_metrics(
            labelled=label_names is not None,
            preference=preference and can_score,
            tools=all(calls_tools(row) for row in test),
            expected=map(expected_text, test),
            sets=sets is not None,
        )
        if label_names is not None and can_score and not as_classifier:
            names.append(scoring.LIKELIHOOD_ACCURACY)  # in addition to the generated answer, which is what a user gets
        if label_names is not None and can_score:
            names += scoring.PROBABILITY_METRICS
        names += scoring.TOKEN_METRICS  # reported as well where the backend has logits
        metrics = [get_metric(name) for name in names]

    scored_by: ScoredBy = "text"
    if plain_text or all(metric.kind == "tokens" for metric in metrics):
        scored_by = "loss"
    elif can_score and (as_classifier or (preference and label_names is None)):
        scored_by = "likelihood"
    elif as_classifier and label_names is not None:
        label_reading = rule_for(label_names)
    return Questions(
        spec=spec,
        metrics=tuple(metrics),
        scored_by=scored_by,
        labels=label_names,
        rule=label_reading,
        max_tokens=token_limit(test, spec),
        seed=options.seed,
        sets=sets,
        labels_told=None if label_names is None else names_labels(test, label_names),
        notes=tuple(notes),
    )


def _find_label_sets(every: Sequence[Example], spec: EvaluationSpec) -> tuple[str, ...] | None:
    """Return the labels of all rows, where each row has several; else None."""
    if not every or not all(isinstance(row.label, tuple) for row in every):
        return None
    label_names = {label for row in every for label in row.label or ()}
    return spec.labels if spec.labels is not None else tuple(sorted(label_names)) or None


def _resolve_labels(
    test: Sequence[Example],
    every: Sequence[Example],
    spec: EvaluationSpec,
    options: ScoringOptions,
) -> tuple[tuple[str, ...] | None, LabelRule | None]:
    label_names = spec.labels if spec.labels is not None else options.labels
    if label_names is None:
        label_names = label_set(every)
    if not label_names or any(isinstance(row.label, tuple) for row in test):
        return None, None  # rows with several labels are compared as text
    reading = label_rule(options.rule) if options.rule is not None else rule_for(label_names)
    return check_labels(label_names, reading), reading


def _find_true_label(row: Example, number: int, part: str, labels: tuple[str, ...]) -> int:
    label = label_of(row) or expected_text(row).strip()
    matched = label if label in labels else rule_for(labels).match(label, labels)
    if matched is not None:
        return labels.index(matched)
    suggestions = did_you_mean(label, labels)
    suggestion = f"; did you mean {suggestions[0]!r}?" if suggestions else ""
    where = f"line {row.line}" if row.line is not None else f"row {number + 1}"
    raise InvalidData(
        f"{part} {where}: the label {clip(label, 60)!r} is not in the label set{suggestion}",
        hint="add it to evaluation.labels, or leave that out to take the labels of the dataset",
    )
