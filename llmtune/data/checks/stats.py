"""Counts over a dataset in bounded memory: rows, tokens by role, lengths, labels, and what a vendor would bill."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from llmtune.data.rendering.token_count import RULE, RowTokens

PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)
#: Above this many different labels they are no labels.
_MOST_LABELS = 10_000
_ROLES = ("system", "user", "assistant", "tool")


@dataclass
class Lengths:
    """How long rows are, in tokens: a histogram, from which every percentile can be read."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, tokens: int) -> None:
        """One row. Above 4,096 tokens lengths are kept to four binary digits, so that the histogram stays small."""
        if tokens > 4096:
            step = 1 << (tokens.bit_length() - 9)
            tokens -= tokens % step
        self.counts[tokens] += 1

    def percentile(self, percent: float) -> int:
        """The least length that this share of the rows does not exceed (nearest rank)."""
        total = self.counts.total()
        if not total:
            return 0
        rank = max(1, -(-total * percent // 100))
        seen = 0
        for tokens in sorted(self.counts):
            seen += self.counts[tokens]
            if seen >= rank:
                return tokens
        return max(self.counts)


@dataclass
class Stats:
    """What was counted over one file (or part)."""

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
            if len(self.labels) > _MOST_LABELS:
                self.labels = None

    def merge(self, other: Stats) -> None:
        """Add what was counted elsewhere."""
        self.rows += other.rows
        self.turns += other.turns
        self.tokens.update(other.tokens)
        self.trained_tokens += other.trained_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.longest = max(self.longest, other.longest)
        self.lengths.counts.update(other.lengths.counts)
        self.unlabelled += other.unlabelled
        self.features |= other.features
        self.exact, self.rule = other.exact, other.rule
        if self.labels is not None and other.labels is not None:
            self.labels.update(other.labels)
        if other.labels is None or (self.labels is not None and len(self.labels) > _MOST_LABELS):
            self.labels = None

    @property
    def total_tokens(self) -> int:
        """All tokens of the rows, once."""
        return self.tokens.total()

    @property
    def label_counts(self) -> dict[str, int]:
        """Rows by label, most first; empty unless every row has a short answer, each given twice on average."""
        labels = self.labels
        if not labels or self.unlabelled or len(labels) < 2 or 2 * len(labels) > self.rows:
            return {}
        return dict(sorted(labels.items(), key=lambda item: (-item[1], item[0])))

    def as_dict(self) -> dict[str, Any]:
        """For JSON output."""
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
