"""Underfit, good fit or overfit: a verdict with the numbers behind it and with advice.

Two kinds of evidence. Scores (accuracy, or any share where higher is better) on a sample of the training rows, on
validation and on test rows: a low training score is underfitting, a training score far above the others is
overfitting. And the loss curves: validation loss that rises while training loss falls is overfitting, loss that still
falls at the end is underfitting. Where both are there the scores decide, because they are what the model is for; the
curve stands beside them as a fact, never as a second verdict, and takes out the advice that it contradicts.

The thresholds are rules of thumb and are named below; a gap that so few rows could show by chance does not count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from llmtune._models import DocumentedModel
from llmtune.metrics.comparison import compare_unpaired
from llmtune.metrics.intervals import wilson
from llmtune.metrics.points import MetricPoint, NotReported, Number, Series
from llmtune.metrics.sentences import fill_sentence

#: A training score this far above the held-out ones is overfitting (10 points).
GAP = 0.10
#: A training score below this is underfitting (75 %): the model has not even learned what it was shown.
LOW = 0.75
#: Held-out scores from this on leave nothing worth training longer for (98 %).
NEARLY_ALL = 0.98
#: A training score at most this far above the majority class has learned nothing yet (5 points).
NOTHING_LEARNED = 0.05
#: Validation loss this far above its own lowest value has turned (5 % of it).
TURNED = 0.05
#: Loss that fell this much over the last quarter of the steps is still falling (5 %).
STILL_FALLING = 0.05
#: Points from which on a curve can be said to have levelled off.
ENOUGH_POINTS = 5
#: A loss is a spike above this many robust deviations from the steps before it, and above 1.5 times their median.
SPIKE_DEVIATIONS = 6.0
SPIKE_FACTOR = 1.5
#: Steps before a spike that it is compared with, and the fewest of them.
SPIKE_WINDOW = 20
SPIKE_MINIMUM = 8

#: A curve with more spikes than this share of its steps is jumpy by nature.
SPIKE_SHARE = 0.02

#: How well a model fits.
DiagnosisVerdict = Literal["underfit", "good fit", "overfit", "diverged", "unclear"]

TRAIN_LONGER = "train longer: more epochs or max_steps"
RAISE_RATE = "raise the learning rate (learning_rate or learning_rate_multiplier, twice to five times)"
STOP_EARLIER = "stop earlier: fewer epochs, or early_stopping_patience with eval_every"
EARLIER_CHECKPOINT = "look at the checkpoint before validation loss turned (early_stopping_patience with eval_every)"

ADVICE: dict[str, tuple[str, ...]] = {
    "underfit": (
        TRAIN_LONGER,
        RAISE_RATE,
        "give the adapter more room: a higher lora_rank, lora_target_modules all-linear, or a larger base model",
        "look at the rows: contradicting labels or prompts without the needed facts cannot be learned",
    ),
    "overfit": (
        STOP_EARLIER,
        "add training rows, above all of the kinds that fail, and remove near-duplicates",
        "hold back: lora_dropout, weight_decay, a lower lora_rank or a lower learning rate",
        "check that no test row stands in the training data before believing a very high training score",
    ),
    "diverged": (
        "lower the learning rate by five to ten times, or warm up longer (warmup_ratio)",
        "clip gradients (max_grad_norm 1.0 or below)",
        "look at the rows of the steps where it broke",
    ),
    "good fit": (),
    "unclear": (
        "give validation rows, and evaluate on a sample of the training rows as well, so that fit can be judged",
    ),
}


class Spike(DocumentedModel):
    """A loss of a `series` that jumped at a `step`, out of its neighbourhood, or was no number."""

    series: str
    step: int
    value: Number
    before: Number
    """Median of the steps before it, at most 20."""

    def sentence(self) -> str:
        """ "train/loss jumped to 3.10 at step 120 (before: 0.42)"."""
        before = fill_sentence("spike_before", value=f"{self.before:.4g}") if math.isfinite(self.before) else ""
        if not math.isfinite(self.value):
            return fill_sentence("spike_value", curve=self.series, value=self.value, step=self.step, before=before)
        return fill_sentence("spike", curve=self.series, value=f"{self.value:.4g}", step=self.step, before=before)


class Diagnosis(DocumentedModel):
    """How well the model fits: the `verdict`, its `evidence`, `advice` on what to try next, `spikes` of the loss."""

    verdict: DiagnosisVerdict
    sentence: str
    """The verdict with its main numbers, in one sentence."""

    evidence: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    spikes: tuple[Spike, ...] = ()


def diagnose(
    *,
    train: float | None = None,
    validation: float | None = None,
    test: float | None = None,
    rows: Mapping[str, int] | None = None,
    majority: float | None = None,
    series: Mapping[str, Series | NotReported] | None = None,
) -> Diagnosis:
    """Judge the fit from scores, curves, or both.

    Args:
        train: score of the tuned model on a sample of its training rows, 0..1, higher is better.
        validation: the same score on validation rows.
        test: the same score on test rows.
        rows: how many rows each score is over ({"train": 200, "test": 300}); without them gaps are taken as exact.
        majority: score of always giving the most frequent answer, where there is such.
        series: curves by canonical name; "train/loss" and the two validation losses are read.
    """
    curves = {name: curve for name, curve in (series or {}).items() if isinstance(curve, Series) and curve.points}
    train_loss = curves.get("train/loss")
    validation_loss = pick_validation(curves.get("validation/full_loss"), curves.get("validation/loss"))
    spikes = tuple(spike for curve in (train_loss, validation_loss) if curve for spike in find_spikes(curve))

    broken = _describe_divergence(train_loss)
    by_scores = _judge_scores(train, validation, test, rows or {}, majority)
    trend = _find_trend(train_loss, validation_loss)
    verdict: DiagnosisVerdict
    if broken is not None:
        verdict, sentence = "diverged", broken
        evidence = (by_scores[1],) if by_scores is not None else ()
        advice = ADVICE["diverged"]
    elif by_scores is not None:
        verdict, sentence = by_scores
        evidence = (_capitalise(trend.fact),) if trend is not None else ()
        solved = min(score for score in (validation, test) if score is not None) >= NEARLY_ALL
        advice = () if solved and verdict == "good fit" else _choose_advice(verdict, trend)
    elif trend is not None:
        verdict = _BY_TREND[trend.direction]
        sentence = fill_sentence(f"by_curves_{verdict}", fact=trend.fact)
        evidence = ()
        advice = ADVICE[verdict]
    else:
        verdict, sentence, evidence, advice = "unclear", fill_sentence("fit_unclear"), (), ADVICE["unclear"]
    if spikes and verdict != "diverged":
        advice = (*advice, "look at the rows of the spiking steps; a lower learning rate or max_grad_norm smooths them")
    return Diagnosis(verdict=verdict, sentence=sentence, evidence=evidence, advice=advice, spikes=spikes)


def pick_validation(full: Series | None, sampled: Series | None) -> Series | None:
    """Return the validation curve to judge: the full one where it has enough points, else the longer one.

    The loss over all validation rows is the better evidence, but it often comes once per epoch, and two or three points
    cannot tell a curve that falls from one that has levelled off.
    """
    if full is None or sampled is None:
        return full if sampled is None else sampled
    return full if len(full) >= min(ENOUGH_POINTS, len(sampled)) else sampled


def find_spikes(curve: Series, limit: int = 10) -> list[Spike]:
    """Find the steps at which the value jumped far above the ones before; return the `limit` largest, by step.

    The yardstick is the median and the median absolute deviation of up to 20 steps before, which one spike cannot
    move. Neighbouring steps are one spike, reported at its first step with its highest value. A curve that jumps at
    more than one step in fifty is jumpy by nature (tiny batches) and has none. A value that is not finite is always
    one.
    """
    broken: list[Spike] = []
    jumps: list[Spike] = []
    recent: list[float] = []
    previous: float | None = None
    for index, point in enumerate(curve.points):
        middle = median(recent) if recent else math.nan
        if not math.isfinite(point.value):
            broken.append(Spike(series=curve.name, step=point.step, value=point.value, before=middle))
            continue
        if len(recent) >= SPIKE_MINIMUM:
            # 1.4826 makes the median absolute deviation a standard deviation for normal noise.
            spread = 1.4826 * median(abs(value - middle) for value in recent)
            if point.value > SPIKE_FACTOR * middle + SPIKE_DEVIATIONS * spread:
                if previous == index - 1:
                    highest = max(jumps[-1].value, point.value)
                    jumps[-1] = jumps[-1].model_copy(update={"value": highest})
                else:
                    jumps.append(Spike(series=curve.name, step=point.step, value=point.value, before=middle))
                previous = index
        recent = [*recent, point.value][-SPIKE_WINDOW:]
    if len(jumps) > max(3, len(curve) * SPIKE_SHARE):
        jumps = []
    largest = sorted(jumps, key=lambda spike: spike.before - spike.value)
    return sorted([*broken, *largest][:limit], key=lambda spike: spike.step)


def _judge_scores(
    train: float | None, validation: float | None, test: float | None, rows: Mapping[str, int], majority: float | None
) -> tuple[DiagnosisVerdict, str] | None:
    held_out = {name: score for name, score in (("validation", validation), ("test", test)) if score is not None}
    if not held_out:
        return None
    scores = held_out if train is None else {"train": train, **held_out}
    figures = ", ".join(f"{name} {score:.1%}" for name, score in scores.items())
    if train is None:
        nearly_all = min(held_out.values()) >= max(NEARLY_ALL, (majority or 0) + NOTHING_LEARNED / 5)
        return ("good fit", fill_sentence("good_fit_held_out", figures=figures)) if nearly_all else None
    worst = min(held_out, key=lambda name: held_out[name])
    gap = train - held_out[worst]
    if gap > GAP and _is_beyond_chance(train, held_out[worst], rows.get("train"), rows.get(worst)):
        return "overfit", fill_sentence("overfit", figures=figures, gap=f"{100 * gap:.0f}", worst=worst)
    if majority is not None and train <= majority + NOTHING_LEARNED:
        return "underfit", fill_sentence("underfit_majority", figures=figures, majority=f"{majority:.1%}")
    if train < LOW:
        return "underfit", fill_sentence("underfit", figures=figures, low=f"{LOW:.0%}")
    if gap > GAP:
        return "good fit", fill_sentence("good_fit_few_rows", figures=figures, gap=f"{100 * gap:.0f}")
    return "good fit", fill_sentence("good_fit", figures=figures, gap=f"{100 * GAP:.0f}")


def _is_beyond_chance(train: float, held_out: float, train_rows: int | None, held_out_rows: int | None) -> bool:
    if not train_rows or not held_out_rows:
        return True
    return compare_unpaired(
        held_out,
        wilson(round(held_out * held_out_rows), held_out_rows),
        train,
        wilson(round(train * train_rows), train_rows),
        rows=min(train_rows, held_out_rows),
        metric="score",
    ).separable


@dataclass(frozen=True)
class _Trend:
    """Where a loss curve was going at its end, and the fact in words, as a clause."""

    direction: Literal["rising", "falling", "level", "short"]
    fact: str


_BY_TREND: dict[str, DiagnosisVerdict] = {
    "rising": "overfit",
    "falling": "underfit",
    "level": "good fit",
    "short": "unclear",
}


def _find_trend(train: Series | None, validation: Series | None) -> _Trend | None:
    """Return where the validation loss was going; without one that can be judged, whether the training loss fell."""
    values = [] if validation is None else [point.value for point in validation.points if math.isfinite(point.value)]
    if validation is None or len(values) < 3:
        return _find_training_trend(train, validation)
    name = f"{validation.info.title} ({len(values)} points)"
    first_rise = _find_rise(validation)
    if first_rise is not None:
        lowest, last = first_rise
        start, end = _median_level(train, up_to=lowest.step), _median_level(train)
        training_fell = (
            fill_sentence("rising_beside", start=f"{start:.4g}", end=f"{end:.4g}")
            if start is not None and end is not None and end < start
            else ""
        )
        return _Trend(
            "rising",
            fill_sentence(
                "rising",
                curve=name,
                step=lowest.step,
                lowest=f"{lowest.value:.4g}",
                last=f"{last.value:.4g}",
                last_step=last.step,
                training=training_fell,
            ),
        )
    fall = late_fall(validation)
    if fall is None:
        return _Trend("short", fill_sentence("short", curve=name))
    if fall > STILL_FALLING and fall > _chance_fall(validation):
        return _Trend(
            "falling",
            fill_sentence("falling", curve=name, fall=f"{fall:.0%}", last=f"{values[-1]:.4g}"),
        )
    if len(values) < ENOUGH_POINTS:
        return _Trend("short", fill_sentence("short", curve=name))
    best = validation.best
    assert best is not None
    return _Trend(
        "level",
        fill_sentence("level", curve=name, last=f"{values[-1]:.4g}", lowest=f"{best.value:.4g}", step=best.step),
    )


def _find_rise(curve: Series) -> tuple[MetricPoint, MetricPoint] | None:
    """Return the lowest point and the last one, where the curve has turned by more than its own noise."""
    points = [point for point in curve.points if math.isfinite(point.value)]
    lowest, last = min(points, key=lambda point: point.value), points[-1]
    size = max(1, len(points) // 8)
    levels = [_median([point.value for point in points[at : at + size]]) for at in range(len(points) - size + 1)]
    best, end = min(levels), levels[-1]
    noise = _estimate_noise([point.value for point in points])
    # The lowest of many noisy levels lies well below their mean: four deviations, not two.
    turned = end - best > max(TURNED * abs(best), 0.005, 4 * noise / math.sqrt(size))
    return (lowest, last) if turned and lowest.step < last.step else None


def _chance_fall(curve: Series) -> float:
    """Return the late fall, as a share, that the curve's own noise can show."""
    values = [point.value for point in curve.points if math.isfinite(point.value)]
    half = max(1, len(values) // 8)
    level = _median(values[-max(1, len(values) // 4) :])
    recent = values[-max(12, len(values) // 3) :]  # noise shrinks as the loss does
    return 3 * _estimate_noise(recent) * math.sqrt(2 / half) / level if level > 0 else math.inf


def _estimate_noise(values: Sequence[float]) -> float:
    """Return the standard deviation of one value around a smooth curve, from second differences; 0 for short curves."""
    if len(values) < 12:  # the bend of so few points would be taken for noise
        return 0.0
    second = [abs(values[at] - 2 * values[at + 1] + values[at + 2]) for at in range(len(values) - 2)]
    # A second difference of independent values has a variance of 6; 1.4826 makes the median a deviation.
    return 1.4826 * float(median(second)) / math.sqrt(6)


def _find_training_trend(train: Series | None, validation: Series | None) -> _Trend | None:
    fall = late_fall(train) if train is not None and len(train) >= 8 else None
    if train is None or fall is None or fall <= max(2 * STILL_FALLING, _chance_fall(train)):
        return None
    few = fill_sentence("no_validation" if validation is None else "few_validation")
    return _Trend("falling", fill_sentence("training_falling", fall=f"{fall:.0%}", few=few))


def _choose_advice(verdict: DiagnosisVerdict, trend: _Trend | None) -> tuple[str, ...]:
    """Return what to try: never to train longer where validation loss rises, nor to stop earlier where it falls."""
    advice = ADVICE[verdict]
    if trend is None:
        return advice
    if trend.direction == "rising":
        dropped = tuple(line for line in advice if line not in (TRAIN_LONGER, RAISE_RATE))
        return (*dropped, EARLIER_CHECKPOINT) if verdict != "overfit" else dropped
    if trend.direction == "falling":
        dropped = tuple(line for line in advice if line != STOP_EARLIER)
        return (*dropped, TRAIN_LONGER) if verdict == "good fit" else dropped
    return advice


def _capitalise(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def _describe_divergence(train: Series | None) -> str | None:
    if train is None or train.last is None or train.first is None:
        return None
    if not math.isfinite(train.last.value):
        broke = next(point for point in train.points if not math.isfinite(point.value))
        return fill_sentence("diverged_value", value=train.last.value, step=broke.step)
    start, end = _median_level(train, first=True), _median_level(train)
    if len(train) >= 8 and start is not None and end is not None and end > 1.2 * start + 0.05:
        return fill_sentence("diverged_rise", start=f"{start:.4g}", end=f"{end:.4g}")
    return None


def _median_level(curve: Series | None, *, up_to: int | None = None, first: bool = False) -> float | None:
    """Return the median of the last (or first) tenth of the values, at least three: one noisy batch cannot move it."""
    if curve is None:
        return None
    values = [
        point.value for point in curve.points if math.isfinite(point.value) and (up_to is None or point.step <= up_to)
    ]
    if not values:
        return None
    size = max(3, len(values) // 10)
    return median(values[:size] if first else values[-size:])


def late_fall(curve: Series) -> float | None:
    """Return how much the level fell over the last quarter of the steps, as a share of the level before."""
    finite = [point for point in curve.points if math.isfinite(point.value)]
    if len(finite) < 4:
        return None
    cut = finite[0].step + 0.75 * (finite[-1].step - finite[0].step)
    before, after = [p.value for p in finite if p.step <= cut], [p.value for p in finite if p.step > cut]
    if not before or not after:
        return None
    size = max(1, min(len(before), len(after)) // 2)
    start, end = _median(before[-size:]), _median(after[-size:])
    return (start - end) / start if start > 0 else None


def _median(values: Sequence[float]) -> float:
    return float(median(values))
