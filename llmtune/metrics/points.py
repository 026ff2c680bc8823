"""Curves: one measured value at one step, and the series they make, each value with where it came from.

Series names are the same for every backend (`SERIES` lists them); a vendor's own name for the value travels along as
`raw_name`. A vendor's measurement that has no canonical name keeps a name of its own ("train/VENDOR_NAME").
"What the vendor does not report" is a value of its own, `NotReported(reason)`: never zero, never an empty curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from llmtune._models import DocumentedModel, FrozenModel

#: Where a number comes from: the vendor's API, a file the vendor wrote, or llmtune's own measurement.
Source = Literal["vendor_api", "vendor_file", "computed"]

#: Of two values for one series and step the earlier source here is kept: a result file is the vendor's final word
#: and unrounded, the API's is often rounded; what llmtune derives never replaces what the vendor measured.
SOURCE_ORDER: tuple[Source, ...] = ("vendor_file", "vendor_api", "computed")

#: Which way a series is good.
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class SeriesInfo:
    """What a series measures. `better` is None where neither direction is good in itself.

    `title` is for people, `unit` is "" for plain numbers, `meaning` is one sentence.
    """

    title: str
    unit: str
    better: Better | None
    meaning: str


#: The canonical series. Train values are over one optimizer step's batch, taken before the step's update, unless the
#: vendor says otherwise; "validation/full_*" are over the whole validation split, the plain ones may be over a sample.
SERIES: dict[str, SeriesInfo] = {
    "train/loss": SeriesInfo(
        "training loss", "nats/token", "lower", "weighted mean negative log-likelihood of the step's trained tokens"
    ),
    "validation/loss": SeriesInfo(
        "validation loss", "nats/token", "lower", "the same loss on validation rows, without training on them"
    ),
    "validation/full_loss": SeriesInfo(
        "full validation loss", "nats/token", "lower", "validation loss over the whole validation split"
    ),
    "train/token_accuracy": SeriesInfo(
        "training token accuracy", "share", "higher", "share of trained tokens that were the likeliest one, 0..1"
    ),
    "validation/token_accuracy": SeriesInfo(
        "validation token accuracy", "share", "higher", "the same share on validation rows, 0..1"
    ),
    "validation/full_token_accuracy": SeriesInfo(
        "full validation token accuracy", "share", "higher", "token accuracy over the whole validation split, 0..1"
    ),
    "train/perplexity": SeriesInfo("training perplexity", "", "lower", "exp(training loss), >= 1"),
    "validation/perplexity": SeriesInfo("validation perplexity", "", "lower", "exp(validation loss), >= 1"),
    "train/accuracy": SeriesInfo(
        "training accuracy", "share", "higher", "share of the step's rows (not tokens) answered rightly, 0..1"
    ),
    "validation/accuracy": SeriesInfo(
        "validation accuracy", "share", "higher", "share of validation rows (not tokens) answered rightly, 0..1"
    ),
    "validation/macro_precision": SeriesInfo(
        "validation precision", "share", "higher", "precision on validation rows, mean over the labels, 0..1"
    ),
    "validation/macro_recall": SeriesInfo(
        "validation recall", "share", "higher", "recall on validation rows, mean over the labels, 0..1"
    ),
    "validation/macro_f1": SeriesInfo(
        "validation F1", "share", "higher", "F1 on validation rows, mean over the labels, 0..1"
    ),
    "train/learning_rate": SeriesInfo("learning rate", "", None, "rate of the step, after schedule and warm-up"),
    "train/grad_norm": SeriesInfo("gradient norm", "", None, "global L2 norm of the gradient before clipping"),
    "train/tokens": SeriesInfo("trained tokens", "tokens", None, "tokens the step's loss was taken over"),
    "train/tokens_per_second": SeriesInfo(
        "speed", "tokens/s", "higher", "tokens that went through the model, padding left out, per second"
    ),
    "validation/tokens": SeriesInfo("validation tokens", "tokens", None, "tokens the validation loss was taken over"),
    "validation/panel_log_likelihood": SeriesInfo(
        "log-likelihood on the panel",
        "nats/token",
        "higher",
        "mean log-likelihood of the tokens of the panel's reference answers, outside the task",
    ),
    "train/reward_margin": SeriesInfo(
        "training reward margin", "nats", "higher", "DPO: implicit reward of the preferred answer minus the rejected's"
    ),
    "validation/reward_margin": SeriesInfo(
        "validation reward margin", "nats", "higher", "the same margin on validation rows"
    ),
    "train/reward_accuracy": SeriesInfo(
        "training preference accuracy", "share", "higher", "DPO: share of pairs whose margin is positive, 0..1"
    ),
    "validation/reward_accuracy": SeriesInfo(
        "validation preference accuracy", "share", "higher", "the same share on validation rows, 0..1"
    ),
    "train/reward_preferred": SeriesInfo(
        "training reward, preferred", "nats", "higher", "DPO: beta x log-ratio of policy to reference, preferred answer"
    ),
    "train/reward_rejected": SeriesInfo(
        "training reward, rejected", "nats", "lower", "DPO: beta x log-ratio of policy to reference, rejected answer"
    ),
    "train/reward": SeriesInfo(
        "training reward", "", "higher", "reinforcement: mean of what the grader paid for the step's sampled answers"
    ),
    "validation/reward": SeriesInfo(
        "validation reward", "", "higher", "reinforcement: mean of what the grader paid for answers to validation rows"
    ),
    "train/policy_loss": SeriesInfo(
        "policy loss",
        "",
        None,
        "reinforcement: the step's advantages, clipped, and what its KL costs; its height says little",
    ),
    "train/reward_deviation": SeriesInfo(
        "spread of the training rewards", "", None, "reinforcement: standard deviation of the step's rewards"
    ),
    "train/dead_groups": SeriesInfo(
        "dead groups",
        "share",
        "lower",
        "reinforcement: share of the step's prompts whose answers were all paid alike, which teach nothing, 0..1",
    ),
    "train/kl": SeriesInfo(
        "KL to the model at the start",
        "nats/token",
        None,
        "reinforcement: estimated divergence of the sampled tokens from the model before training, >= 0",
    ),
    "train/entropy": SeriesInfo(
        "entropy", "nats/token", None, "reinforcement: mean entropy of the distributions that were sampled from"
    ),
    "train/clipped_tokens": SeriesInfo(
        "clipped tokens", "share", None, "reinforcement: share of tokens that had moved too far to be pushed on, 0..1"
    ),
    "train/answer_tokens": SeriesInfo(
        "length of training answers", "tokens", None, "reinforcement: mean tokens of the step's sampled answers"
    ),
    "validation/answer_tokens": SeriesInfo(
        "length of validation answers", "tokens", None, "reinforcement: mean tokens of answers to validation rows"
    ),
    "train/truncated_answers": SeriesInfo(
        "truncated answers", "share", "lower", "reinforcement: share of the step's answers ended by their limit, 0..1"
    ),
}


def series_info(name: str) -> SeriesInfo:
    """Return what a series measures; one that is not canonical is described by its own name."""
    info = SERIES.get(name)
    if info is not None:
        return info
    better: Better | None = "lower" if name.endswith("loss") else "higher" if name.endswith("accuracy") else None
    return SeriesInfo(name, "", better, "the backend's own measurement, as it names it")


@dataclass(frozen=True)
class NotReported:
    """A number that the backend does not report, and why. False in a condition: `if report.cost.billed:` works."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    reason: str
    """Why, in words: "no validation rows were sent"."""

    def __bool__(self) -> Literal[False]:
        return False

    def __str__(self) -> str:
        return f"not reported ({self.reason})"


