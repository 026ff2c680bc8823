"""Build a run's report from its receipt, the states it went through, its curves and its evaluation."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any

from pydantic_core import to_jsonable_python

from llmtune.evaluation.results import EvaluationResult, SystemResult
from llmtune.metrics.diagnosis import Diagnosis, diagnose
from llmtune.metrics.points import MetricPoint, NotReported, Series, merge
from llmtune.metrics.samples import Sample
from llmtune.planning.bill import compare_bill, compute_from_tokens
from llmtune.provider.receipt import FieldReceipt, Receipt
from llmtune.provider.types import Billed, RunState
from llmtune.report.schema import (
    Check,
    Cost,
    DataSection,
    EarlierEvaluation,
    Environment,
    Identity,
    ReceiptRow,
    Report,
    SampledRow,
    SeedSpread,
    Timing,
)
from llmtune.verifications.results import Verification

#: Curves that every report mentions, if only to say why they are missing.
EXPECTED_SERIES = ("train/loss", "validation/loss")

#: Steps at the end over which the accuracy of the rewards is averaged: one step holds a batch of pairs only.
REWARD_STEPS = 10


def receipt_rows(receipt: Receipt, resolved: Mapping[str, Any] | None = None) -> tuple[ReceiptRow, ...]:
    """Return the report's rows of a receipt; `resolved` are the values that the backend says it used, by field.

    Effective is what the backend says: for a field that was left to it, and for one that it has changed.
    """
    echoes = resolved or {}
    rows = []
    for row in receipt.fields:
        echo = echoes.get(row.field)
        fields = {name: to_jsonable_python(getattr(row, name)) for name in ReceiptRow.model_fields}
        if echo is not None and row.support == "default":
            fields |= {"effective": to_jsonable_python(echo), "reason": "chosen by the backend"}
        elif is_changed(row, echo):
            fields |= {"effective": to_jsonable_python(echo), "reason": _describe_change(row, echo)}
        rows.append(ReceiptRow(**fields))
    return tuple(rows)


def echo_warnings(receipt: Receipt, resolved: Mapping[str, Any] | None) -> list[str]:
    """Return one warning for each field that was sent and that the backend says it changed."""
    echoes = resolved or {}
    return [
        f"{row.field}: {_describe_change(row, echo)}"
        for row in receipt.fields
        if is_changed(row, echo := echoes.get(row.field))
    ]


def is_changed(row: FieldReceipt, echo: object) -> bool:
    """Return whether a field was sent and the backend says that it used another value."""
    if not row.is_sent or echo is None or row.effective is None:
        return False
    sent = row.effective
    numbers = [not isinstance(value, bool) and isinstance(value, (int, float)) for value in (sent, echo)]
    if all(numbers):
        return not math.isclose(float(sent), float(echo), rel_tol=1e-6)  # type: ignore[arg-type]
    return type(sent) is type(echo) and isinstance(sent, (bool, str)) and sent != echo


def _describe_change(row: FieldReceipt, echo: object) -> str:
    request = f"asked {row.effective}" if row.support == "sent" else f"asked {row.requested} (sent as {row.effective})"
    return f"{request}, the vendor used {echo}"


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Everything known of a run, from which `build_report` makes its report."""

    identity: Identity
    receipt: Receipt
    """The plan it was started with."""

    job: Mapping[str, Any]
    """The job as it was given."""

    points: Iterable[MetricPoint] = ()
    """Every metric point of the run, in any order."""

    samples: Sequence[Sample] = ()
    """Answers of the model while it trained."""

    not_reported: Mapping[str, str] = field(default_factory=dict)
    """Series that the backend never reports, with the reason."""

    transitions: Sequence[tuple[RunState, float]] = ()
    """Each state the run entered, with the time in seconds since 1970 UTC, oldest first."""

    evaluation: EvaluationResult | NotReported | None = None
    """The evaluation's result, or why there is none."""

    evaluated_on: str = ""
    """The evaluated file, where its rows are not the job's own test rows."""

    earlier_evaluations: Sequence[EarlierEvaluation] = ()
    """The evaluations that `evaluation` has replaced, oldest first."""

    billed: Billed | None = None
    """What the backend says it billed."""

    trained_tokens: int | None = None
    """Tokens trained on, as the backend counts them; None takes the billed ones."""

    tokens_per_second: float | None = None
    """Training speed; None takes it from the curve, or from trained tokens and time."""

    evaluation_seconds: float | None = None
    """How long the evaluation took; None leaves it out."""

    resolved: Mapping[str, Any] = field(default_factory=dict)
    """Values that the backend says it used, by the job's field names."""

    lossy: Sequence[str] = ()
    """What the row format could not carry."""

    warnings: Sequence[str] = ()
    """Warnings while it ran; the evaluation's own are added after them."""

    checks: Sequence[Check] = ()
    """Checks made after training."""

    verifications: Sequence[Verification] = ()
    """Servers that were asked whether they answer as the tuned model does."""

    seeds: SeedSpread | None = None
    """The spread over seeds, where the job was trained with several."""

    error: str | None = None
    """Why it failed."""

    environment: Environment | None = None
    """Where it ran; None describes this process."""

    reproduce: str = ""
    """The command that runs it again."""

    snippet: str | None = None
    """Python that calls the tuned model; None where there is none."""

    artifacts: Mapping[str, str] = field(default_factory=dict)
    """Paths and ids by name."""


