"""The documents of a rescue: the old model against the new one; and every model of an account."""

from __future__ import annotations

from dataclasses import replace

from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.cells import DASH, VERDICT_STYLES, bullets
from llmtune.report.document import Column, Document, Inline, KeyValues, Section, Span, Table, Text
from llmtune.report.sections.evaluation import by_label, confusion, held_out, worst
from llmtune.rescues.results import AccountRescue, RescueReport
from llmtune.rescues.text import describe_account, describe_golden_set, list_account_notes, list_leftovers, verdict

_CAUTION = (
    "The old model was trained on the rows it is judged by (no others were available), the new one was not: the"
    " old one's figures flatter it."
)


def document(report: RescueReport) -> Document:
    """Return the document of a rescue."""
    labels = report.labels
    comparison = None if isinstance(labels, NotReported) else labels.comparison(a="old", b="new")
    name = f"{report.source.model}, rescued"
    return Document(
        title=name,
        heading=name,
        verdict=Span(verdict(report), VERDICT_STYLES[comparison.verdict] if comparison is not None else ""),
        remarks=[Text(_CAUTION, "doubt")] if report.source.seen_in_training else (),
        sections=[section for section in _sections(report) if section is not None],
    )


def _sections(report: RescueReport) -> list[Section | None]:
    labels = report.labels
    by_answers = "Old against new, by the reference answers"
    sections: list[Section | None] = [
        models(report),
        held_out(labels, before="old", after="new", id="labels-old-new", title=by_answers),
    ]
    if isinstance(labels, EvaluationResult):
        sections += [by_label(labels, before="old", after="new"), confusion(labels, after="new")]
        sections.append(replace(worst(labels, after="new"), brief=()))
    by_old = "The new model, by the old model's answers"
    agreement = held_out(report.agreement, before="old", after="new", id="agreement", title=by_old)
    return [*sections, agreement, data(report), left_behind(report)]


def models(report: RescueReport) -> Section:
    """Return the section that names the old and the new model."""
    source = report.source
    pairs: list[tuple[str, Inline]] = [
        ("old model", [Span(source.model, "code"), f" at {source.provider}, from ", Span(source.base, "code")]),
        ("new model", ["run ", Span(report.run, "code"), f" at {report.provider}, from ", Span(report.model, "code")]),
        ("job", Span(source.job, "code") if source.job else DASH),
        ("cost of the new run", report.cost),
        ("golden set", describe_golden_set(report)),
    ]
    files: Inline = [
        Span("receipt.json", "code"),
        " says what the new backend does with every field; ",
        Span("job.yaml", "code"),
        " runs the job again.",
    ]
    return Section("models", "Old and new", [KeyValues(pairs), Text(files, "hint")], brief=[KeyValues(pairs)])


def data(report: RescueReport) -> Section:
    """Return the section with the files of the old job."""
    rows: list[list[Inline]] = [
        [Span(file.path, "code"), f"{file.rows:,}", file.came_from, Span(file.sha256[:12], "code")]
        for file in report.source.files.values()
    ]
    columns = (Column("file"), Column("rows", "number"), Column("came from"), Column("sha256"))
    return Section("data", "Data", [Table("Data", columns, rows, titled=False)] if rows else (), brief=())


def left_behind(report: RescueReport) -> Section:
    """Return the section with what could not be carried over."""
    title = "What could not be carried over"
    return Section("left", title, bullets(list_leftovers(report)), short="Left behind", brief_title=title)


def account_document(rescue: AccountRescue) -> Document:
    """Return the document of an account: one row per model."""
    rows: list[list[Inline]] = [
        [
            Span(model.folder, "code"),
            Span(model.model, "code"),
            Span(model.base, "code"),
            "yes" if model.job else "no",
            "gone" if model.train_rows is None else str(model.train_rows),
            f"{model.answered} of {model.questions}",
        ]
        for model in rescue.models
    ]
    headings = ("folder", "model", "from", "job", "training rows", "golden answers")
    table = Table("Models", [Column(heading) for heading in headings], rows, titled=False)
    return Document(
        title=f"{rescue.provider}, rescued",
        heading=f"{rescue.provider}, rescued",
        verdict=Span(describe_account(rescue)),
        sections=[
            Section("models", "Models", [table]),
            Section("notes", "Notes", bullets(list_account_notes(rescue))),
        ],
    )
