"""A report from what is known of a run: the receipt, the states it went through, its curves and its evaluation."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from pydantic_core import to_jsonable_python

from llmtune.evaluation.results import EvaluationResult, SystemResult
from llmtune.metrics.diagnosis import Diagnosis, diagnose
from llmtune.metrics.points import MetricPoint, NotReported, Series, merge
from llmtune.provider.cost import CostEstimate
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
    Timing,
)

#: Curves that every report speaks of, if only to say that there is none.
EXPECTED_SERIES = ("train/loss", "validation/loss")

#: Steps at the end over which the accuracy of the rewards is averaged: one step holds a batch of pairs only.
REWARD_STEPS = 10


def receipt_rows(receipt: Receipt, resolved: Mapping[str, Any] | None = None) -> tuple[ReceiptRow, ...]:
    """The rows of a receipt; `resolved` are the values that the backend says it has used, by field.

    Effective is what the backend says: for a field that was left to it, and for one that it has changed.
    """
    echoes = resolved or {}
    rows = []
    for row in receipt.fields:
        echo = echoes.get(row.field)
        shown = {name: to_jsonable_python(getattr(row, name)) for name in ReceiptRow.model_fields}
        if echo is not None and row.support == "default":
            shown |= {"effective": to_jsonable_python(echo), "reason": "chosen by the backend"}
        elif differs(row, echo):
            shown |= {"effective": to_jsonable_python(echo), "reason": _asked_and_used(row, echo)}
        rows.append(ReceiptRow(**shown))
    return tuple(rows)


def echo_warnings(receipt: Receipt, resolved: Mapping[str, Any] | None) -> list[str]:
    """One warning for each field that went out and came back with another value."""
    echoes = resolved or {}
    return [
        f"{row.field}: {_asked_and_used(row, echo)}"
        for row in receipt.fields
        if differs(row, echo := echoes.get(row.field))
    ]


def differs(row: FieldReceipt, echo: object) -> bool:
    """Return whether a field went out and the backend says that it used another value."""
    if not row.moves or echo is None or row.effective is None:
        return False
    sent = row.effective
    numbers = [not isinstance(value, bool) and isinstance(value, (int, float)) for value in (sent, echo)]
    if all(numbers):
        return not math.isclose(float(sent), float(echo), rel_tol=1e-6)  # type: ignore[arg-type]
    return type(sent) is type(echo) and isinstance(sent, (bool, str)) and sent != echo


def _asked_and_used(row: FieldReceipt, echo: object) -> str:
    asked = f"asked {row.effective}" if row.support == "sent" else f"asked {row.requested} (sent as {row.effective})"
    return f"{asked}, the vendor used {echo}"


def build_report(
    *,
    identity: Identity,
    receipt: Receipt,
    job: Mapping[str, Any],
    points: Iterable[MetricPoint] = (),
    not_reported: Mapping[str, str] | None = None,
    transitions: Sequence[tuple[RunState, float]] = (),
    evaluation: EvaluationResult | NotReported | None = None,
    evaluated_on: str = "",
    earlier_evaluations: Sequence[EarlierEvaluation] = (),
    billed: Billed | None = None,
    trained_tokens: int | None = None,
    tokens_per_second: float | None = None,
    evaluation_seconds: float | None = None,
    resolved: Mapping[str, Any] | None = None,
    lossy: Sequence[str] = (),
    warnings: Sequence[str] = (),
    checks: Sequence[Check] = (),
    error: str | None = None,
    environment: Environment | None = None,
    reproduce: str = "",
    snippet: str | None = None,
    artifacts: Mapping[str, str] | None = None,
) -> Report:
    """Put a report together.

    Args:
        identity: which run, where, in which state.
        receipt: the plan it was started with.
        job: the job as it was given.
        points: every metric point seen.
        not_reported: series the backend never reports, with the reason.
        transitions: each state the run entered, with the time in seconds since 1970, oldest first.
        evaluation: what the evaluation found, or why there is none.
        evaluated_on: the file whose rows were asked, where those are not the job's own test rows.
        earlier_evaluations: those that this one has taken the place of, oldest first.
        billed: what the backend says it billed.
        trained_tokens: tokens trained on, as the backend counts them.
        tokens_per_second: training speed; None takes it from the curve, or from trained tokens and time.
        evaluation_seconds: how long the evaluation took; None leaves it out.
        resolved: values left to the backend that it has told since, by our field names.
        lossy: what the row format could not carry.
        warnings: what was warned of while it ran; the evaluation's own come after them.
        checks: what was looked at after training.
        error: why it failed.
        environment: where it ran; None looks at this process.
        reproduce: the command that runs it again.
        snippet: Python that calls the tuned model; None where there is none.
        artifacts: paths and ids by name.
    """
    series = _series(points, not_reported or {})
    judged = evaluation if evaluation is not None else NotReported("the run was not evaluated")
    timing = _timing(transitions, identity, evaluation_seconds)
    if trained_tokens is None and billed is not None:
        trained_tokens = billed.tokens
    speed = tokens_per_second if tokens_per_second is not None else _speed(series, trained_tokens, timing)
    if speed is not None:
        timing = timing.model_copy(update={"tokens_per_second": speed})
    said = [*receipt.warnings, *warnings, *echo_warnings(receipt, resolved)]
    if isinstance(judged, EvaluationResult):
        said += judged.warnings
    return Report(
        identity=identity,
        job=to_jsonable_python(dict(job)),
        receipt=receipt_rows(receipt, resolved),
        data=_data(receipt, trained_tokens, lossy),
        timing=timing,
        cost=_cost(receipt.cost.for_epochs((resolved or {}).get("epochs")), billed),
        series=series,
        evaluation=judged,
        evaluated_on=evaluated_on,
        earlier_evaluations=tuple(earlier_evaluations),
        diagnosis=_diagnosis(series, judged),
        checks=tuple(checks),
        warnings=tuple(dict.fromkeys(said)),
        error=error,
        environment=environment or here(),
        reproduce=reproduce,
        snippet=snippet if snippet is not None else NotReported("there is no tuned model to call"),
        artifacts=dict(artifacts or {}),
    )


def here(*, device: str | None = None, packages: Sequence[str] = ("llmtune-sdk", "pydantic", "numpy")) -> Environment:
    """This process as an environment: versions of the packages named that are installed, host and platform."""
    from importlib.metadata import PackageNotFoundError, version

    from llmtune._version import __version__

    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    known = {} if device is None else {"device": device}
    return Environment(
        llmtune=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        host=platform.node(),
        versions=versions,
        **known,
    )


def _series(points: Iterable[MetricPoint], not_reported: Mapping[str, str]) -> dict[str, Series | NotReported]:
    found: dict[str, Series | NotReported] = dict(merge(points))
    absent = dict.fromkeys(EXPECTED_SERIES, "the backend reports no such curve") | dict(not_reported)
    for name, reason in absent.items():
        found.setdefault(name, NotReported(reason))
    return found


def _timing(
    transitions: Sequence[tuple[RunState, float]], identity: Identity, evaluation_seconds: float | None
) -> Timing:
    spent: dict[RunState, float] = {}
    for (state, begun), (_, ended) in pairwise(transitions):
        spent[state] = spent.get(state, 0.0) + max(0.0, ended - begun)
    known: dict[str, float] = {}
    if RunState.QUEUED in spent:
        known["queued"] = spent[RunState.QUEUED]
    if RunState.RUNNING in spent:
        known["training"] = spent[RunState.RUNNING]
    if evaluation_seconds is not None:
        known["evaluating"] = evaluation_seconds
    if transitions and transitions[-1][0].final:
        known["total"] = max(0.0, transitions[-1][1] - transitions[0][1])
    elif identity.created is not None and identity.finished is not None:
        known["total"] = max(0.0, identity.finished - identity.created)
    return Timing(**known)


def _speed(series: Mapping[str, Series | NotReported], trained_tokens: int | None, timing: Timing) -> float | None:
    curve = series.get("train/tokens_per_second")
    if isinstance(curve, Series) and curve.points:
        # The first step carries the warming up of everything; the middle of the rest is what a user can count on.
        from statistics import median

        return float(median(curve.values[1:] or curve.values))
    if trained_tokens and isinstance(timing.training, float) and timing.training > 0:
        return trained_tokens / timing.training
    return None


def _data(receipt: Receipt, trained_tokens: int | None, lossy: Sequence[str]) -> DataSection:
    verdict = receipt.data
    known: dict[str, Any] = {}
    if verdict.tokens is not None:
        known["tokens"] = verdict.tokens
    if trained_tokens is not None:
        known["trained_tokens"] = trained_tokens
    return DataSection(
        source=verdict.source,
        sha256=verdict.sha256,
        format=verdict.format,
        rows=verdict.rows,
        tokens_estimated=verdict.tokens_estimated,
        findings=verdict.findings,
        lossy=tuple(lossy) or verdict.lossy,
        **known,
    )


def _cost(estimate: CostEstimate, billed: Billed | None) -> Cost:
    known: dict[str, Any] = {}
    if billed is not None and billed.amount is not None:
        known["billed"] = billed.amount
    if billed is not None and billed.tokens is not None:
        known["billed_tokens"] = billed.tokens
    return Cost(
        estimated=estimate.total if estimate.total is not None else NotReported(estimate.unknown or "not estimated"),
        currency=billed.currency if billed is not None and billed.amount is not None else estimate.currency,
        formula=estimate.formula,
        source=(billed.source if billed is not None else "") or estimate.source,
        checked=estimate.checked,
        **known,
    )


def _diagnosis(series: Mapping[str, Series | NotReported], judged: EvaluationResult | NotReported) -> Diagnosis:
    if isinstance(judged, NotReported) or judged.fit is None:
        return diagnose(series=series)
    fit = judged.fit
    tuned = judged.system("tuned")
    if fit.metric == "preference_accuracy":
        return _preference_diagnosis(series, tuned)
    test = tuned.get(fit.metric) if tuned is not None else None
    known = {"train": fit.train, "validation": fit.validation, "test": test}
    shares = {name: value for name, value in known.items() if value is not None and value.unit == "share"}
    majority = judged.majority.accuracy.value if judged.majority is not None and fit.metric == "accuracy" else None
    return diagnose(
        train=shares["train"].value if "train" in shares else None,
        validation=shares["validation"].value if "validation" in shares else None,
        test=shares["test"].value if "test" in shares else None,
        rows={name: value.rows for name, value in shares.items()},
        majority=majority,
        series=series,
    )


def _preference_diagnosis(series: Mapping[str, Series | NotReported], tuned: SystemResult | None) -> Diagnosis:
    """By the rewards, which say what was learned: how likely a whole answer is depends on its length as well."""
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