def build_report(facts: RunFacts) -> Report:
    """Build the report of a run: compute timing, speed, cost and diagnosis, and collect the warnings."""
    receipt, billed = facts.receipt, facts.billed
    evaluation = facts.evaluation if facts.evaluation is not None else NotReported("the run was not evaluated")
    series = _collect_series(facts.points, facts.not_reported)
    trained_tokens = facts.trained_tokens
    if trained_tokens is None and billed is not None:
        trained_tokens = billed.tokens
    timing = _compute_timing(facts.transitions, facts.identity, facts.evaluation_seconds)
    speed = facts.tokens_per_second
    if speed is None:
        speed = _compute_speed(series, trained_tokens, timing)
    if speed is not None:
        timing = timing.model_copy(update={"tokens_per_second": speed})
    warnings = [*receipt.warnings, *facts.warnings, *echo_warnings(receipt, facts.resolved)]
    if isinstance(evaluation, EvaluationResult):
        warnings += evaluation.warnings
    return Report(
        identity=facts.identity,
        job=to_jsonable_python(dict(facts.job)),
        receipt=receipt_rows(receipt, facts.resolved),
        data=_build_data_section(receipt, trained_tokens, facts.lossy),
        timing=timing,
        cost=_build_cost(receipt, facts.resolved.get("epochs"), billed),
        series=series,
        samples=_collect_samples(facts.samples),
        stopping=str(facts.resolved.get("stopping", "")),
        evaluation=evaluation,
        evaluated_on=facts.evaluated_on,
        earlier_evaluations=tuple(facts.earlier_evaluations),
        diagnosis=_diagnose(series, evaluation),
        checks=tuple(facts.checks),
        verifications=tuple(facts.verifications),
        seeds=facts.seeds,
        warnings=tuple(dict.fromkeys(warnings)),
        error=facts.error,
        environment=facts.environment or current_environment(),
        reproduce=facts.reproduce,
        snippet=facts.snippet if facts.snippet is not None else NotReported("there is no tuned model to call"),
        artifacts=dict(facts.artifacts),
    )


