"""Several runs on one held-out split, side by side: who is better, by how much, at what price, and is that luck.

Pairs are told apart by the exact McNemar test where rows are right or wrong, else by a sign-flip permutation test of
the mean difference. The p-values of the members among themselves are corrected by Holm's method (Holm 1979, Scand. J.
Stat. 6:65); so are those of all members against one baseline, each baseline by itself: whether tuning helps is another
question than which member is the best, and asking both must not make either harder to answer.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData, MissingExtra
from llmtune.evaluation.results import EvaluationResult, Latency, MetricValue, SystemResult, Usage
from llmtune.metrics.comparison import Comparison, compare_means, compare_unpaired
from llmtune.metrics.intervals import RESAMPLES
from llmtune.metrics.points import NotReported, Series
from llmtune.provider.limits import Price
from llmtune.provider.types import RunState
from llmtune.redaction.documents import dump_json
from llmtune.report.render import Renderable
from llmtune.report.schema import Cost, Report, Timing
from llmtune.report.verdicts import ALPHA

if TYPE_CHECKING:
    import pandas


#: Baselines for which no model is asked, and what they are called on the board.
COMPUTED = {
    "linear": "linear model (TF-IDF)",
    "nearest": "nearest training row",
    "majority": "most frequent label",
}


class Standing(DocumentedModel):
    """One row of the board: a tuned model, a base model as it is or with examples in its prompt, or a baseline for
    which no model is asked (a linear model, the nearest training row, always the most frequent label)."""

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

    latency: Latency | NotReported = NotReported("the backend tells no times")
    price_per_1000: float | NotReported = NotReported("nothing was generated")
    """What 1,000 answers like these cost, in the cost's currency."""

    lost: dict[str, str] = {}
    """Fields of the job that this backend did not use, with what happened instead."""

    converted: dict[str, str] = {}
    """Fields that went out after a rule."""

    lifecycle: str = ""
    """Until when it takes jobs and answers."""

    curves: dict[str, Series] = {}


class Pair(DocumentedModel):
    """Two rows of the board, told apart or not."""

    comparison: Comparison
    p_value: float | None
    """Of this pair alone."""

    p_holm: float | None
    """Corrected for the family: the members among themselves, or all members against one baseline."""

    family: int = 1
    """Pairs in the family."""

    separable: bool


