"""The sentences about a sweep: the best configuration, its result on the test rows, what was spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune.metrics.points import NotReported
from llmtune.report.format import metric_name
from llmtune.sweeps.results import Finalist, Sweep

if TYPE_CHECKING:
    from rich.console import Console

    from llmtune.sweeps.sweep_plan import SweepPlan


def format_value(value: Any) -> str:
    """Return a value of the space as short text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def headline(sweep: Sweep) -> str:
    """Return a sentence with the best configuration and its value."""
    best = sweep.best
    if best is None:
        return "No trial has a result."
    params = ", ".join(f"{name} {format_value(value)}" for name, value in best.params.items())
    return f"best: {params} ({sweep.metric} {best.value:.4f}, trial {best.number}; {trial_count(sweep)})"


def trial_count(sweep: Sweep) -> str:
    """Return how many trials there were, and how many of them repeated an earlier configuration."""
    count = len(sweep.distinct)
    repeated = len(sweep.trials) - count
    text = f"{count} trial{'' if count == 1 else 's'}"
    return f"{text}, {repeated} more with the values of an earlier one" if repeated else text


def finalist_line(finalist: Finalist) -> str:
    """Return a sentence on a finalist: its configuration and its result on the test rows."""
    interval = finalist.interval
    spread = "" if isinstance(interval, NotReported) else f" ({interval.low:.3f} to {interval.high:.3f})"
    params = ", ".join(f"{name} {format_value(value)}" for name, value in finalist.params.items())
    seeds = f"{len(finalist.values)} seed{'' if len(finalist.values) == 1 else 's'}"
    baselines = "".join(f". {sentence.rstrip('.')}" for sentence in finalist.baselines)
    return f"{params}: {metric_name(finalist.metric)} {finalist.mean:.3f}{spread}, {seeds}{baselines}"


def note_lines(sweep: Sweep) -> list[str]:
    """Return remarks on the search: the sources of suggested ranges, its notes, the pre-screening."""
    lines = [f"{name} was searched in a published range: {source}" for name, source in sweep.sources.items()]
    lines += sweep.notes
    if (prescreened := sweep.prescreened) is not None:
        spent = (
            ""
            if isinstance(prescreened.spent, NotReported) or not prescreened.spent
            else f" for {prescreened.spent:,.2f} USD"
        )
        lines.append(
            f"explored at {prescreened.provider} with {prescreened.model} in {len(prescreened.trials)} trials{spent};"
            f" the best {len(prescreened.kept)} were carried over"
        )
    return lines


def cost_lines(sweep: Sweep) -> list[str]:
    """Return sentences on the cost, on a budget that was exceeded, and on the steps that early cancelling saved."""
    lines = []
    if not isinstance(sweep.spent, NotReported) and sweep.spent:
        over = "" if sweep.budget is None else f" of at most {sweep.budget:,.2f}"
        if sweep.budget is not None and sweep.spent > sweep.budget + 0.005:
            over = f": {sweep.spent - sweep.budget:,.2f} over the budget of {sweep.budget:,.2f}, as billed"
        lines.append(f"spent {sweep.spent:,.2f} USD{over}")
    pruned = [trial for trial in sweep.distinct if trial.state == "pruned"]
    with_steps = [trial for trial in pruned if trial.steps is not None and trial.total_steps]
    if pruned:
        planned = sum(trial.total_steps or 0 for trial in with_steps)
        saved = planned - sum(trial.steps or 0 for trial in with_steps)
        savings = f": {saved:,} of their {planned:,} steps were not trained" if planned else ""
        lines.append(f"{len(pruned)} trial{'' if len(pruned) == 1 else 's'} cancelled early{savings}")
    return lines


def print_plan(sweep_plan: SweepPlan, trials: int, console: Console) -> None:
    """Print the plan of a sweep to a terminal."""
    for name, part in sweep_plan.space.items():
        source = sweep_plan.sources.get(name)
        console.print(f"{name}: {part}" + (f"  ({source})" if source else ""), markup=False, soft_wrap=True)
    for note in sweep_plan.notes:
        console.print(note, markup=False, soft_wrap=True)
    for provider, cost in sweep_plan.trial_cost.items():
        if isinstance(cost, NotReported):
            console.print(f"a trial at {provider}: not known ({cost})", markup=False, soft_wrap=True)
        elif cost:
            text = f"a trial at {provider}: about {cost:,.2f} USD, {trials} of them {trials * cost:,.2f} USD"
            console.print(text, markup=False, soft_wrap=True)
