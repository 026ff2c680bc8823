"""A vendor's own rules for rows in memory: a plan and a run find the same as `data check` finds in the file."""

from __future__ import annotations

from collections import Counter
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


def summarize_part(rows: Iterable[Example]) -> PartSummary:
    """Read the rows of a part once, and return what there is in them."""
    count = bits = 0
    labels: Counter[str] = Counter()
    reasoning = ReasoningCount()
    for row in rows:
        count += 1
        bits |= features(row)
        reasoning.add(row)
        label = label_of(row)
        if label is not None:
            labels[label] += 1
    return PartSummary(count, bits, labels if labels.total() == count else {}, reasoning)


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
