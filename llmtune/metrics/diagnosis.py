"""Underfit, good fit or overfit: said with the numbers that say so, and with what to try next.

Two kinds of evidence. Scores (accuracy, or any share where higher is better) on a sample of the training rows, on
validation and on test rows: a low training score is underfitting, a training score far above the others is
overfitting. And the loss curves: validation loss that rises while training loss falls is overfitting, loss that still
falls at the end is underfitting. Where both are there the scores decide, because they are what the model is for, and
what the curves say stands beside them.

The thresholds are rules of thumb and are named below; a gap that so few rows could show by chance does not count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

from llmtune._models import DocumentedModel
from llmtune.metrics.comparison import compare_unpaired
from llmtune.metrics.intervals import wilson
from llmtune.metrics.points import NotReported, Number, Series

#: A training score this far above the held-out ones is overfitting (10 points).
GAP = 0.10
#: A training score below this is underfitting (75 %): the model has not even learned what it was shown.
LOW = 0.75
#: A training score at most this far above the majority class has learned nothing yet (5 points).
NOTHING_LEARNED = 0.05
#: Validation loss this far above its own lowest value has turned (5 % of it).
TURNED = 0.05
#: Loss that fell this much over the last quarter of the steps is still falling (5 %).
STILL_FALLING = 0.05
#: A loss is a spike above this many robust deviations from the steps before it, and above 1.5 times their median.
SPIKE_DEVIATIONS = 6.0
SPIKE_FACTOR = 1.5
#: Steps before a spike that it is compared with, and the fewest of them.
SPIKE_WINDOW = 20
SPIKE_MINIMUM = 8

#: A curve with more spikes than this share of its steps is jumpy by nature.
SPIKE_SHARE = 0.02

Verdict = Literal["underfit", "good fit", "overfit", "diverged", "unclear"]

ADVICE: dict[str, tuple[str, ...]] = {
    "underfit": (
        "train longer: more epochs or max_steps",
        "raise the learning rate (learning_rate or learning_rate_multiplier, twice to five times)",
        "give the adapter more room: a higher lora_rank, lora_target_modules all-linear, or a larger base model",
        "look at the rows: contradicting labels or prompts without the needed facts cannot be learned",
    ),
    "overfit": (
        "stop earlier: fewer epochs, or early_stopping_patience with eval_every",
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
    """A loss that jumped out of its neighbourhood, or was no number."""

    series: str
    step: int
    value: Number
    before: Number
    """Median of the steps before it, at most 20."""

    def sentence(self) -> str:
        """ "train/loss jumped to 3.10 at step 120 (before: 0.42)"."""
        before = f" (before: {self.before:.4g})" if math.isfinite(self.before) else ""
        if not math.isfinite(self.value):
            return f"{self.series} was {self.value} at step {self.step}{before}"
        return f"{self.series} jumped to {self.value:.4g} at step {self.step}{before}"


class Diagnosis(DocumentedModel):
    """How well the model fits, the numbers behind it, and what to try next."""

    verdict: Verdict
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
        series: curves by canonical name; "train/loss" and "validation/loss" are looked at.
    """
    curves = {name: each for name, each in (series or {}).items() if isinstance(each, Series) and each.points}
    train_loss = curves.get("train/loss")
    # The loss over all validation rows is the better witness, where there is enough of it: it comes once an epoch.
    whole, sampled = curves.get("validation/full_loss"), curves.get("validation/loss")
    validation_loss = whole if whole is not None and (sampled is None or len(whole.points) >= 3) else sampled
    spikes = tuple(spike for curve in (train_loss, validation_loss) if curve for spike in find_spikes(curve))

    broken = _diverged(train_loss)
    by_scores = _from_scores(train, validation, test, rows or {}, majority)
    by_curves = _from_curves(train_loss, validation_loss)
    if broken is not None:
        verdict, sentence = broken
        evidence = _told(by_scores, by_curves)
    elif by_scores is not None:
        verdict, sentence = by_scores
        evidence = _told(by_curves)
    elif by_curves is not None:
        verdict, sentence = by_curves
        evidence = ()
    else:
        verdict, sentence = (
            "unclear",
            "Too little is reported to judge the fit: it takes training and held-out figures.",
        )
        evidence = ()
    advice = ADVICE[verdict]
    if spikes and verdict != "diverged":
        advice = (*advice, "look at the rows of the spiking steps; a lower learning rate or max_grad_norm smooths them")
    return Diagnosis(verdict=verdict, sentence=sentence, evidence=evidence, advice=advice, spikes=spikes)


def find_spikes(curve: Series, most: int = 10) -> list[Spike]:
    """Steps at which the value jumped far above the ones before: the `most` largest, by step.

    The yardstick is the median and the median absolute deviation of up to 20 steps before, which one spike cannot
    move. Neighbouring steps are one spike, told at its first step with its highest value. A curve that jumps at more
    than one step in fifty is jumpy by nature (tiny batches) and has none. What is no finite number is always one.
    """
    broken: list[Spike] = []
    found: list[Spike] = []
    recent: list[float] = []
    previous: float | None = None
    for place, point in enumerate(curve.points):
        middle = median(recent) if recent else math.nan
        if not math.isfinite(point.value):
            broken.append(Spike(series=curve.name, step=point.step, value=point.value, before=middle))
            continue
        if len(recent) >= SPIKE_MINIMUM:
            # 1.4826 makes the median absolute deviation a standard deviation for normal noise.
            spread = 1.4826 * median(abs(value - middle) for value in recent)
            if point.value > SPIKE_FACTOR * middle + SPIKE_DEVIATIONS * spread:
                if previous == place - 1:
                    highest = max(found[-1].value, point.value)
                    found[-1] = found[-1].model_copy(update={"value": highest})
                else:
                    found.append(Spike(series=curve.name, step=point.step, value=point.value, before=middle))
                previous = place
        recent = [*recent, point.value][-SPIKE_WINDOW:]
    if len(found) > max(3, len(curve) * SPIKE_SHARE):
        found = []
    largest = sorted(found, key=lambda spike: spike.before - spike.value)
    return sorted([*broken, *largest][:most], key=lambda spike: spike.step)


