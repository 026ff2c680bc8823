"""Counts over a dataset in bounded memory: rows, tokens by role, lengths and labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from llmtune.data.rendering.token_count import RULE, RowTokens

PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)
#: Of more different answers than this, they are not labels.
_MAX_LABELS = 10_000
_ROLES = ("system", "user", "assistant", "tool")


@dataclass
class Lengths:
    """A histogram of the rows' lengths in tokens, from which every percentile can be read."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, tokens: int) -> None:
        """Add one row. Lengths above 4,096 tokens are rounded down to nine binary digits: the histogram stays small."""
        if tokens > 4096:
            step = 1 << (tokens.bit_length() - 9)
            tokens -= tokens % step
        self.counts[tokens] += 1

    def percentile(self, percent: float) -> int:
        """Return the smallest length that `percent` % of the rows do not exceed (nearest rank)."""
        total = self.counts.total()
        if not total:
            return 0
        rank = max(1, -(-total * percent // 100))
        rows = 0
        for tokens in sorted(self.counts):
            rows += self.counts[tokens]
            if rows >= rank:
                return tokens
        return max(self.counts)


@dataclass
class Stats:
    """The counts over one file, or a part of it."""

    rows: int = 0
    turns: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    trained_tokens: int = 0
    reasoning_tokens: int = 0
    longest: int = 0
    lengths: Lengths = field(default_factory=Lengths)
    labels: Counter[str] | None = field(default_factory=Counter)
    unlabelled: int = 0
    features: int = 0
    exact: bool = False
    rule: str = RULE

    def add(self, tokens: RowTokens | None, label: str | None, features: int, turns: int) -> None:
        """Count one row; `tokens` is None where tokens are not counted."""
        self.rows += 1
        self.turns += turns
        self.features |= features
        if tokens is not None:
            counts = self.tokens
            counts["system"] += tokens.system
            counts["user"] += tokens.user
            counts["assistant"] += tokens.assistant
            counts["tool"] += tokens.tool
            self.trained_tokens += tokens.trained
            self.reasoning_tokens += tokens.reasoning
            self.lengths.add(tokens.total)
            self.longest = max(self.longest, tokens.total)
        if label is None:
            self.unlabelled += 1
        elif self.labels is not None:
            self.labels[label] += 1
            if len(self.labels) > _MAX_LABELS:
                self.labels = None

    def merge(self, part: Stats) -> None:
        """Add the counts of another part of the file."""
        self.rows += part.rows
        self.turns += part.turns
        self.tokens.update(part.tokens)
        self.trained_tokens += part.trained_tokens
        self.reasoning_tokens += part.reasoning_tokens
        self.longest = max(self.longest, part.longest)
        self.lengths.counts.update(part.lengths.counts)
        self.unlabelled += part.unlabelled
        self.features |= part.features
        self.exact, self.rule = part.exact, part.rule
        if self.labels is not None and part.labels is not None:
            self.labels.update(part.labels)
        if part.labels is None or (self.labels is not None and len(self.labels) > _MAX_LABELS):
            self.labels = None

    @property
    def total_tokens(self) -> int:
        """The tokens of all rows, for one epoch."""
        return self.tokens.total()

    @property
    def label_counts(self) -> dict[str, int]:
        """Rows by label, most frequent first; empty unless every row has one and each occurs twice on average."""
        labels = self.labels
        if not labels or self.unlabelled or len(labels) < 2 or 2 * len(labels) > self.rows:
            return {}
        return dict(sorted(labels.items(), key=lambda entry: (-entry[1], entry[0])))

    def as_dict(self) -> dict[str, Any]:
        """Return the values of the JSON output."""
        return {
            "rows": self.rows,
            "turns": self.turns,
            "tokens": {
                "total": self.total_tokens,
                **{role: self.tokens.get(role, 0) for role in _ROLES},
                "trained": self.trained_tokens,
                "reasoning": self.reasoning_tokens,
                "exact": self.exact,
                "rule": self.rule,
            },
            "lengths": {f"p{percent}": self.lengths.percentile(percent) for percent in PERCENTILES[:-1]}
            | {"p100": self.longest},
            "labels": self.label_counts,
        }
