"""What a run cost and how long it took, its data and environment, its warnings, and the next commands."""

from __future__ import annotations

from llmtune.metrics.points import NotReported
from llmtune.report.cells import bullets, reported
from llmtune.report.document import Block, Code, Details, Inline, KeyValues, Section, Span, Text
from llmtune.report.format import money, seconds
from llmtune.report.schema import Report
from llmtune.report.summary import summary_rows


def cost(report: Report) -> Section:
    """Return the section with the estimate, the bill, and how they came about."""
    amounts = report.cost

    def in_money(value: float) -> str:
        return money(value, amounts.currency)

    pairs: list[tuple[str, Inline]] = [
        ("estimated", reported(amounts.estimated, in_money)),
        ("billed", reported(amounts.billed, in_money)),
        ("computed from billed tokens", reported(amounts.computed, in_money)),
        ("tokens billed", reported(amounts.billed_tokens, "{:,}".format)),
        ("difference", amounts.difference),
        ("how", amounts.formula),
        ("source", amounts.source),
        ("prices of", "" if amounts.checked is None else amounts.checked.isoformat()),
    ]
    return Section("cost", "Cost", [KeyValues([pair for pair in pairs if pair[1]])], folded=True)


def timing(report: Report) -> Section | None:
    """Return the section with the seconds of each phase; None while they still run."""
    if not report.identity.state.final:
        return None
    times = report.timing
    pairs: list[tuple[str, Inline]] = [
        ("queued", reported(times.queued, seconds)),
        ("training", reported(times.training, seconds)),
        ("evaluating", reported(times.evaluating, seconds)),
        ("in all", reported(times.total, seconds)),
        ("speed", reported(times.tokens_per_second, "{:,.0f} tokens/s".format)),
    ]
    return Section("timing", "Time", [KeyValues(pairs)], folded=True)


def facts(report: Report) -> Section:
    """Return the section about the models, the data and the machine."""
    identity, environment, data = report.identity, report.environment, report.data
    tuned = identity.tuned_model
    summary = list(summary_rows(report))
    pairs: list[tuple[str, Inline]] = [
        ("base model", Span(identity.model, "code")),
        ("tuned model", Span(str(tuned), "dim") if isinstance(tuned, NotReported) else Span(tuned, "code")),
        *(pair for pair in summary if pair[0] not in ("time", "cost", "machine")),
        ("device", reported(environment.device, str)),
        ("host", environment.host),
        ("platform", environment.platform),
        ("python", environment.python),
        ("llmtune", environment.llmtune),
        *environment.versions.items(),
        ("dataset", Span(f"sha256 {data.sha256}", "code") if data.sha256 else ""),
    ]
    blocks: list[Block] = [KeyValues([pair for pair in pairs if pair[1]])]
    for title, lines in (
        ("What the dataset check found", data.findings),
        ("What the row format could not carry", data.lossy),
    ):
        blocks += [Details(title, bullets(lines))] if lines else []
    brief = [KeyValues(summary)]
    return Section("facts", "Data and environment", blocks, short="Data", brief=brief, brief_title="Facts")


def warnings(report: Report) -> Section:
    """Return the section with whatever the reader should know."""
    return Section("warnings", "Warnings", bullets(report.warnings))


def onwards(report: Report) -> Section:
    """Return the section with the next commands and the code that calls the tuned model."""
    blocks: list[Block] = []
    run_id = report.identity.run_id
    brief = []
    if report.succeeded and not isinstance(report.identity.tuned_model, NotReported):
        brief.append(Code(f"llmtune chat {run_id}", "talk to it"))
        if isinstance(report.evaluation, NotReported):
            brief.append(Code(f"llmtune evaluate {run_id}", "evaluate it"))
    elif report.succeeded:
        brief.append(Code(f"llmtune runs attach {run_id}", "ask again"))
    if report.reproduce:
        blocks += [Text("Run the same job again:"), Code(report.reproduce, "the command", "sh")]
        brief.append(Code(report.reproduce, "run it again"))
    brief.append(Code(f"llmtune report {run_id} --format json", "all of it"))
    if isinstance(report.snippet, str) and report.snippet:
        blocks += [Text("Call the tuned model:"), Code(report.snippet, "the code", "python")]
        brief.append(Code(report.snippet, "call it"))
    blocks = blocks if report.identity.state.final else []
    return Section("again", "Again, and onwards", blocks, short="Again", brief=brief, brief_title="Next")