class BreakEven(DocumentedModel):
    """From how many answers on tuning is cheaper than examples in the prompt."""

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
        "markdown": "llmtune.report.leaderboard.text:to_markdown",
        "html": "llmtune.report.leaderboard.html:render",
        "sentences": "llmtune.report.leaderboard.text:sentences",
    }

    schema_version: Literal[1] = 1
    name: str
    group: str
    """Under which its runs are found in the store."""

    metric: str
    rows: int
    """Held-out rows that every member answered."""

    standings: tuple[Standing, ...]
    """Best first; those without a result last."""

    pairs: tuple[Pair, ...] = ()
    break_even: tuple[BreakEven, ...] = ()
    verdict: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __getitem__(self, label: str) -> Standing:
        for each in self.standings:
            if each.label == label:
                return each
        raise KeyError(label)

    @property
    def failed(self) -> tuple[Standing, ...]:
        """Members that made no model."""
        return tuple(each for each in self.standings if each.kind == "tuned" and each.state is not RunState.SUCCEEDED)

    def to_json(self) -> str:
        """As JSON; `Board.model_validate_json` reads it back."""
        return dump_json(self.model_dump(mode="json"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as .json, .md or .html, by the ending. Raises `InvalidData` for another."""
        place = Path(path)
        made = {".json": self.to_json, ".md": self.to_markdown, ".html": self.to_html}.get(place.suffix)
        if made is None:
            raise InvalidData(f"{place}: a board is written as .json, .md or .html")
        place.write_text(made(), encoding="utf-8")

    def to_pandas(self) -> pandas.DataFrame:
        """One row a standing. Raises `MissingExtra` without pandas."""
        try:
            import pandas as found
        except ImportError:
            raise MissingExtra("report", "pandas", purpose="data frames") from None
        return found.DataFrame([_flat(each) for each in self.standings])


def _flat(each: Standing) -> dict[str, Any]:
    quality = None if isinstance(each.quality, NotReported) else each.quality
    told: dict[str, Any] = {
        "label": each.label,
        "kind": each.kind,
        "provider": each.provider,
        "model": each.model,
        "run": each.run,
        "state": None if each.state is None else each.state.value,
        "quality": None if quality is None else quality.value,
        "low": None if quality is None else quality.interval.low,
        "high": None if quality is None else quality.interval.high,
        "lost": ", ".join(each.lost),
    }
    for name, value in (
        ("estimated", each.cost.estimated),
        ("billed", each.cost.billed),
        ("queued_seconds", each.timing.queued),
        ("training_seconds", each.timing.training),
        ("trained_tokens", each.trained_tokens),
        ("prompt_tokens", each.usage if isinstance(each.usage, NotReported) else each.usage.prompt_tokens),
        ("completion_tokens", each.usage if isinstance(each.usage, NotReported) else each.usage.completion_tokens),
        ("price_per_1000", each.price_per_1000),
    ):
        told[name] = None if isinstance(value, NotReported) else value
    latency = None if isinstance(each.latency, NotReported) else each.latency
    told["p50"], told["p95"] = (None, None) if latency is None else (latency.p50, latency.p95)
    return told


class Entry(DocumentedModel):
    """What the board is made of: a member's report (or why there is none), and what its answers cost."""

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
    """Put the members side by side."""
    found = {entry.label: _evaluation(entry) for entry in entries}
    main = next((each.main for each in found.values() if each is not None), "")
    standings: list[Standing] = []
    scores: dict[str, tuple[EvaluationResult, SystemResult]] = {}
    bases: set[tuple[str, str]] = set()
    for entry in entries:
        evaluation = found[entry.label]
        tuned = None if evaluation is None else evaluation.system("tuned")
        standings.append(_standing(entry, "tuned", entry.label, evaluation, tuned, main))
        if evaluation is not None and tuned is not None:
            scores[entry.label] = (evaluation, tuned)
        place = (entry.provider, entry.model)
        base = None if evaluation is None else evaluation.system("base")
        if evaluation is not None and base is not None and place not in bases:
            bases.add(place)
            label = f"{entry.provider}:{entry.model} as it is"
            standings.append(_standing(entry, "base", label, evaluation, base, main))
            scores[label] = (evaluation, base)
        if entry.few_shot is not None:
            label, shown = entry.few_shot
            system = shown.system("few-shot")
            standings.append(_standing(entry, "few-shot", label, shown, system, main))
            if system is not None:
                scores[label] = (shown, system)
    computed = _computed(found.values(), main)
    standings += [standing for standing, _, _ in computed]
    scores |= {standing.label: (evaluation, system) for standing, evaluation, system in computed}
    tuned_ones = {each.label for each in standings if each.kind == "tuned"}
    pairs = _pairs(main, scores, tuned_ones)
    standings.sort(key=_rank(scores, main))
    rows = min((result.rows for result, _ in scores.values()), default=0)
    even = _break_even(entries, standings)
    said = list(warnings)
    said += [
        f"{each.label} is billed {hourly:g} USD an hour beside its tokens: the price of its answers is without that"
        for each in entries
        if (hourly := _hourly(each)) and each.label in scores
    ]
    ids = {result.row_ids for result, _ in scores.values()}
    if len(ids) > 1:
        said.append("not every member answered the same rows: those pairs are compared by their intervals alone")
    if len({result.scored_by for result, _ in scores.values()}) > 1:
        said.append("some members were scored by the likelihood of each label, others by the text they gave")
    board = Board(
        name=name,
        group=group,
        metric=main,
        rows=rows,
        standings=tuple(standings),
        pairs=pairs,
        break_even=even,
        warnings=tuple(said),
    )
    return board.model_copy(update={"verdict": tuple(board.render("sentences"))})


def _computed(
    evaluations: Iterable[EvaluationResult | None], main: str
) -> list[tuple[Standing, EvaluationResult, SystemResult]]:
    """The baselines for which no model is asked: the same rows give the same figures, so each stands here once."""
    found: dict[str, tuple[Standing, EvaluationResult, SystemResult]] = {}
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
            place = evaluation.labels.index(majority.label)
            always = (place,) * len(evaluation.truth)
            systems["majority"] = SystemResult(name="majority", metrics=(majority.accuracy,), predicted=always)
        for name, system in systems.items():
            value = system.get(main)
            if value is None or name in found:
                continue
            standing = Standing(
                label=COMPUTED[name],
                kind=name,  # type: ignore[arg-type]
                provider="here",
                model=name,
                quality=value,
                metrics=system.metrics,
                price_per_1000=0.0,
            )
            found[name] = (standing, evaluation, system)
    return list(found.values())


def _evaluation(entry: Entry) -> EvaluationResult | None:
    if entry.report is None or isinstance(entry.report.evaluation, NotReported):
        return None
    return entry.report.evaluation


def _standing(
    entry: Entry,
    kind: Literal["tuned", "base", "few-shot"],
    label: str,
    evaluation: EvaluationResult | None,
    system: SystemResult | None,
    main: str,
) -> Standing:
    report = entry.report
    told: dict[str, Any] = {"label": label, "kind": kind, "provider": entry.provider, "model": entry.model}
    if kind == "tuned":
        told |= {"lifecycle": entry.lifecycle, "error": entry.error}
        if report is not None:
            told |= {
                "run": report.identity.run_id,
                "state": report.identity.state,
                "error": entry.error or report.error,
                "cost": report.cost,
                "timing": report.timing,
                "trained_tokens": report.data.trained_tokens,
                "lost": {row.field: row.reason or "" for row in report.receipt if row.lost},
                "converted": {row.field: row.rule or "" for row in report.receipt if row.support == "converted"},
                "curves": {name: each for name, each in report.series.items() if isinstance(each, Series)},
            }
            tuned = evaluation.systems.get("tuned") if evaluation is not None else report.evaluation
            if isinstance(tuned, NotReported):
                told["quality"] = tuned
    if system is None or evaluation is None:
        return Standing(**told)
    value = system.get(main)
    return Standing(
        **told
        | {
            "quality": value or NotReported(system.not_reported.get(main, "it was not measured")),
            "metrics": system.metrics,
            "scored_by": evaluation.scored_by,
            "usage": system.usage,
            "latency": system.latency,
            "price_per_1000": _price(entry, system, tuned=kind == "tuned"),
        }
    )


def _price(entry: Entry, system: SystemResult, *, tuned: bool) -> float | NotReported:
    """What 1,000 such answers cost."""
    if not entry.hosted:
        return 0.0
    price = entry.price if isinstance(entry.price, Price) else Price()
    given, made = (price.input, price.output) if tuned else (price.base_input, price.base_output)
    if given is None or made is None:
        return NotReported(f"the price of the {'tuned' if tuned else 'base'} model's answers is not in the catalogue")
    usage = system.usage
    if isinstance(usage, NotReported):
        return usage
    answers = usage.asked + usage.cached
    if isinstance(usage.prompt_tokens, NotReported) or isinstance(usage.completion_tokens, NotReported) or not answers:
        return NotReported("the backend tells no tokens")
    return 1000 * (usage.prompt_tokens * given + usage.completion_tokens * made) / 1e6 / answers


def _rank(scores: Mapping[str, tuple[EvaluationResult, SystemResult]], main: str) -> Any:
    def key(each: Standing) -> tuple[int, float, str]:
        if isinstance(each.quality, NotReported):
            return (1, 0.0, each.label)
        sign = 1 if each.quality.better == "lower" else -1
        return (0, sign * each.quality.value, each.label)

    return key


# --- pairs -----------------------------------------------------------------------------------------------------------
def _pairs(main: str, scores: Mapping[str, tuple[EvaluationResult, SystemResult]], tuned: set[str]) -> tuple[Pair, ...]:
    """Every pair in which a tuned model takes part: what is not asked about needs no correction."""
    compared: list[tuple[Comparison, float | None]] = []
    for (one, (first, a)), (other, (second, b)) in itertools.combinations(scores.items(), 2):
        x, y = a.get(main), b.get(main)
        if x is None or y is None or not tuned & {one, other}:
            continue
        left, right = _row_scores(first, a, main), _row_scores(second, b, main)
        if left is None or right is None or first.row_ids != second.row_ids:
            compared.append(
                (
                    compare_unpaired(
                        x.value,
                        x.interval,
                        y.value,
                        y.interval,
                        rows=min(x.rows, y.rows),
                        metric=main,
                        name_a=one,
                        name_b=other,
                        better=x.better,
                    ),
                    None,
                )
            )
            continue
        comparison = compare_means(left, right, metric=main, name_a=one, name_b=other, better=x.better)
        p_value = comparison.p_value if comparison.p_value is not None else sign_flip(left, right)
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
        Pair(
            comparison=comparison,
            p_value=p_value,
            p_holm=(fixed := corrected[number]),
            family=sizes[number],
            separable=comparison.separable and (fixed is None or fixed <= ALPHA),
        )
        for number, (comparison, p_value) in enumerate(compared)
    )


def _row_scores(result: EvaluationResult, system: SystemResult, metric: str) -> Sequence[float] | None:
    """One score a row, where the metric is a mean over rows."""
    if metric in system.scores:
        return system.scores[metric]
    if metric == "accuracy" and system.predicted is not None and result.truth is not None:
        return [float(got == wanted) for got, wanted in zip(system.predicted, result.truth, strict=True)]
    return None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; None stays None and does not count."""
    known = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for number, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - number) * value))
        corrected[place] = highest
    return corrected


def sign_flip(a: Sequence[float], b: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference of paired scores: how often random signs give as large a one."""
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
def _break_even(entries: Sequence[Entry], standings: Sequence[Standing]) -> tuple[BreakEven, ...]:
    """Every tuned model against its own base model with examples."""
    by_label = {each.label: each for each in standings}
    shown = {(each.provider, each.model): each.few_shot[0] for each in entries if each.few_shot is not None}
    return tuple(
        BreakEven(tuned=entry.label, few_shot=label, answers=_answers(entry, by_label[entry.label], by_label[label]))
        for entry in entries
        if (label := shown.get((entry.provider, entry.model))) and by_label[entry.label].state is RunState.SUCCEEDED
    )


def _answers(entry: Entry, tuned: Standing, shown: Standing) -> float | NotReported:
    """What the training cost, by what an answer costs less."""
    if hourly := _hourly(entry):
        return NotReported(
            f"the tuned model is billed {hourly:g} {tuned.cost.currency} an hour, however much it answers"
        )
    spent: float | NotReported = tuned.cost.billed
    if isinstance(spent, NotReported):
        spent = tuned.cost.estimated if entry.training is None else entry.training
    price, other = tuned.price_per_1000, shown.price_per_1000
    if isinstance(spent, NotReported):
        return spent
    if isinstance(price, NotReported):
        return price
    if isinstance(other, NotReported):
        return other
    saved = (other - price) / 1000
    if saved < 0 or (saved == 0 and spent):
        return NotReported("an answer of the tuned model is not cheaper")
    return math.ceil(spent / saved) if spent else 0.0


def _hourly(entry: Entry) -> float:
    """What keeping the tuned model ready costs an hour; 0 where only its tokens are billed."""
    return entry.price.hosting or 0.0 if entry.hosted and isinstance(entry.price, Price) else 0.0