def _spell(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


#: A float that keeps NaN and the infinities through JSON, which has no number for them: they are spelled as text.
Number = Annotated[
    float,
    PlainSerializer(_spell, return_type=float | str, when_used="json"),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]},
        mode="serialization",
    ),
]


class MetricPoint(DocumentedModel):
    """One value of one series at one optimizer step. NaN and infinities are kept: a diverged loss is a fact."""

    step: Annotated[int, Field(ge=0)]
    """Optimizer steps done when it was measured. Integer >= 0."""

    series: Annotated[str, Field(min_length=1)]
    """Canonical name ("train/loss"), or the backend's own."""

    value: Number
    """The value, in the unit of the series."""

    epoch: Annotated[float, Field(ge=0)] | None = None
    """Passes over the training rows done by then; None where it is not reported."""

    time: float | None = None
    """When, in seconds since 1970 UTC; None where it is not reported."""

    source: Source = "computed"
    """Where the number comes from."""

    raw_name: str | None = None
    """The backend's own name of it ("full_valid_loss")."""


class Series(FrozenModel):
    """One curve: its points, one per step. Given in any order and with repeats, they are sorted and merged.

    Of several values for one step the better source is kept (`SOURCE_ORDER`), of one source the later one.

    `unit` is "" for plain numbers.
    """

    name: str
    unit: str = ""
    points: tuple[MetricPoint, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _sort_and_merge(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "name" not in data:
            return data
        data = dict(data)
        data.setdefault("unit", series_info(str(data["name"])).unit)
        points = [MetricPoint.model_validate(point) for point in data.get("points", ())]
        strays = {point.series for point in points} - {data["name"]}
        if strays:
            raise ValueError(f"series {data['name']!r} holds points of {', '.join(sorted(strays))}")
        by_step: dict[int, MetricPoint] = {}
        for point in points:
            rival = by_step.get(point.step)
            if rival is None or SOURCE_ORDER.index(point.source) <= SOURCE_ORDER.index(rival.source):
                by_step[point.step] = point
        data["points"] = tuple(by_step[step] for step in sorted(by_step))
        return data

    def __len__(self) -> int:
        return len(self.points)

    @property
    def info(self) -> SeriesInfo:
        """What the series measures."""
        return series_info(self.name)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps, rising."""
        return tuple(point.step for point in self.points)

    @property
    def values(self) -> tuple[float, ...]:
        """The values, by step."""
        return tuple(point.value for point in self.points)

    @property
    def first(self) -> MetricPoint | None:
        """The point of the lowest step."""
        return self.points[0] if self.points else None

    @property
    def last(self) -> MetricPoint | None:
        """The point of the highest step."""
        return self.points[-1] if self.points else None

    @property
    def best(self) -> MetricPoint | None:
        """The point with the best finite value, the earliest of equals; None where neither direction is good."""
        better = self.info.better
        finite = [point for point in self.points if math.isfinite(point.value)]
        if better is None or not finite:
            return None
        sign = 1 if better == "lower" else -1
        return min(finite, key=lambda point: (sign * point.value, point.step))

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where the kept values come from, best source first."""
        present = {point.source for point in self.points}
        return tuple(source for source in SOURCE_ORDER if source in present)


def merge(points: Iterable[MetricPoint]) -> dict[str, Series]:
    """Return all points as series by name, in the order of `SERIES`, the backend's own ones after them."""
    grouped: dict[str, list[MetricPoint]] = {}
    for point in points:
        grouped.setdefault(point.series, []).append(point)
    order = {name: index for index, name in enumerate(SERIES)}
    names = sorted(grouped, key=lambda name: (order.get(name, len(order)), name))
    return {name: Series(name=name, points=tuple(grouped[name])) for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStats:
    """Loss over the trained tokens of some rows: summed nats, how many tokens, how many of them were predicted.

    `loss_sum` is in nats, over `tokens` tokens; `correct` of those were the likeliest one.
    """

    loss_sum: float
    tokens: int
    correct: int
