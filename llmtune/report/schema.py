"""The report: one shape for every backend, plain data, there and back through JSON.

A number that the backend does not tell is a `NotReported` with its reason, never zero and never left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ValidationError

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData, LlmtuneError, MissingExtra
from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.diagnosis import Diagnosis
from llmtune.metrics.points import MetricPoint, NotReported, Series
from llmtune.provider.declarations import Support
from llmtune.provider.types import RunState
from llmtune.redaction.documents import dump_json
from llmtune.report.render import Renderable

if TYPE_CHECKING:
    import pandas

#: Changes when a field changes its meaning or goes away; new fields may come without.
SCHEMA_VERSION: Literal[1] = 1

Table = Literal["series", "metrics", "receipt", "classes", "worst"]


class Identity(DocumentedModel):
    """Which run this is about."""

    run_id: str
    job_name: str
    provider: str
    """Name of the configured instance."""

    kind: str
    """Name of the adapter behind it."""

    model: str
    """The base model's id, as the job names it."""

    tuned_model: str | NotReported
    """The tuned model's id at the backend, or its folder."""

    method: str = "sft"
    adapter: str = "lora"
    state: RunState
    key: str = ""
    url: str | None = None
    """Where a person can look at it."""

    created: float | None = None
    """Seconds since 1970 UTC."""

    finished: float | None = None


class ReceiptRow(DocumentedModel):
    """What became of one field of the job."""

    field: str
    support: Support
    requested: Any = None
    effective: Any = None
    wire: str | None = None
    rule: str | None = None
    reason: str | None = None
    source: str | None = None

    @property
    def lost(self) -> bool:
        """Whether the job sets it and the backend has no knob for it."""
        return self.support == "unsupported" and self.requested is not None


class DataSection(DocumentedModel):
    """What the model was trained on."""

    source: str = ""
    sha256: str | None = None
    format: str = ""
    rows: dict[str, int] = {}
    """Rows by part."""

    tokens: int | NotReported = NotReported("not counted")
    """Tokens of one pass over the training rows."""

    tokens_estimated: bool = True
    trained_tokens: int | NotReported = NotReported("the backend does not tell")
    """Tokens trained on in all epochs together, as the backend counts them."""

    findings: tuple[str, ...] = ()
    """What the dataset check found, one line each."""

    lossy: tuple[str, ...] = ()
    """What the backend's row format could not carry."""


class Timing(DocumentedModel):
    """Seconds, from the states the run went through."""

    queued: float | NotReported = NotReported("the run never waited in a queue that we saw")
    training: float | NotReported = NotReported("the run never trained that we saw")
    evaluating: float | NotReported = NotReported("the run was not evaluated")
    total: float | NotReported = NotReported("the run has not ended")
    tokens_per_second: float | NotReported = NotReported("the backend does not tell")


class Cost(DocumentedModel):
    """Money: the estimate before, and what the backend says it billed."""

    estimated: float | NotReported = NotReported("not estimated")
    billed: float | NotReported = NotReported("the backend does not tell what it billed")
    billed_tokens: int | NotReported = NotReported("the backend does not tell how many tokens it billed")
    currency: str = "USD"
    formula: str = ""
    """How the estimate was made, to be checked by hand."""

    source: str = ""
    checked: date | None = None
    """When the prices were looked up."""


class Environment(DocumentedModel):
    """Where it ran, as far as this side knows."""

    llmtune: str = ""
    python: str = ""
    platform: str = ""
    host: str = ""
    device: str | NotReported = NotReported("the backend does not tell its hardware")
    versions: dict[str, str] = {}
    """Packages that took part, by distribution."""


class Check(DocumentedModel):
    """Something that was looked at after training: that the model ends its turn, that templates agree, ..."""

    name: str
    passed: bool
    says: str = ""


class EarlierEvaluation(DocumentedModel):
    """An evaluation that a later one has taken the place of: what it measured, and what it asked for."""

    rows: int
    """Rows that were asked."""

    source: str = ""
    """Where they came from; "" for a run of an earlier version."""

    metric: str
    """Its main metric."""

    figures: dict[str, float] = {}
    """The main metric of each system that has it, by the system's name."""

    asked: int = 0
    """Answers that were asked for, of all systems together."""

    prompt_tokens: int | NotReported = NotReported("nothing was asked")
    """Tokens of the questions, by the backend's own count."""

    completion_tokens: int | NotReported = NotReported("nothing was asked")
    """Tokens of the answers, by the backend's own count."""

    seconds: float | None = None
    finished: float | None = None
    """Seconds since 1970 UTC."""

    @classmethod
    def of(
        cls, result: EvaluationResult, *, source: str = "", finished: float | None = None, seconds: float | None = None
    ) -> Self:
        """The record of an evaluation, once another one stands in its place."""
        systems = {name: system for name in result.systems if (system := result.system(name)) is not None}
        usages = [system.usage for system in systems.values() if not isinstance(system.usage, NotReported)]
        known: dict[str, int | NotReported] = {}
        for name in ("prompt_tokens", "completion_tokens"):
            counts = [count for usage in usages if isinstance(count := getattr(usage, name), int)]
            if counts:
                known[name] = sum(counts)
        return cls(
            rows=result.rows,
            source=source,
            metric=result.main,
            figures={name: found.value for name, each in systems.items() if (found := each.get(result.main))},
            asked=sum(usage.asked for usage in usages),
            seconds=seconds,
            finished=finished,
            **known,
        )


