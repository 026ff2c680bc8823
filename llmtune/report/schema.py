"""The report: one shape for every backend, plain data, there and back through JSON.

A number that the backend does not report is a `NotReported` with its reason, never zero and never left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ValidationError

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData, LlmtuneError, MissingExtra
from llmtune.evaluation.judge.results import JudgeResult
from llmtune.evaluation.results import EvaluationResult, PanelResult, PanelSystem, Usage
from llmtune.metrics.diagnosis import Diagnosis
from llmtune.metrics.intervals import Interval
from llmtune.metrics.points import MetricPoint, NotReported, Number, Series
from llmtune.provider.declarations import Support
from llmtune.provider.types import RunState
from llmtune.redaction.documents import dump_json
from llmtune.redaction.rendering import Renderable
from llmtune.verifications.results import Verification

if TYPE_CHECKING:
    import pandas

#: Changes when a field changes its meaning or goes away; new fields may come without.
SCHEMA_VERSION: Literal[1] = 1

#: The tables of a report that `Report.to_pandas` returns.
Table = Literal["series", "metrics", "receipt", "classes", "worst"]


class Identity(DocumentedModel):
    """Which run this is about.

    `run_id` and `key` are its ids here and at the vendor, `job_name` is the job's. `method` and `adapter` say how it
    was trained, `state` where it is, `finished` when it ended (seconds since 1970 UTC).
    """

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
    """What became of one field of the job.

    `support` is one of the seven words of docs/concepts.md. `requested` is the job's value and `effective` the one that
    was used; `wire` is where it stood in the request, `rule` the conversion in words.
    """

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
        """Whether the job sets it and the backend has no such parameter."""
        return self.support == "unsupported" and self.requested is not None


class DataSection(DocumentedModel):
    """What the model was trained on.

    `sha256` identifies its content, `format` is the row format it was sent in; `tokens_estimated` is False where the
    tokens were counted with the model's own tokenizer.
    """

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
    """Seconds, from the states the run went through.

    `queued`, `training` and `evaluating` are parts of the `total`; `tokens_per_second` is the speed of the training.
    """

    queued: float | NotReported = NotReported("the run never waited in a queue that we saw")
    training: float | NotReported = NotReported("the run never trained that we saw")
    evaluating: float | NotReported = NotReported("the run was not evaluated")
    total: float | NotReported = NotReported("the run has not ended")
    tokens_per_second: float | NotReported = NotReported("the backend does not tell")


class Cost(DocumentedModel):
    """Money, in `currency`: `estimated` before, and `billed` as the backend says, with its `billed_tokens`."""

    estimated: float | NotReported = NotReported("not estimated")
    billed: float | NotReported = NotReported("the backend does not report what it billed")
    billed_tokens: int | NotReported = NotReported("the backend does not tell how many tokens it billed")
    computed: float | NotReported = NotReported("the backend does not tell how many tokens it billed")
    """The billed tokens times the price of the plan."""

    difference: str = ""
    """Why the bill, or what was computed, differs from the estimate of training; a sentence."""
    currency: str = "USD"
    formula: str = ""
    """How the estimate was made, to be checked by hand."""

    source: str = ""
    checked: date | None = None
    """When the prices were looked up."""


class Environment(DocumentedModel):
    """Where it ran, as far as this side knows.

    `llmtune` and `python` are versions, `platform` and `host` the machine that started it, `device` what trained it.
    """

    llmtune: str = ""
    python: str = ""
    platform: str = ""
    host: str = ""
    device: str | NotReported = NotReported("the backend does not tell its hardware")
    versions: dict[str, str] = {}
    """Packages that took part, by distribution."""


class Check(DocumentedModel):
    """A check made after training: that the model ends its turn, that templates agree, ...

    `passed` is the outcome; `says` describes it.
    """

    name: str
    passed: bool
    says: str = ""


class SampledRow(DocumentedModel):
    """A validation row that the model answered while it trained: its `prompt`, and its reference answer `expected`."""

    prompt: str
    expected: str = ""
    answers: dict[int, str] = {}
    """The model's answer by optimizer step, ascending; step 0 is before training."""


class SeedResult(DocumentedModel):
    """One of several runs of a job that differ in nothing but their seed: its `seed`, its `run` and its figure."""

    seed: int
    run: str
    value: Number | NotReported
    """The main metric of its tuned model on the held-out rows."""


class SeedSpread(DocumentedModel):
    """How far the main metric differs between runs of a job that differ in nothing but their seed.

    `metric` and its `unit` are those of the evaluation, `results` has one entry for each seed, in order, and `mean` is
    that of the figures.
    """

    metric: str
    unit: str = ""
    results: tuple[SeedResult, ...]
    mean: Number | NotReported
    interval: Interval | NotReported
    """Student's t interval of the mean over the seeds; it says nothing about other rows."""

    seed_sent: bool = True
    """Whether the backend takes a seed; without, the runs are repetitions that the backend seeds itself."""

    @property
    def values(self) -> list[float]:
        """The figures of those runs that have one."""
        return [result.value for result in self.results if not isinstance(result.value, NotReported)]

    def separates(self, value: float) -> bool:
        """Return whether the mean differs from `value`, which depends on no seed, by more than the seeds explain."""
        return not isinstance(self.interval, NotReported) and not self.interval.low <= value <= self.interval.high


