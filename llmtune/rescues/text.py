"""A rescue in words: the verdict, and the page that goes into the folder."""

from __future__ import annotations

from collections.abc import Iterator

from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.format import difference, metric_name, number, spread
from llmtune.report.markdown import code, plain, table
from llmtune.report.verdicts import not_asked
from llmtune.rescues.results import AccountRescue, ModelRescue, RescueReport


def verdict(report: RescueReport) -> str:
    """One sentence: is the new model as good as the old one, and how alike do they answer?"""
    return " ".join(part for part in (_by_labels(report.labels), _by_answers(report.agreement)) if part)


def _by_labels(labels: EvaluationResult | NotReported) -> str:
    if isinstance(labels, NotReported):
        return f"Old and new were not judged by reference answers: {labels.reason}."
    name = metric_name(labels.main)
    new = labels.system("new")
    found = labels.comparison(a="old", b="new")
    if found is None or new is None:
        return _one_sided(labels, name)
    unit = new[labels.main].unit
    values = f"{number(found.b, unit)} against {number(found.a, unit)} {name} on {found.rows} rows"
    apart = f"{difference(found.difference, unit)} ({spread(found.interval, unit)})"
    words = {
        "better": f"The new model is better: {values}, {apart}.",
        "worse": f"The new model is worse: {values}, {apart}.",
        "not separable": f"The new model cannot be told from the old one: {values}, {apart}.",
    }
    return words[found.verdict]


def _one_sided(labels: EvaluationResult, name: str) -> str:
    """The verdict where old and new model were not compared: each figure under the name of the model it is of."""
    figures = {
        system: f"reaches {number(figure.value, figure.unit)} {name}"
        for system in ("old", "new")
        if (result := labels.system(system)) is not None and (figure := result.get(labels.main)) is not None
    }
    if "new" in figures:
        return f"The new model {figures['new']}; there is nothing of the old one to compare it with."
    reason = not_asked(labels, "new")
    if "old" in figures:
        return f"The old model {figures['old']}; {reason}."
    return f"{reason[0].upper()}{reason[1:]}; there is nothing of the old one either."


def _by_answers(agreement: EvaluationResult | NotReported) -> str:
    if isinstance(agreement, NotReported):
        return ""
    new = agreement.system("new")
    figure = new.get(agreement.main) if new is not None else None
    if figure is None:
        return ""
    value = f"{number(figure.value, figure.unit)} {metric_name(agreement.main)}"
    return f"Judged by the old model's own answers it reaches {value} ({spread(figure.interval, figure.unit)})."


def to_markdown(report: RescueReport) -> str:
    """The page in the folder."""
    return "\n\n".join(part for part in _parts(report) if part) + "\n"


def _parts(report: RescueReport) -> Iterator[str]:
    source = report.source
    yield f"# {plain(source.model)}, rescued"
    yield f"**{plain(verdict(report), 1000)}**"
    if source.seen_in_training:
        yield (
            "The old model was trained on the rows it is judged by (no others could be had), the new one was not: the"
            " old one's figures flatter it."
        )
    facts = [
        ["old model", f"{code(source.model)} at {plain(source.provider)}, from {code(source.base)}"],
        ["new model", f"run {code(report.run)} at {plain(report.provider)}, from {code(report.model)}"],
        ["job", code(source.job) if source.job else "-"],
        ["cost of the new run", plain(report.cost)],
        ["golden set", plain(golden_words(report), 1000)],
    ]
    yield table(["", ""], facts)
    yield _scores(report.labels, "Old against new, by the reference answers")
    yield _scores(report.agreement, "The new model, by the old model's answers")
    yield _files(report)
    lines = [f"- {plain(each)}" for each in left_behind(report)]
    if lines:
        yield "## What did not come along"
        yield "\n".join(lines)
    yield "`receipt.json` says what the new backend does with every field; `job.yaml` runs the job again."


def golden_words(report: RescueReport) -> str:
    """How many answers of the old model there are, and how it was asked."""
    told = report.golden
    if isinstance(told, NotReported):
        return f"none: {told.reason}"
    sampling = ", ".join(f"{name} {value}" for name, value in told.sampling.items())
    return f"{told.answered} of {told.rows} answers in golden.jsonl ({sampling})"


def left_behind(report: RescueReport) -> list[str]:
    """What did not come along, a sentence each."""
    source, to = report.source, report.provider
    said = [f"{name} was left to {to}: {why}" for name, why in report.dropped.items()]
    said += [f"{name} has no knob at {to}: {why}" for name, why in report.lost.items()]
    said += [
        f"{name} = {value} is {source.provider}'s own and has no name here" for name, value in source.unmapped.items()
    ]
    said += [f"{name} = {value} was chosen by {source.provider} itself" for name, value in source.chosen.items()]
    said += [f"the {role} file could not be fetched: {why}" for role, why in source.gone.items()]
    return said


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
                plain(metric_name(each.name)),
                number(each.value, each.unit),
                spread(each.interval, each.unit),
            ]
            for each in system.metrics
        ]
    said = [
        f"{metric_name(each.metric)}: {each.name_b} is {each.verdict} than {each.name_a}"
        if each.separable
        else f"{metric_name(each.metric)}: {each.name_a} and {each.name_b} are not separable"
        for each in result.comparisons
        if {each.name_a, each.name_b} == {"old", "new"}
    ]
    level = f"{100 * result.level:.0f}%"
    parts = [f"## {title}", table(["", "metric", "value", f"{level} interval"], rows, right=(2,))]
    if said:
        parts.append("\n".join(f"- {plain(each)}" for each in said))
    return "\n\n".join(parts)


def _files(report: RescueReport) -> str:
    rows = [
        [code(file.path), str(file.rows), plain(file.came_from), code(file.sha256[:12])]
        for file in report.source.files.values()
    ]
    return "## Data\n\n" + table(["file", "rows", "came from", "sha256"], rows, right=(1,)) if rows else ""


def account_sentence(rescue: AccountRescue) -> str:
    """The account in one sentence: how many jobs, training rows and answers there are."""
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
    """What a person should know besides: what is missing, of which models, and what was left out."""
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
    """The page in the folder of an account's rescue."""
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
