"""The sentences about a rescue: its verdict, its golden set, and what could not be carried over."""

from __future__ import annotations

from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.format import count, difference, metric_name, number, p_words, spread
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
    p_value = f"; {p_words(comparison.p_value)} by McNemar's exact test" if comparison.p_value is not None else ""
    gap = f"{difference(comparison.difference, unit)} ({spread(comparison.interval, unit)}{p_value})"
    sentences = {
        "better": f"The new model is better: {values}, {gap}.",
        "worse": f"The new model is worse: {values}, {gap}.",
        "not separable": f"The new model cannot be distinguished from the old one: {values}, {gap}.",
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


def describe_golden_set(report: RescueReport) -> str:
    """Return how many answers of the old model there are, and how it was asked."""
    golden = report.golden
    if isinstance(golden, NotReported):
        return f"none: {golden.reason}"
    sampling = ", ".join(f"{name} {value}" for name, value in golden.sampling.items())
    return f"{golden.answered} of {golden.rows} answers in golden.jsonl ({sampling})"


def list_leftovers(report: RescueReport) -> list[str]:
    """Return what could not be carried over, one sentence each."""
    source, provider = report.source, report.provider
    lines = [f"{name} was left to {provider}: {reason}" for name, reason in report.dropped.items()]
    lines += [f"{name} has no setting at {provider}: {reason}" for name, reason in report.lost.items()]
    lines += [
        f"{name} = {value} is {source.provider}'s own and has no name here" for name, value in source.unmapped.items()
    ]
    lines += [f"{name} = {value} was chosen by {source.provider} itself" for name, value in source.chosen.items()]
    lines += [f"the {role} file could not be fetched: {reason}" for role, reason in source.gone.items()]
    return lines


def describe_account(rescue: AccountRescue) -> str:
    """Return the account in one sentence: how many jobs, training rows and answers there are."""
    models = rescue.models
    train_rows = [model.train_rows for model in models if model.train_rows is not None]
    answered, questions = sum(model.answered for model in models), sum(model.questions for model in models)
    text = (
        f"{count(len(models), 'tuned model')} at {rescue.provider}: {count(sum(m.job for m in models), 'job')},"
        f" {count(len(train_rows), 'training file')} ({sum(train_rows):,} rows),"
        f" {answered:,} of {questions:,} golden answers"
    )
    if new_runs := sum(model.run is not None for model in models):
        text += f", {count(new_runs, 'new run')}"
    return text


def list_account_notes(rescue: AccountRescue) -> list[str]:
    """Return notes for the reader: what is missing, of which models, and what was left out."""
    lines = list(rescue.notes)
    lines += [f"{model.model}: {model.error}" for model in rescue.failed]
    models_by_note: dict[str, list[ModelRescue]] = {}
    for model in rescue.models:
        for note in model.notes:
            models_by_note.setdefault(note.replace(model.model, "the model"), []).append(model)
    for note, models in models_by_note.items():
        folders = ", ".join(model.folder for model in models[:3]) + (" ..." if len(models) > 3 else "")
        lines.append(f"{folders}: {note}" if len(models) == 1 else f"{len(models)} models ({folders}): {note}")
    if rescue.checkpoints:
        lines.append(f"{count(rescue.checkpoints, 'checkpoint')} left alone; llmtune rescue CHECKPOINT takes one")
    if rescue.left_out:
        lines.append(f"{count(rescue.left_out, 'model')} left out by the filters")
    return lines