def _judge_usage(result: EvaluationResult) -> list[Usage]:
    """Return the tokens of the judge's replies; none where none was asked."""
    if not isinstance(result.judge, JudgeResult):
        return []
    cost = result.judge.cost
    return [
        Usage(
            prompt_tokens=cost.prompt_tokens,
            completion_tokens=cost.completion_tokens,
            asked=cost.replies - cost.stored,
            cached=cost.stored,
        )
    ]


class EarlierEvaluation(DocumentedModel):
    """An evaluation that a later one has replaced: its figures, the answers it asked for, and the `seconds` it took."""

    rows: int
    """Rows that were evaluated."""

    source: str = ""
    """Where they came from; "" for a run of an earlier version."""

    metric: str
    """Its main metric."""

    figures: dict[str, float] = {}
    """The main metric of each system that has it, by the system's name."""

    asked: int = 0
    """Answers requested from all systems together."""

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
        """Return the record of an evaluation that another one has replaced.

        Args:
            result: the evaluation.
            source: where its rows came from.
            finished: when it ended, in seconds since 1970 UTC.
            seconds: how long it took.
        """
        systems = {name: system for name in result.systems if (system := result.system(name)) is not None}
        panel = result.panel.systems.values() if isinstance(result.panel, PanelResult) else ()
        reported = [
            *(system.usage for system in systems.values()),
            *(system.usage for system in panel if isinstance(system, PanelSystem)),
            *_judge_usage(result),
        ]
        usages = [usage for usage in reported if not isinstance(usage, NotReported)]
        tokens: dict[str, int | NotReported] = {}
        for name in ("prompt_tokens", "completion_tokens"):
            counts = [count for usage in usages if isinstance(count := getattr(usage, name), int)]
            if counts:
                tokens[name] = sum(counts)
        return cls(
            rows=result.rows,
            source=source,
            metric=result.main,
            figures={name: metric.value for name, system in systems.items() if (metric := system.get(result.main))},
            asked=sum(usage.asked for usage in usages),
            seconds=seconds,
            finished=finished,
            **tokens,
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
        "document": "llmtune.report.sections.run:document",
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

    samples: tuple[SampledRow, ...] = ()
    """Answers to a few validation rows while it trained, where the backend shows them."""

    stopping: str = ""
    """Where training ended and which step was kept, where validation decided it."""

    evaluation: EvaluationResult | NotReported = NotReported("the run was not evaluated")
    seeds: SeedSpread | None = None
    """The main metric over several seeds, where the job was trained with several."""

    evaluated_on: str = ""
    """The evaluated file, where its rows are not the job's own test rows."""

    earlier_evaluations: tuple[EarlierEvaluation, ...] = ()
    """Evaluations that `evaluation` has replaced, oldest first."""

    diagnosis: Diagnosis = Diagnosis(verdict="unclear", sentence="Not diagnosed.")
    checks: tuple[Check, ...] = ()
    verifications: tuple[Verification, ...] = ()
    """Servers and exports that were asked whether they answer as the tuned model does, oldest first."""

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
        """The last point of every series, or why there is none."""
        return {
            name: (series.last or NotReported("no point was reported")) if isinstance(series, Series) else series
            for name, series in self.series.items()
        }

    @property
    def best(self) -> dict[str, MetricPoint]:
        """The best point of every series in which a direction is good."""
        points = {name: series.best for name, series in self.series.items() if isinstance(series, Series)}
        return {name: point for name, point in points.items() if point is not None}

    @property
    def headline(self) -> str:
        """What happened, and what it is worth, in one or two sentences."""
        return str(self.render("headline"))

    # --- in and out --------------------------------------------------------------------------------------------------
    def to_json(self) -> str:
        """Return the report as JSON text, indented; `Report.from_json` reads it back."""
        return dump_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a report from the text that `to_json` wrote.

        Raises:
            InvalidData: it is no report, or one of a newer schema.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _unreadable(text, error) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report: JSON for .json, Markdown for .md, a web page for .html, plain text otherwise."""
        file = Path(path)
        shapes = {".json": self.to_json, ".md": self.to_markdown, ".html": self.to_html, ".htm": self.to_html}
        content = shapes.get(file.suffix.lower(), self.to_text)()
        file.write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a report from a JSON file. Raises `LlmtuneError` for a pipe or a device, which may never end."""
        if (file := Path(path)).exists() and not file.is_file():
            raise LlmtuneError(f"{file}: not a regular file")
        return cls.from_json(file.read_bytes())

    def to_text(self, width: int = 80) -> str:
        """Return the report as a terminal of `width` columns shows it, without colours."""
        return str(self.render("text", width=width))

    def to_pandas(self, table: Table = "series") -> pandas.DataFrame:
        """Return one of the report's tables as a data frame: series, metrics, receipt, classes or worst.

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

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        identity = self.identity
        yield from {"run": identity.run_id, "job": identity.job_name}.items()
        yield from {"provider": identity.provider, "state": identity.state.value}.items()
        result = self.evaluation
        tuned = result.system("tuned") if isinstance(result, EvaluationResult) else None
        if tuned is not None and isinstance(result, EvaluationResult) and (metric := tuned.get(result.main)):
            yield metric.name, round(metric.value, 4)


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
    """Return the JSON schema of a report as it is written, for tools that read it."""
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
