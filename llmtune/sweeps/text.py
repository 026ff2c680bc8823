"""A sweep in words: the best configuration, what it reaches on the test rows, and the table of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune.metrics.points import NotReported
from llmtune.report.format import metric_name
from llmtune.report.markdown import code, plain, table
from llmtune.sweeps.results import Finalist, Sweep

if TYPE_CHECKING:
    from rich.console import Console

    from llmtune.sweeps.sweep_plan import Outline


def shown(value: Any) -> str:
    """A value of the space, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def headline(found: Sweep) -> str:
    """The best configuration and its value."""
    best = found.best
    if best is None:
        return "No trial came to a result."
    params = ", ".join(f"{name} {shown(value)}" for name, value in best.params.items())
    return f"best: {params} ({found.metric} {best.value:.4f}, trial {best.number}; {trial_count(found)})"


def trial_count(found: Sweep) -> str:
    """How many trials there were, and how many of them had the values of an earlier one."""
    count = len(found.distinct)
    repeated = len(found.trials) - count
    words = f"{count} trial{'' if count == 1 else 's'}"
    return f"{words}, {repeated} more with the values of an earlier one" if repeated else words


def tested(final: Finalist) -> str:
    """A finalist on the test rows."""
    within = final.interval
    spread = "" if isinstance(within, NotReported) else f" ({within.low:.3f} to {within.high:.3f})"
    params = ", ".join(f"{name} {shown(value)}" for name, value in final.params.items())
    times = f"{len(final.values)} seed{'' if len(final.values) == 1 else 's'}"
    beside = "".join(f". {sentence.rstrip('.')}" for sentence in final.baselines)
    return f"{params}: {metric_name(final.metric)} {final.mean:.3f}{spread}, {times}{beside}"


def asides(found: Sweep) -> list[str]:
    """What should be known of the search: its suggested ranges and their sources, notes, the pre-screening."""
    lines = [f"{name} was searched as published: {source}" for name, source in found.sources.items()]
    lines += found.notes
    if (before := found.prescreened) is not None:
        spent = "" if isinstance(before.spent, NotReported) or not before.spent else f" for {before.spent:,.2f} USD"
        lines.append(
            f"explored at {before.provider} with {before.model} in {len(before.trials)} trials{spent};"
            f" the best {len(before.kept)} were carried over"
        )
    return lines


def sums(found: Sweep) -> list[str]:
    """What it cost, whether that is more than was allowed, and what cancelling hopeless trials saved."""
    lines = []
    if not isinstance(found.spent, NotReported) and found.spent:
        over = "" if found.budget is None else f" of at most {found.budget:,.2f}"
        if found.budget is not None and found.spent > found.budget + 0.005:
            over = f": {found.spent - found.budget:,.2f} over the budget of {found.budget:,.2f}, by what was billed"
        lines.append(f"spent {found.spent:,.2f} USD{over}")
    pruned = [each for each in found.distinct if each.state == "pruned"]
    known = [each for each in pruned if each.steps is not None and each.total_steps]
    if pruned:
        planned = sum(each.total_steps or 0 for each in known)
        saved = planned - sum(each.steps or 0 for each in known)
        told = f": {saved:,} of their {planned:,} steps were not trained" if planned else ""
        lines.append(f"{len(pruned)} trial{'' if len(pruned) == 1 else 's'} cancelled early{told}")
    return lines


def print_outline(told: Outline, trials: int, console: Console) -> None:
    """What a sweep will search, on a terminal."""
    for name, part in told.space.items():
        source = told.sources.get(name)
        console.print(f"{name}: {part}" + (f"  ({source})" if source else ""), markup=False, soft_wrap=True)
    for note in told.notes:
        console.print(note, markup=False, soft_wrap=True)
    for place, cost in told.trial_cost.items():
        if isinstance(cost, NotReported):
            console.print(f"a trial at {place}: not known ({cost})", markup=False, soft_wrap=True)
        elif cost:
            text = f"a trial at {place}: about {cost:,.2f} USD, {trials} of them {trials * cost:,.2f} USD"
            console.print(text, markup=False, soft_wrap=True)


def to_markdown(found: Sweep) -> str:
    """The sweep for a pull request or a wiki."""
    parts = [f"# {plain(found.name)}: {trial_count(found)}", f"**{plain(headline(found), 1000)}**"]
    if found.finalists:
        parts += ["On the test rows:", "\n".join(f"- {plain(tested(each), 1000)}" for each in found.finalists)]
    if found.stopped:
        parts.append(f"Stopped by {plain(found.stopped, 1000)}.")
    names = list(dict.fromkeys(name for each in found.trials for name in each.params))
    rows = [
        [
            str(each.number),
            "-" if each.value is None else f"{each.value:.4f}",
            *(plain(shown(each.params.get(name, "-"))) for name in names),
            each.state,
            code(each.run) if each.run else "-",
            plain(each.note),
        ]
        for each in found.ranked(every=True)
    ]
    parts.append(table(["trial", plain(found.metric), *map(plain, names), "state", "run", ""], rows, right=(0, 1)))
    if found.importance:
        told = ", ".join(f"{name} {100 * share:.0f}%" for name, share in found.importance.items())
        parts.append(f"What mattered: {plain(told)}.")
    if lines := [*sums(found), *asides(found)]:
        parts.append("\n".join(f"- {plain(line, 1000)}" for line in lines))
    return "\n\n".join(parts) + "\n"


def print_sweep(found: Sweep, console: Console) -> None:
    """On a terminal."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]{escape(headline(found))}[/]", soft_wrap=True)
    for final in found.finalists:
        console.print(escape(f"on the test rows: {tested(final)}"), soft_wrap=True)
    if found.importance:
        told = ", ".join(f"{name} {100 * share:.0f}%" for name, share in found.importance.items())
        console.print(f"what mattered: {told}", markup=False, soft_wrap=True)
    for line in asides(found):
        console.print(line, markup=False, soft_wrap=True)
    names = list(dict.fromkeys(name for each in found.trials for name in each.params))
    rows = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for heading in ("trial", found.metric, *names, "state", "run"):
        rows.add_column(heading)
    for each in found.ranked(every=True):
        value = "" if each.value is None else f"{each.value:.4f}"
        cells = [shown(each.params.get(name, "")) for name in names]
        rows.add_row(str(each.number), value, *map(escape, cells), each.state, each.run or "")
    console.print(rows)
    for line in sums(found):
        console.print(line, markup=False, soft_wrap=True)
    if found.stopped:
        console.print(f"[yellow]{escape(f'stopped by {found.stopped}')}[/]", soft_wrap=True)
