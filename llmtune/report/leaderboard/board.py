"""Several runs on one held-out split, side by side: who is better, by how much, at what price, and not by chance.

Pairs are told apart by the exact McNemar test where rows are right or wrong, else by a sign-flip permutation test of
the mean difference. The p-values of the members among themselves are corrected by Holm's method (Holm 1979, Scand. J.
Stat. 6:65); so are those of all members against one baseline, each baseline by itself: whether tuning helps is another
question than which member is the best, and asking both must not make either harder to answer.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData, MissingExtra
from llmtune.evaluation.judge.results import JudgedFigure
from llmtune.evaluation.results import (
    EvaluationResult,
    Latency,
    MetricValue,
    PanelResult,
    PanelTest,
    SystemResult,
    Usage,
)
from llmtune.metrics.comparison import Comparison, compare_means, compare_unpaired
from llmtune.metrics.intervals import RESAMPLES
from llmtune.metrics.points import NotReported, Series
from llmtune.planning.total_cost import UsageCost
from llmtune.provider.limits import Price
from llmtune.provider.types import RunState
from llmtune.redaction.documents import dump_json
from llmtune.redaction.rendering import Renderable
from llmtune.report.schema import Cost, Report, Timing
from llmtune.report.verdicts import ALPHA, describe_panel_test

if TYPE_CHECKING:
    import pandas


#: Baselines that need no language model, and their labels on the board.
COMPUTED = {
    "linear": "linear model (TF-IDF)",
    "nearest": "nearest training row",
    "majority": "most frequent label",
}


class LeaderboardRow(DocumentedModel):
    """One row of the board.

    A tuned model, a base model as it is or with examples in its prompt, or a baseline that needs no language model (a
    linear model, the nearest training row, always the most frequent label): that is its `kind`. `provider` and `model`
    say what answered; `run` is the run's id and `state` its state. `metrics` are all of its metrics and `scored_by` how
    its answers were scored. `cost` and `timing` are those of the training, `latency` is in seconds per answer; `curves`
    are the training's, by series.
    """

    label: str
    kind: Literal["tuned", "base", "few-shot", "linear", "nearest", "majority"]
    provider: str
    model: str
    run: str | None = None
    state: RunState | None = None
    error: str | None = None
    """Why there is no result."""

    quality: MetricValue | NotReported = NotReported("it was not evaluated")
    """By the board's main metric."""

    metrics: tuple[MetricValue, ...] = ()
    scored_by: str | None = None
    cost: Cost = Cost()
    timing: Timing = Timing()
    trained_tokens: int | NotReported = NotReported("nothing was trained")
    """Tokens trained on in all epochs together, as the backend counts them."""

    usage: Usage | NotReported = NotReported("nothing was generated")
    """Tokens of the questions and of the answers."""

    latency: Latency | NotReported = NotReported("the backend reports no times")
    price_per_1000: float | NotReported = NotReported("nothing was generated")
    """What 1,000 answers like these cost, in the cost's currency."""

    in_use: UsageCost | NotReported = NotReported("no traffic was given")
    """What the traffic costs that the comparison was given, with the tokens that were measured."""

    panel: MetricValue | NotReported = NotReported("no panel was asked")
    """Accuracy on the questions outside the task."""

    panel_tests: tuple[PanelTest, ...] = ()
    """Of a tuned model: whether it is worse than its base there."""

    win_rate: JudgedFigure | NotReported = NotReported("no judge was asked")
    """Of a tuned model: how often a judge prefers its answers to its base's, ties counted half."""

    lost: dict[str, str] = {}
    """Fields of the job that this backend did not use, with what happened instead."""

    converted: dict[str, str] = {}
    """Fields that went out after a rule."""

    lifecycle: str = ""
    """Until when it takes jobs and answers."""

    curves: dict[str, Series] = {}


class PairwiseResult(DocumentedModel):
    """Two rows of the board, and whether they are `separable`: told apart beyond chance by their `comparison`."""

    comparison: Comparison
    p_value: float | None
    """Of this pair alone."""

    p_holm: float | None
    """Corrected for the family: the members among themselves, or all members against one baseline."""

    family: int = 1
    """Pairs in the family."""

    separable: bool


class BreakEven(DocumentedModel):
    """From how many `answers` on a `tuned` model is cheaper than its base model with examples (`few_shot`)."""

    tuned: str
    few_shot: str
    answers: float | NotReported


