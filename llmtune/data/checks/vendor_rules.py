"""A vendor's own rules for rows in memory: a plan and a run find the same as `data check` finds in the file."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from llmtune.data.checks.per_row import rename_turns
from llmtune.data.checks.reasoning import ReasoningCount
from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.formats.base import FileFacts, Rendering, RowFormat, VendorRows
from llmtune.data.formats.row_features import features
from llmtune.data.hashing import label_of


class PartSummary(NamedTuple):
    """What all vendors' rules for files ask of the rows of one part, so that its rows are read once for all of them.

    `features` is the union of the rows' bits, `labels` counts the rows by label and is empty where one has none.
    """

    rows: int
    features: int
    labels: Mapping[str, int]
    reasoning: ReasoningCount


class PartSummarizer:
    """Summarises rows while somebody else reads them."""

    def __init__(self) -> None:
        self._rows = self._bits = 0
        self._labels: Counter[str] = Counter()
        self._reasoning = ReasoningCount()

    def watch(self, rows: Iterable[Example]) -> Iterator[Example]:
        """Pass rows on, and add what there is in them."""
        for row in rows:
            self._rows += 1
            self._bits |= features(row)
            self._reasoning.add(row)
            label = label_of(row)
            if label is not None:
                self._labels[label] += 1
            yield row

    @property
    def summary(self) -> PartSummary:
        """What there was in the rows so far."""
        labels = self._labels if self._labels.total() == self._rows else {}
        return PartSummary(self._rows, self._bits, labels, self._reasoning)


def summarize_part(rows: Iterable[Example]) -> PartSummary:
    """Read the rows of a part, and return what there is in them."""
    summarizer = PartSummarizer()
    deque(summarizer.watch(rows), maxlen=0)
    return summarizer.summary


def find_row_problems(
    rules: VendorRows,
    rows: Sequence[Example],
    source: str,
    method: str,
    model: str | None,
    turns_key: str = "messages",
) -> Iterator[Finding]:
    """Yield the vendor's findings about single rows, each with its line."""
    for row in rows:
        for finding in rename_turns(list(rules.row_rules(row, method, model)), row, turns_key):
            yield finding.at(source, row.line)


def find_file_problems(
    rules: VendorRows,
    parts: Mapping[str, PartSummary],
    source: str,
    method: str,
    model: str | None,
    sizes: Mapping[str, int] | None = None,
) -> Iterator[Finding]:
    """Yield the vendor's findings about whole files; `sizes` are their bytes by part, where they are known."""
    train = parts["train"].rows if "train" in parts else 0
    validation = parts["validation"].rows if "validation" in parts else 0
    for role, part in parts.items():
        facts = FileFacts(
            role=role,
            path=source,
            rows=part.rows,
            size=(sizes or {}).get(role, 0),
            tokens=0,
            exact_tokens=False,
            format="",
            method=method,
            model=model,
            features=part.features,
            labels=part.labels,
            train_rows=train if role != "train" else None,
            total_rows=train + validation,
        )
        for finding in rules.file_rules(facts):
            yield finding.at(source, None)


def find_missing_reasoning(
    rules: VendorRows, rendering: Rendering | None, reasoning: ReasoningCount, source: str, model: str | None
) -> Iterator[Finding]:
    """Yield a warning where a model that reasons would be tuned on answers without reasoning."""
    if trains_reasoning(rules, rendering, model):
        for finding in reasoning.findings(model or "the model", rules.reasoning_remedy):
            yield finding.at(source, None)


def method_of(fmt: RowFormat | None, rules: VendorRows) -> str:
    """Return the method that rows of this format are for at this backend, where the caller names none."""
    if fmt is None:
        return "sft"
    if fmt.name == "labelled" and "classification" in rules.defaults:
        return "classification"
    return "dpo" if fmt.pairs else "sft"


def trains_reasoning(rules: VendorRows | None, rendering: Rendering | None, model: str | None) -> bool:
    """Return whether rows for this model should have reasoning, by its template or its vendor's list of models."""
    return (rendering is not None and rendering.reasons) or (rules is not None and rules.trains_reasoning(model))
