"""Data, time, cost and machine as text: the same lines for terminal and Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from llmtune.evaluation.results import EvaluationResult, SystemResult
from llmtune.metrics.points import NotReported
from llmtune.report.format import count, metric_name, money, one_line, seconds
from llmtune.report.schema import EarlierEvaluation, Report


def summary_rows(report: Report) -> Iterator[tuple[str, str]]:
    """Yield name and value of each fact; an unknown value says why."""
    yield "data", _data(report)
    yield "time", _time(report)
    if report.stopping:
        yield "training", one_line(report.stopping, 300)
    yield "cost", _cost(report)
    if isinstance(report.evaluation, EvaluationResult):
        for system in report.evaluation.systems.values():
            if isinstance(system, SystemResult) and not _is_computed(system):
                yield f"asking {system.name}", _asking(system)
    if report.evaluated_on:
        yield "evaluated on", f"{one_line(report.evaluated_on)} (not the job's own test rows)"
    for evaluation in report.earlier_evaluations:
        yield "earlier", _earlier(evaluation)
    yield "machine", _machine(report)
    yield from report.artifacts.items()


def _data(report: Report) -> str:
    data = report.data
    rows = ", ".join(f"{amount:,} {part}" for part, amount in data.rows.items() if amount)
    about = "about " if data.tokens_estimated else ""
    tokens = f"{about}{data.tokens:,} tokens per epoch" if isinstance(data.tokens, int) else f"tokens {data.tokens}"
    digest = f", sha256 {data.sha256[:12]}" if data.sha256 else ""
    lossy = f"; {len(data.lossy)} things the row format could not carry" if data.lossy else ""
    return f"{one_line(data.source)}: {rows or 'no rows'}; {tokens}{digest}{lossy}"


def _time(report: Report) -> str:
    timing = report.timing
    parts = [
        f"{name} {seconds(value)}"
        for name, value in (
            ("training", timing.training),
            ("queued", timing.queued),
            ("evaluating", timing.evaluating),
            ("in all", timing.total),
        )
        if not isinstance(value, NotReported)
    ]
    if not isinstance(timing.tokens_per_second, NotReported):
        parts.append(f"{timing.tokens_per_second:,.0f} tokens/s")
    return ", ".join(parts) or f"training {timing.training}"


def _cost(report: Report) -> str:
    cost = report.cost
    if isinstance(cost.estimated, NotReported):
        estimate = f"estimate unknown: {one_line(cost.estimated.reason)}"
    else:
        estimate = f"estimated {money(cost.estimated, cost.currency)}"
    if isinstance(cost.billed, NotReported):
        billed = f"billed: {cost.billed}"
    else:
        billed = f"billed {money(cost.billed, cost.currency)}"
    if isinstance(cost.billed, NotReported) and not isinstance(cost.computed, NotReported):
        billed = f"computed {money(cost.computed, cost.currency)}"
    if cost.estimated == 0 and cost.formula:
        return one_line(cost.formula)
    tokens = f", {cost.billed_tokens:,} tokens billed" if isinstance(cost.billed_tokens, int) else ""
    how = f" ({one_line(cost.formula)})" if cost.formula else ""
    dated = f", prices of {cost.checked.isoformat()}" if cost.checked else ""
    difference = f" ({one_line(cost.difference)})" if cost.difference else ""
    return f"{estimate}{how}{dated}; {billed}{tokens}{difference}"


def _is_computed(system: SystemResult) -> bool:
    """Return whether the system needs no language model: a linear model, the nearest training row."""
    return system.name in ("linear", "nearest")


def _asking(system: SystemResult) -> str:
    usage, latency = system.usage, system.latency
    parts = []
    if not isinstance(usage, NotReported):
        parts.append(count(usage.asked, "answer") + (f" and {usage.cached:,} from the cache" if usage.cached else ""))
        if isinstance(usage.prompt_tokens, int) and isinstance(usage.completion_tokens, int):
            parts.append(f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out")
    if not isinstance(latency, NotReported):
        parts.append(f"{seconds(latency.p50)} an answer (95 of 100 within {seconds(latency.p95)})")
    return ", ".join(parts) or str(usage)


def _earlier(evaluation: EarlierEvaluation) -> str:
    """Describe an earlier evaluation, with the answers it asked for."""
    figures = ", ".join(f"{name} {value:.4g}" for name, value in evaluation.figures.items()) or "no figures"
    rows = f"{count(evaluation.rows, 'row')}{f' of {one_line(evaluation.source)}' if evaluation.source else ''}"
    tokens = ""
    if isinstance(evaluation.prompt_tokens, int) and isinstance(evaluation.completion_tokens, int):
        tokens = f", {evaluation.prompt_tokens:,} tokens in, {evaluation.completion_tokens:,} out"
    return (
        f"{metric_name(evaluation.metric)} on {rows}: {figures}; {count(evaluation.asked, 'answer')} asked for{tokens}"
    )


def _machine(report: Report) -> str:
    here = report.environment
    device = f"unknown hardware ({here.device.reason})" if isinstance(here.device, NotReported) else here.device
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    parts = [f"trained on {device}", f"llmtune {here.llmtune}" if here.llmtune else "", here.platform, versions]
    return ", ".join(one_line(part) for part in parts if part)