def _from_scores(
    train: float | None, validation: float | None, test: float | None, rows: Mapping[str, int], majority: float | None
) -> tuple[Verdict, str] | None:
    held_out = {name: score for name, score in (("validation", validation), ("test", test)) if score is not None}
    if train is None or not held_out:
        return None
    figures = ", ".join(f"{name} {score:.1%}" for name, score in {"train": train, **held_out}.items())
    worst = min(held_out, key=lambda name: held_out[name])
    gap = train - held_out[worst]
    if gap > GAP and _beyond_chance(train, held_out[worst], rows.get("train"), rows.get(worst)):
        return "overfit", (
            f"Overfit: {figures}; the model is {100 * gap:.0f} points better on rows it was trained on than on"
            f" {worst} rows."
        )
    if majority is not None and train <= majority + NOTHING_LEARNED:
        return "underfit", (
            f"Underfit: {figures}; always giving the most frequent answer would reach {majority:.1%} as well."
        )
    if train < LOW:
        return "underfit", (
            f"Underfit: {figures}; the rows it was trained on are not learned either (below {LOW:.0%})."
        )
    if gap > GAP:
        return "good fit", (
            f"Good fit as far as can be told: {figures}; the gap of {100 * gap:.0f} points could be chance with so"
            " few rows."
        )
    return "good fit", f"Good fit: {figures}; learned, and held-out rows are within {100 * GAP:.0f} points."


def _beyond_chance(train: float, held_out: float, train_rows: int | None, held_out_rows: int | None) -> bool:
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


def _from_curves(train: Series | None, validation: Series | None) -> tuple[Verdict, str] | None:
    if validation is None or len(validation) < 3 or validation.best is None or validation.last is None:
        return _from_training_alone(train)
    best, last = validation.best, validation.last
    rise = last.value - best.value
    if rise > TURNED * abs(best.value) and rise > 0.005:
        fell = _level(train, up_to=best.step), _level(train)
        beside = (
            f", while training loss fell from {fell[0]:.4g} to {fell[1]:.4g}"
            if fell[0] is not None and fell[1] is not None and fell[1] < fell[0]
            else ""
        )
        return "overfit", (
            f"Overfit by the curves: validation loss was lowest at step {best.step} ({best.value:.4g}) and is"
            f" {last.value:.4g} at step {last.step}{beside}."
        )
    fallen = late_fall(validation)
    if fallen is not None and fallen > STILL_FALLING:
        return "underfit", (
            f"Underfit by the curves: validation loss was still falling at the end ({fallen:.0%} over the last quarter"
            f" of the steps, to {last.value:.4g})."
        )
    return "good fit", (
        f"Good fit by the curves: validation loss ended at {last.value:.4g}, within {TURNED:.0%} of its lowest"
        f" ({best.value:.4g} at step {best.step}), and had levelled off."
    )


def _from_training_alone(train: Series | None) -> tuple[Verdict, str] | None:
    fallen = late_fall(train) if train is not None and len(train) >= 8 else None
    if fallen is not None and fallen > 2 * STILL_FALLING:
        return "underfit", (
            f"Probably underfit: training loss was still falling at the end ({fallen:.0%} over the last quarter of the"
            " steps), and there is no validation loss to say more."
        )
    return None


def _diverged(train: Series | None) -> tuple[Verdict, str] | None:
    if train is None or train.last is None or train.first is None:
        return None
    if not math.isfinite(train.last.value):
        broke = next(point for point in train.points if not math.isfinite(point.value))
        return "diverged", f"Diverged: training loss is {train.last.value} (since step {broke.step} at the latest)."
    start, end = _level(train, first=True), _level(train)
    if len(train) >= 8 and start is not None and end is not None and end > 1.2 * start + 0.05:
        return "diverged", f"Diverged: training loss rose from {start:.4g} to {end:.4g}."
    return None


def _level(curve: Series | None, *, up_to: int | None = None, first: bool = False) -> float | None:
    """The median of the last (or first) tenth of the values, at least three: one noisy batch cannot move it."""
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
    """How much the level fell over the last quarter of the steps, as a share of the level before."""
    finite = [point for point in curve.points if math.isfinite(point.value)]
    if len(finite) < 4:
        return None
    cut = finite[0].step + 0.75 * (finite[-1].step - finite[0].step)
    before, after = [p.value for p in finite if p.step <= cut], [p.value for p in finite if p.step > cut]
    if not before or not after:
        return None
    size = max(1, min(len(before), len(after)) // 2)
    start, end = _middle(before[-size:]), _middle(after[-size:])
    return (start - end) / start if start > 0 else None


def _middle(values: Sequence[float]) -> float:
    return float(median(values))


def _told(*verdicts: tuple[Verdict, str] | None) -> tuple[str, ...]:
    return tuple(verdict[1] for verdict in verdicts if verdict is not None)
