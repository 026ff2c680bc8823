"""The text of a rescue: its verdict, and the Markdown page in its folder."""

from __future__ import annotations

from collections.abc import Iterator

from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.format import difference, metric_name, number, p_words, spread
from llmtune.report.markdown import code, plain, table
from llmtune.report.verdicts import explain_missing_figure
from llmtune.rescues.results import AccountRescue, ModelRescue, RescueReport


def verdict(report: RescueReport) -> str:
    """Return one sentence: whether the new model is as good as the old one, and how alike they answer."""
    return " ".join(part for part in (_describe_labels(report.labels), _describe_agreement(report.agreement)) if part)


def _describe_labels(labels: EvaluationResult | NotReported) -> str:
    if isinstance(labels, NotReported):
        return f"Old and new were not compared by reference answers: {labels.reason}."
    name = metric_name(labels.main)
    new = labels.system("new")
    comparison = labels.comparison(a="old", b="new")
    if comparison is None or new is None:
        return _describe_one_side(labels, name)
    unit = new[labels.main].unit
    values = f"{number(comparison.b, unit)} against {number(comparison.a, unit)} {name} on {comparison.rows} rows"
    test = f"; {p_words(comparison.p_value)} by McNemar's exact test" if comparison.p_value is not None else ""
    apart = f"{difference(comparison.difference, unit)} ({spread(comparison.interval, unit)}{test})"
    sentences = {
        "better": f"The new model is better: {values}, {apart}.",
        "worse": f"The new model is worse: {values}, {apart}.",
        "not separable": f"The new model cannot be distinguished from the old one: {values}, {apart}.",
    }
    return sentences[comparison.verdict]


def _describe_one_side(labels: EvaluationResult, name: str) -> str:
    """Return the verdict where old and new model were not compared: the figure of the one that was evaluated."""
    figures = {
        system: f"reaches {number(figure.value, figure.unit)} {name}"
        for system in ("old", "new")
        if (result := labels.system(system)) is not None and (figure := result.get(labels.main)) is not None
    }
    if "new" in figures:
        return f"The new model {figures['new']}; there is no result of the old one to compare it with."
    reason = explain_missing_figure(labels, "new")
    if "old" in figures:
        return f"The old model {figures['old']}; {reason}."
    return f"{reason[0].upper()}{reason[1:]}; there is none of the old one either."


def _describe_agreement(agreement: EvaluationResult | NotReported) -> str:
    if isinstance(agreement, NotReported):
        return ""
    new = agreement.system("new")
    figure = new.get(agreement.main) if new is not None else None
    if figure is None:
        return ""
    value = f"{number(figure.value, figure.unit)} {metric_name(agreement.main)}"
    return f"Measured by the old model's own answers it reaches {value} ({spread(figure.interval, figure.unit)})."


def to_markdown(report: RescueReport) -> str:
    """Return report.md, the page in the folder."""
    return "\n\n".join(part for part in _parts(report) if part) + "\n"


def _parts(report: RescueReport) -> Iterator[str]:
    source = report.source
    yield f"# {plain(source.model)}, rescued"
    yield f"**{plain(verdict(report), 1000)}**"
    if source.seen_in_training:
        yield (
            "The old model was trained on the rows it is judged by (no others were available), the new one was not: the"
            " old one's figures flatter it."
        )
    facts = [
        ["old model", f"{code(source.model)} at {plain(source.provider)}, from {code(source.base)}"],
        ["new model", f"run {code(report.run)} at {plain(report.provider)}, from {code(report.model)}"],
        ["job", code(source.job) if source.job else "-"],
        ["cost of the new run", plain(report.cost)],
        ["golden set", plain(golden_set_sentence(report), 1000)],
    ]
    yield table(["", ""], facts)
    yield _scores(report.labels, "Old against new, by the reference answers")
    yield _scores(report.agreement, "The new model, by the old model's answers")
    yield _files(report)
    lines = [f"- {plain(line)}" for line in leftover_lines(report)]
    if lines:
        yield "## What could not be carried over"
        yield "\n".join(lines)
    yield "`receipt.json` says what the new backend does with every field; `job.yaml` runs the job again."


def golden_set_sentence(report: RescueReport) -> str:
    """Return how many answers of the old model there are, and how it was asked."""
    golden = report.golden
    if isinstance(golden, NotReported):
        return f"none: {golden.reason}"
    sampling = ", ".join(f"{name} {value}" for name, value in golden.sampling.items())
    return f"{golden.answered} of {golden.rows} answers in golden.jsonl ({sampling})"