def current_environment(
    *, device: str | None = None, packages: Sequence[str] = ("llmtune-sdk", "pydantic", "numpy")
) -> Environment:
    """Describe this process: host, platform, and the versions of those `packages` that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    from llmtune._version import __version__

    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    device_field = {} if device is None else {"device": device}
    return Environment(
        llmtune=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        host=platform.node(),
        versions=versions,
        **device_field,
    )


def _collect_series(points: Iterable[MetricPoint], not_reported: Mapping[str, str]) -> dict[str, Series | NotReported]:
    series: dict[str, Series | NotReported] = dict(merge(points))
    absent = dict.fromkeys(EXPECTED_SERIES, "the backend reports no such curve") | dict(not_reported)
    for name, reason in absent.items():
        series.setdefault(name, NotReported(reason))
    return series


def _collect_samples(samples: Sequence[Sample]) -> tuple[SampledRow, ...]:
    """Return the rows that were answered, in their order, each with its answers by step."""
    rows: dict[int, SampledRow] = {}
    for sample in sorted(samples, key=lambda sample: (sample.number, sample.step)):
        row = rows.get(sample.number) or SampledRow(prompt=sample.prompt, expected=sample.expected)
        rows[sample.number] = row.model_copy(update={"answers": row.answers | {sample.step: sample.answer}})
    return tuple(rows.values())


def _compute_timing(
    transitions: Sequence[tuple[RunState, float]], identity: Identity, evaluation_seconds: float | None
) -> Timing:
    spent: dict[RunState, float] = {}
    for (state, begun), (_, ended) in pairwise(transitions):
        spent[state] = spent.get(state, 0.0) + max(0.0, ended - begun)
    durations: dict[str, float] = {}
    if RunState.QUEUED in spent:
        durations["queued"] = spent[RunState.QUEUED]
    if RunState.RUNNING in spent:
        durations["training"] = spent[RunState.RUNNING]
    if evaluation_seconds is not None:
        durations["evaluating"] = evaluation_seconds
    if transitions and transitions[-1][0].final:
        durations["total"] = max(0.0, transitions[-1][1] - transitions[0][1])
    elif identity.created is not None and identity.finished is not None:
        durations["total"] = max(0.0, identity.finished - identity.created)
    return Timing(**durations)


def _compute_speed(
    series: Mapping[str, Series | NotReported], trained_tokens: int | None, timing: Timing
) -> float | None:
    curve = series.get("train/tokens_per_second")
    if isinstance(curve, Series) and curve.points:
        # The first step carries the warming up of everything; the middle of the rest is what a user can count on.
        from statistics import median

        return float(median(curve.values[1:] or curve.values))
    if trained_tokens and isinstance(timing.training, float) and timing.training > 0:
        return trained_tokens / timing.training
    return None


def _build_data_section(receipt: Receipt, trained_tokens: int | None, lossy: Sequence[str]) -> DataSection:
    verdict = receipt.data
    counts: dict[str, Any] = {}
    if verdict.tokens is not None:
        counts["tokens"] = verdict.tokens
    if trained_tokens is not None:
        counts["trained_tokens"] = trained_tokens
    return DataSection(
        source=verdict.source,
        sha256=verdict.sha256,
        format=verdict.format,
        rows=verdict.rows,
        tokens_estimated=verdict.tokens_estimated,
        findings=verdict.findings,
        lossy=tuple(lossy) or verdict.lossy,
        **counts,
    )


def _build_cost(receipt: Receipt, epochs: object, billed: Billed | None) -> Cost:
    estimate = receipt.cost.for_epochs(epochs)
    billed_fields: dict[str, Any] = {}
    computed = None if billed is None else compute_from_tokens(receipt, billed.tokens)
    if computed is not None:
        billed_fields["computed"] = computed
    if billed is not None and billed.amount is not None:
        billed_fields["billed"] = billed.amount
    if billed is not None and billed.tokens is not None:
        billed_fields["billed_tokens"] = billed.tokens
    return Cost(
        estimated=estimate.total if estimate.total is not None else NotReported(estimate.unknown or "not estimated"),
        currency=billed.currency if billed is not None and billed.amount is not None else estimate.currency,
        formula=estimate.formula,
        source=(billed.source if billed is not None else "") or estimate.source,
        checked=estimate.checked,
        difference=compare_bill(receipt, billed, epochs).explanation,
        **billed_fields,
    )


def _diagnose(series: Mapping[str, Series | NotReported], evaluation: EvaluationResult | NotReported) -> Diagnosis:
    if isinstance(evaluation, NotReported) or evaluation.fit is None:
        return diagnose(series=series)
    fit = evaluation.fit
    tuned = evaluation.system("tuned")
    if fit.metric == "preference_accuracy":
        return _diagnose_preferences(series, tuned)
    test = tuned.get(fit.metric) if tuned is not None else None
    scores = {"train": fit.train, "validation": fit.validation, "test": test}
    shares = {name: value for name, value in scores.items() if value is not None and value.unit == "share"}
    majority = (
        evaluation.majority.accuracy.value if evaluation.majority is not None and fit.metric == "accuracy" else None
    )
    return diagnose(
        train=shares["train"].value if "train" in shares else None,
        validation=shares["validation"].value if "validation" in shares else None,
        test=shares["test"].value if "test" in shares else None,
        rows={name: value.rows for name, value in shares.items()},
        majority=majority,
        series=series,
    )


def _diagnose_preferences(series: Mapping[str, Series | NotReported], tuned: SystemResult | None) -> Diagnosis:
    """Diagnose by the rewards, which show what was learned: an answer's likelihood depends on its length as well."""
    test = tuned.get("reward_accuracy") if tuned is not None else None
    validation = series.get("validation/reward_accuracy")
    train = series.get("train/reward_accuracy")
    return diagnose(
        train=fmean(train.values[-REWARD_STEPS:]) if isinstance(train, Series) and train.points else None,
        validation=validation.values[-1] if isinstance(validation, Series) and validation.points else None,
        test=test.value if test is not None else None,
        rows={"test": test.rows} if test is not None else {},
        series=series,
    )