class Report(Renderable, DocumentedModel):
    """Everything about one run.

    `schema_version` changes when a field changes its meaning. `identity` says which run, `receipt` what became of
    every field of the job, `timing` is in seconds, `cost` in money. `evaluation` is base against tuned on held-out
    rows, `diagnosis` what the curves and scores point to, `checks` what else was looked at. `environment` is where
    it ran; `warnings` are whatever the reader should know.
    """

    _renderers: ClassVar[Mapping[str, str]] = {
        "headline": "llmtune.report.verdicts:headline",
        "markdown": "llmtune.report.markdown:render",
        "html": "llmtune.report.html.run:render",
        "text": "llmtune.report.terminal:to_text",
        "rows": "llmtune.report.tables:rows_of",
    }

    schema_version: Literal[1] = SCHEMA_VERSION
    identity: Identity
    job: dict[str, Any] = {}
    """The job as it was given."""

    receipt: tuple[ReceiptRow, ...] = ()
    data: DataSection = DataSection()
    timing: Timing = Timing()
    cost: Cost = Cost()
    series: dict[str, Series | NotReported] = {}
    """Curves by canonical name; a series the backend never reports stands here with the reason."""

    evaluation: EvaluationResult | NotReported = NotReported("the run was not evaluated")
    evaluated_on: str = ""
    """The file whose rows were asked, where those are not the job's own test rows."""

    earlier_evaluations: tuple[EarlierEvaluation, ...] = ()
    """Evaluations that `evaluation` has taken the place of, oldest first."""

    diagnosis: Diagnosis = Diagnosis(verdict="unclear", sentence="Not diagnosed.")
    checks: tuple[Check, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str | None = None
    """Why the run failed, in the backend's own words."""

    environment: Environment = Environment()
    reproduce: str = ""
    """The command that runs the same job again."""

    snippet: str | NotReported = NotReported("there is no tuned model to call")
    """Python that calls the tuned model through the backend's own SDK."""

    artifacts: dict[str, str] = {}
    """Paths and ids by name: "adapter", "checkpoint:200"."""

    # --- looking into it ---------------------------------------------------------------------------------------------
    @property
    def succeeded(self) -> bool:
        """Whether the run ended with a model."""
        return self.identity.state is RunState.SUCCEEDED

    @property
    def final(self) -> dict[str, MetricPoint | NotReported]:
        """The last point of every series, with its source, or why there is none."""
        return {
            name: (each.last or NotReported("no point was reported")) if isinstance(each, Series) else each
            for name, each in self.series.items()
        }

    @property
    def best(self) -> dict[str, MetricPoint]:
        """The best point of every series in which a direction is good."""
        found = {name: each.best for name, each in self.series.items() if isinstance(each, Series)}
        return {name: point for name, point in found.items() if point is not None}

    @property
    def headline(self) -> str:
        """What happened, and what it is worth, in one or two sentences."""
        return str(self.render("headline"))

    # --- in and out --------------------------------------------------------------------------------------------------
    def to_json(self) -> str:
        """The report as JSON text, indented; `Report.from_json` reads it back."""
        return dump_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """A report from `to_json`.

        Raises:
            InvalidData: it is no report, or one of a newer schema.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _unreadable(text, error) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report: JSON for .json, Markdown for .md, a web page for .html, plain text otherwise."""
        place = Path(path)
        shapes = {".json": self.to_json, ".md": self.to_markdown, ".html": self.to_html, ".htm": self.to_html}
        content = shapes.get(place.suffix.lower(), self.to_text)()
        place.write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a report from a JSON file. Raises `LlmtuneError` for a pipe or a device, which may never end."""
        if (file := Path(path)).exists() and not file.is_file():
            raise LlmtuneError(f"{file}: not a regular file")
        return cls.from_json(file.read_bytes())

    def to_text(self, width: int = 80) -> str:
        """The report as it stands on a terminal of `width` columns, without colours."""
        return str(self.render("text", width=width))

    def to_pandas(self, table: Table = "series") -> pandas.DataFrame:
        """One of the report's tables as a data frame: series, metrics, receipt, classes or worst.

        Raises:
            MissingExtra: pandas is not installed.
            UnknownName: there is no such table.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra("report", "pandas", purpose="report.to_pandas()") from error
        columns, rows = self.render("rows", table)
        return pandas.DataFrame(rows, columns=columns)

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return self.to_markdown()


def _unreadable(text: str | bytes, error: ValidationError) -> InvalidData:
    import json

    try:
        version = json.loads(text)["schema_version"]
    except (ValueError, TypeError, KeyError):
        return InvalidData("this is no llmtune report (no JSON object with a schema_version)")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return InvalidData(
            f"the report has schema version {version}; this llmtune reads up to {SCHEMA_VERSION}",
            hint="pip install -U llmtune-sdk",
        )
    first = error.errors(include_url=False)[0]
    return InvalidData(f"this is no valid report: {'.'.join(map(str, first['loc']))}: {first['msg']}")


def schema() -> dict[str, Any]:
    """The JSON schema of a report as it is written, for tools that read it."""
    document = Report.model_json_schema(mode="serialization")
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "llmtune report"
    return document


__all__ = [
    "SCHEMA_VERSION",
    "Check",
    "Cost",
    "DataSection",
    "EarlierEvaluation",
    "Environment",
    "Identity",
    "ReceiptRow",
    "Report",
    "Timing",
    "schema",
]