def leftover_lines(report: RescueReport) -> list[str]:
    """Return what could not be carried over, one sentence each."""
    source, to = report.source, report.provider
    lines = [f"{name} was left to {to}: {why}" for name, why in report.dropped.items()]
    lines += [f"{name} has no setting at {to}: {why}" for name, why in report.lost.items()]
    lines += [
        f"{name} = {value} is {source.provider}'s own and has no name here" for name, value in source.unmapped.items()
    ]
    lines += [f"{name} = {value} was chosen by {source.provider} itself" for name, value in source.chosen.items()]
    lines += [f"the {role} file could not be fetched: {why}" for role, why in source.gone.items()]
    return lines


def _scores(result: EvaluationResult | NotReported, title: str) -> str:
    if isinstance(result, NotReported):
        return f"## {title}\n\nNot reported: {plain(result.reason, 1000)}."
    rows = []
    for name, system in result.systems.items():
        if isinstance(system, NotReported):
            rows.append([plain(name), "-", plain(system.reason), "-"])
            continue
        rows += [
            [
                plain(name),
                plain(metric_name(metric.name)),
                number(metric.value, metric.unit),
                spread(metric.interval, metric.unit),
            ]
            for metric in system.metrics
        ]
    sentences = [
        f"{metric_name(comparison.metric)}: {comparison.name_b} is {comparison.verdict} than {comparison.name_a}"
        if comparison.separable
        else f"{metric_name(comparison.metric)}: {comparison.name_a} and {comparison.name_b} are not separable"
        for comparison in result.comparisons
        if {comparison.name_a, comparison.name_b} == {"old", "new"}
    ]
    level = f"{100 * result.level:.0f}%"
    parts = [f"## {title}", table(["", "metric", "value", f"{level} interval"], rows, right=(2,))]
    if sentences:
        parts.append("\n".join(f"- {plain(sentence)}" for sentence in sentences))
    return "\n\n".join(parts)


def _files(report: RescueReport) -> str:
    rows = [
        [code(file.path), str(file.rows), plain(file.came_from), code(file.sha256[:12])]
        for file in report.source.files.values()
    ]
    return "## Data\n\n" + table(["file", "rows", "came from", "sha256"], rows, right=(1,)) if rows else ""


def account_sentence(rescue: AccountRescue) -> str:
    """Return the account in one sentence: how many jobs, training rows and answers there are."""
    models = rescue.models
    files = [model.train_rows for model in models if model.train_rows is not None]
    answered, questions = sum(model.answered for model in models), sum(model.questions for model in models)
    text = (
        f"{_count(len(models), 'tuned model')} at {rescue.provider}: {_count(sum(m.job for m in models), 'job')},"
        f" {_count(len(files), 'training file')} ({sum(files):,} rows), {answered:,} of {questions:,} golden answers"
    )
    if trained := sum(model.run is not None for model in models):
        text += f", {_count(trained, 'new run')}"
    return text


def account_lines(rescue: AccountRescue) -> list[str]:
    """Return notes for the reader: what is missing, of which models, and what was left out."""
    lines = list(rescue.notes)
    lines += [f"{model.model}: {model.error}" for model in rescue.failed]
    reasons: dict[str, list[ModelRescue]] = {}
    for model in rescue.models:
        for note in model.notes:
            reasons.setdefault(note.replace(model.model, "the model"), []).append(model)
    for note, models in reasons.items():
        named = ", ".join(model.folder for model in models[:3]) + (" ..." if len(models) > 3 else "")
        lines.append(f"{named}: {note}" if len(models) == 1 else f"{len(models)} models ({named}): {note}")
    if rescue.checkpoints:
        lines.append(f"{_count(rescue.checkpoints, 'checkpoint')} left alone; llmtune rescue CHECKPOINT takes one")
    if rescue.left_out:
        lines.append(f"{_count(rescue.left_out, 'model')} left out by the filters")
    return lines


def account_page(rescue: AccountRescue) -> str:
    """Return summary.md, the page in the folder of an account's rescue."""
    rows = [
        [
            code(model.folder),
            code(model.model),
            code(model.base),
            "yes" if model.job else "no",
            "gone" if model.train_rows is None else str(model.train_rows),
            f"{model.answered} of {model.questions}",
        ]
        for model in rescue.models
    ]
    head = ["folder", "model", "from", "job", "training rows", "golden answers"]
    parts = [f"# {plain(rescue.provider)}, rescued", plain(account_sentence(rescue), 1000), table(head, rows)]
    parts += ["\n".join(f"- {plain(line, 1000)}" for line in account_lines(rescue))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