class Board(Renderable, DocumentedModel):
    """The result of `compare`.

    `schema_version` changes when a field changes its meaning; `name` is the job's. `metric` is what members are
    ranked by, and `pairs` are their differences two by two, with Holm's correction. `break_even` says from how many
    requests a dearer tuning is the cheaper model, `verdict` is the answer in sentences, `warnings` are whatever
    weakens it.
    """

    _renderers: ClassVar[Mapping[str, str]] = {
        "document": "llmtune.report.leaderboard.document:document",
        "sentences": "llmtune.report.leaderboard.verdict:write_verdict",
    }

    schema_version: Literal[1] = 1
    name: str
    group: str
    """Under which its runs are found in the store."""

    metric: str
    rows: int
    """Held-out rows that every member answered."""

    standings: tuple[LeaderboardRow, ...]
    """Best first; those without a result last."""

    pairs: tuple[PairwiseResult, ...] = ()
    break_even: tuple[BreakEven, ...] = ()
    verdict: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    answers_per_month: float | None = None
    """The traffic for which the cost in use is given; None where none was asked for."""

    months: float | None = None
    """For how many months."""

    def __getitem__(self, label: str) -> LeaderboardRow:
        for row in self.standings:
            if row.label == label:
                return row
        raise KeyError(label)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from {"name": self.name, "metric": self.metric, "rows": self.rows}.items()
        yield (
            "standings",
            [
                row.label if isinstance(row.quality, NotReported) else f"{row.label} {row.quality.value:.4g}"
                for row in self.standings
            ],
        )

    @property
    def failed(self) -> tuple[LeaderboardRow, ...]:
        """Members that made no model."""
        return tuple(row for row in self.standings if row.kind == "tuned" and row.state is not RunState.SUCCEEDED)

    def to_json(self) -> str:
        """Return the board as JSON; `Board.model_validate_json` reads it back."""
        return dump_json(self.model_dump(mode="json"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the board as .json, .md or .html, by the file's suffix. Raises `InvalidData` for another."""
        file = Path(path)
        serialise = {".json": self.to_json, ".md": self.to_markdown, ".html": self.to_html}.get(file.suffix)
        if serialise is None:
            raise InvalidData(f"{file}: a board is written as .json, .md or .html")
        file.write_text(serialise(), encoding="utf-8")

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with one row per model. Raises `MissingExtra` without pandas."""
        try:
            import pandas as found
        except ImportError:
            raise MissingExtra("report", "pandas", purpose="data frames") from None
        return found.DataFrame([_flatten(row) for row in self.standings])


def _flatten(row: LeaderboardRow) -> dict[str, Any]:
    quality = None if isinstance(row.quality, NotReported) else row.quality
    record: dict[str, Any] = {
        "label": row.label,
        "kind": row.kind,
        "provider": row.provider,
        "model": row.model,
        "run": row.run,
        "state": None if row.state is None else row.state.value,
        "quality": None if quality is None else quality.value,
        "low": None if quality is None else quality.interval.low,
        "high": None if quality is None else quality.interval.high,
        "lost": ", ".join(row.lost),
    }
    for name, value in (
        ("estimated", row.cost.estimated),
        ("billed", row.cost.billed),
        ("queued_seconds", row.timing.queued),
        ("training_seconds", row.timing.training),
        ("trained_tokens", row.trained_tokens),
        ("prompt_tokens", row.usage if isinstance(row.usage, NotReported) else row.usage.prompt_tokens),
        ("completion_tokens", row.usage if isinstance(row.usage, NotReported) else row.usage.completion_tokens),
        ("panel", row.panel if isinstance(row.panel, NotReported) else row.panel.value),
        ("win_rate", row.win_rate if isinstance(row.win_rate, NotReported) else row.win_rate.value),
        ("price_per_1000", row.price_per_1000),
        ("in_use", row.in_use if isinstance(row.in_use, NotReported) else row.in_use.total),
    ):
        record[name] = None if isinstance(value, NotReported) else value
    latency = None if isinstance(row.latency, NotReported) else row.latency
    record["p50"], record["p95"] = (None, None) if latency is None else (latency.p50, latency.p95)
    return record


class Entry(DocumentedModel):
    """A member of the comparison: its report (or why there is none), and the price of its answers."""

    label: str
    provider: str
    model: str
    report: Report | None = None
    error: str | None = None
    price: Any = None
    """The backend's `Price`."""

    hosted: bool = True
    lifecycle: str = ""
    training: float | None = None
    """The estimate of the training alone."""

    few_shot: tuple[str, EvaluationResult] | None = None
    """(label, what the base model with examples in its prompt reached)."""


def build_board(name: str, group: str, entries: Sequence[Entry], *, warnings: Sequence[str] = ()) -> Board:
    """Build the leaderboard of the members."""
    evaluations = {entry.label: _get_evaluation(entry) for entry in entries}
    main = next((evaluation.main for evaluation in evaluations.values() if evaluation is not None), "")
    standings: list[LeaderboardRow] = []
    scores: dict[str, tuple[EvaluationResult, SystemResult]] = {}
    bases: set[tuple[str, str]] = set()
    for entry in entries:
        evaluation = evaluations[entry.label]
        tuned = None if evaluation is None else evaluation.system("tuned")
        standings.append(_build_row(entry, "tuned", entry.label, evaluation, tuned, main))
        if evaluation is not None and tuned is not None:
            scores[entry.label] = (evaluation, tuned)
        base_model = (entry.provider, entry.model)
        base = None if evaluation is None else evaluation.system("base")
        if evaluation is not None and base is not None and base_model not in bases:
            bases.add(base_model)
            label = f"{entry.provider}:{entry.model} as it is"
            standings.append(_build_row(entry, "base", label, evaluation, base, main))
            scores[label] = (evaluation, base)
        if entry.few_shot is not None:
            label, few_shot_result = entry.few_shot
            system = few_shot_result.system("few-shot")
            standings.append(_build_row(entry, "few-shot", label, few_shot_result, system, main))
            if system is not None:
                scores[label] = (few_shot_result, system)
    computed = _collect_computed(evaluations.values(), main)
    standings += [standing for standing, _, _ in computed]
    scores |= {standing.label: (evaluation, system) for standing, evaluation, system in computed}
    tuned_labels = {row.label for row in standings if row.kind == "tuned"}
    pairs = _compare_pairs(main, scores, tuned_labels)
    standings.sort(key=_ranking_key(scores, main))
    rows = min((result.rows for result, _ in scores.values()), default=0)
    even = _compute_break_even(entries, standings)
    all_warnings = list(warnings)
    all_warnings += [
        f"{entry.label} is billed {hourly:g} USD an hour beside its tokens: the price of its answers is without that"
        for entry in entries
        if (hourly := _hosting_per_hour(entry)) and entry.label in scores
    ]
    all_warnings += [
        f"{row.label}: {describe_panel_test(test)}"
        for row in standings
        for test in row.panel_tests
        if test.verdict == "worse"
    ]
    ids = {result.row_ids for result, _ in scores.values()}
    if len(ids) > 1:
        all_warnings.append(
            "not every member answered the same rows: those pairs are compared by their intervals alone"
        )
    if len({result.scored_by for result, _ in scores.values()}) > 1:
        all_warnings.append("some members were scored by the likelihood of each label, others by the text they gave")
    board = Board(
        name=name,
        group=group,
        metric=main,
        rows=rows,
        standings=tuple(standings),
        pairs=pairs,
        break_even=even,
        warnings=tuple(all_warnings),
    )
    return board.model_copy(update={"verdict": tuple(board.render("sentences"))})


def _collect_computed(
    evaluations: Iterable[EvaluationResult | None], main: str
) -> list[tuple[LeaderboardRow, EvaluationResult, SystemResult]]:
    """Return the baselines that need no model, one row each: the same rows give the same figures for all members."""
    by_name: dict[str, tuple[LeaderboardRow, EvaluationResult, SystemResult]] = {}
    for evaluation in evaluations:
        if evaluation is None:
            continue
        systems = {name: system for name in COMPUTED if (system := evaluation.system(name)) is not None}
        if (
            (majority := evaluation.majority) is not None
            and evaluation.truth
            and evaluation.labels
            and main == "accuracy"
        ):
            label_index = evaluation.labels.index(majority.label)
            always = (label_index,) * len(evaluation.truth)
            systems["majority"] = SystemResult(name="majority", metrics=(majority.accuracy,), predicted=always)
        for name, system in systems.items():
            value = system.get(main)
            if value is None or name in by_name:
                continue
            standing = LeaderboardRow(
                label=COMPUTED[name],
                kind=name,  # type: ignore[arg-type]
                provider="here",
                model=name,
                quality=value,
                metrics=system.metrics,
                price_per_1000=0.0,
            )
            by_name[name] = (standing, evaluation, system)
    return list(by_name.values())


def _get_evaluation(entry: Entry) -> EvaluationResult | None:
    if entry.report is None or isinstance(entry.report.evaluation, NotReported):
        return None
    return entry.report.evaluation


def _build_row(
    entry: Entry,
    kind: Literal["tuned", "base", "few-shot"],
    label: str,
    evaluation: EvaluationResult | None,
    system: SystemResult | None,
    main: str,
) -> LeaderboardRow:
    report = entry.report
    fields: dict[str, Any] = {"label": label, "kind": kind, "provider": entry.provider, "model": entry.model}
    if kind == "tuned":
        fields |= {"lifecycle": entry.lifecycle, "error": entry.error}
        if report is not None:
            fields |= {
                "run": report.identity.run_id,
                "state": report.identity.state,
                "error": entry.error or report.error,
                "cost": report.cost,
                "timing": report.timing,
                "trained_tokens": report.data.trained_tokens,
                "lost": {row.field: row.reason or "" for row in report.receipt if row.lost},
                "converted": {row.field: row.rule or "" for row in report.receipt if row.support == "converted"},
                "curves": {name: series for name, series in report.series.items() if isinstance(series, Series)},
            }
            tuned = evaluation.systems.get("tuned") if evaluation is not None else report.evaluation
            if isinstance(tuned, NotReported):
                fields["quality"] = tuned
    if evaluation is not None and kind != "few-shot":
        fields |= _read_panel(evaluation, kind)
    if evaluation is not None and kind == "tuned" and evaluation.judge is not None:
        judged = evaluation.judge
        fields["win_rate"] = judged if isinstance(judged, NotReported) else judged.win_rate
    if system is None or evaluation is None:
        return LeaderboardRow(**fields)
    value = system.get(main)
    return LeaderboardRow(
        **fields
        | {
            "quality": value or NotReported(system.not_reported.get(main, "it was not measured")),
            "metrics": system.metrics,
            "scored_by": evaluation.scored_by,
            "usage": system.usage,
            "latency": system.latency,
            "price_per_1000": _price_per_1000(entry, system, tuned=kind == "tuned"),
        }
    )


def _read_panel(evaluation: EvaluationResult, name: Literal["tuned", "base"]) -> dict[str, Any]:
    """Return the fields of a row that come from the panel; none where none was asked."""
    if not isinstance(evaluation.panel, PanelResult):
        return {} if evaluation.panel is None else {"panel": evaluation.panel}
    system = evaluation.panel.systems.get(name, NotReported("it was not asked the panel"))
    if isinstance(system, NotReported):
        return {"panel": system}
    return {"panel": system.accuracy, "panel_tests": evaluation.panel.tests if name == "tuned" else ()}


def _price_per_1000(entry: Entry, system: SystemResult, *, tuned: bool) -> float | NotReported:
    """Return the price of 1,000 such answers, or why it is not known."""
    if not entry.hosted:
        return 0.0
    price = entry.price if isinstance(entry.price, Price) else Price()
    input_price, output_price = (price.input, price.output) if tuned else (price.base_input, price.base_output)
    if input_price is None or output_price is None:
        return NotReported(f"the price of the {'tuned' if tuned else 'base'} model's answers is not in the catalogue")
    usage = system.usage
    if isinstance(usage, NotReported):
        return usage
    answers = usage.asked + usage.cached
    if isinstance(usage.prompt_tokens, NotReported) or isinstance(usage.completion_tokens, NotReported) or not answers:
        return NotReported("the backend reports no tokens")
    return 1000 * (usage.prompt_tokens * input_price + usage.completion_tokens * output_price) / 1e6 / answers


def _ranking_key(scores: Mapping[str, tuple[EvaluationResult, SystemResult]], main: str) -> Any:
    def key(row: LeaderboardRow) -> tuple[int, float, str]:
        if isinstance(row.quality, NotReported):
            return (1, 0.0, row.label)
        sign = 1 if row.quality.better == "lower" else -1
        return (0, sign * row.quality.value, row.label)

    return key


# --- pairs -----------------------------------------------------------------------------------------------------------
def _compare_pairs(
    main: str, scores: Mapping[str, tuple[EvaluationResult, SystemResult]], tuned: set[str]
) -> tuple[PairwiseResult, ...]:
    """Compare every pair with a tuned model in it: a pair that nobody asks about would only weaken the correction."""
    compared: list[tuple[Comparison, float | None]] = []
    for (label_a, (first, a)), (label_b, (second, b)) in itertools.combinations(scores.items(), 2):
        x, y = a.get(main), b.get(main)
        if x is None or y is None or not tuned & {label_a, label_b}:
            continue
        scores_a, scores_b = _row_scores(first, a, main), _row_scores(second, b, main)
        if scores_a is None or scores_b is None or first.row_ids != second.row_ids:
            compared.append(
                (
                    compare_unpaired(
                        x.value,
                        x.interval,
                        y.value,
                        y.interval,
                        rows=min(x.rows, y.rows),
                        metric=main,
                        names=(label_a, label_b),
                        better=x.better,
                    ),
                    None,
                )
            )
            continue
        comparison = compare_means(scores_a, scores_b, metric=main, names=(label_a, label_b), better=x.better)
        p_value = comparison.p_value if comparison.p_value is not None else sign_flip(scores_a, scores_b)
        compared.append((comparison, p_value))
    families: dict[str, list[int]] = {}
    for number, (comparison, _) in enumerate(compared):
        untuned = {comparison.name_a, comparison.name_b} - tuned
        families.setdefault(min(untuned, default=""), []).append(number)
    corrected: dict[int, float | None] = {}
    for numbers in families.values():
        corrected |= zip(numbers, holm([compared[number][1] for number in numbers]), strict=True)
    sizes = {number: len(numbers) for numbers in families.values() for number in numbers}
    return tuple(
        PairwiseResult(
            comparison=comparison,
            p_value=p_value,
            p_holm=(fixed := corrected[number]),
            family=sizes[number],
            separable=comparison.separable and (fixed is None or fixed <= ALPHA),
        )
        for number, (comparison, p_value) in enumerate(compared)
    )


def _row_scores(result: EvaluationResult, system: SystemResult, metric: str) -> Sequence[float] | None:
    """Return one score per row, where the metric is a mean over rows."""
    if metric in system.scores:
        return system.scores[metric]
    if metric == "accuracy" and system.predicted is not None and result.truth is not None:
        return [float(answer == expected) for answer, expected in zip(system.predicted, result.truth, strict=True)]
    return None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values by Holm's step-down method; None stays None and does not count."""
    ranked = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for number, (value, index) in enumerate(ranked):
        highest = max(highest, min(1.0, (len(ranked) - number) * value))
        corrected[index] = highest
    return corrected


def sign_flip(a: Sequence[float], b: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Return the two-sided p-value of a mean of paired differences: how often random signs give as large a one."""
    difference = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    observed = abs(difference.sum())
    if observed == 0:
        return 1.0
    draw = np.random.default_rng(seed)
    hits = 0
    for start in range(0, resamples, 1000):
        signs = draw.choice((-1.0, 1.0), size=(min(1000, resamples - start), len(difference)))
        hits += int((np.abs(signs @ difference) >= observed - 1e-12).sum())
    return (hits + 1) / (resamples + 1)


# --- words -----------------------------------------------------------------------------------------------------------
def _compute_break_even(entries: Sequence[Entry], standings: Sequence[LeaderboardRow]) -> tuple[BreakEven, ...]:
    """Compute the break-even of every tuned model against its own base model with examples."""
    by_label = {row.label: row for row in standings}
    few_shot_labels = {
        (entry.provider, entry.model): entry.few_shot[0] for entry in entries if entry.few_shot is not None
    }
    return tuple(
        BreakEven(
            tuned=entry.label,
            few_shot=label,
            answers=_answers_to_break_even(entry, by_label[entry.label], by_label[label]),
        )
        for entry in entries
        if (label := few_shot_labels.get((entry.provider, entry.model)))
        and by_label[entry.label].state is RunState.SUCCEEDED
    )


def _answers_to_break_even(entry: Entry, tuned: LeaderboardRow, few_shot: LeaderboardRow) -> float | NotReported:
    """Return after how many answers the training has paid for itself: its cost over the saving per answer."""
    if hourly := _hosting_per_hour(entry):
        return NotReported(
            f"the tuned model is billed {hourly:g} {tuned.cost.currency} an hour, however much it answers"
        )
    spent: float | NotReported = tuned.cost.billed
    if isinstance(spent, NotReported):
        spent = tuned.cost.estimated if entry.training is None else entry.training
    price, few_shot_price = tuned.price_per_1000, few_shot.price_per_1000
    if isinstance(spent, NotReported):
        return spent
    if isinstance(price, NotReported):
        return price
    if isinstance(few_shot_price, NotReported):
        return few_shot_price
    saved = (few_shot_price - price) / 1000
    if saved < 0 or (saved == 0 and spent):
        return NotReported("an answer of the tuned model is not cheaper")
    return math.ceil(spent / saved) if spent else 0.0


def _hosting_per_hour(entry: Entry) -> float:
    """Return the hourly price of hosting the tuned model; 0 where only its tokens are billed."""
    return entry.price.hosting or 0.0 if entry.hosted and isinstance(entry.price, Price) else 0.0
