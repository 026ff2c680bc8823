"""Cohere's rows, and what its fine-tuning demanded of a dataset.

The service was retired on 2025-09-15; the facts are those of its archived documentation ("Preparing the chat
fine-tuning data", "Preparing the classify fine-tuning data", 2024 to 2025). The formats stay of use: files written for
Cohere are read, and the open cohere-finetune trainer takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from llmtune.data.example import Example
from llmtune.data.findings import Finding, error
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import FileFacts, RowFormat, TokenLimit, VendorRows, count_findings
from llmtune.data.formats.chat import read_messages, with_preferred_answer
from llmtune.data.formats.instruct import Labelled, other_keys
from llmtune.data.hashing import label_of

CHAT_DATA = "Cohere, Preparing the chat fine-tuning data, archived 2025"
CLASSIFY_DATA = "Cohere, Preparing the classify fine-tuning data, archived 2025"

MIN_CHAT_ROWS = 2
MIN_CLASSIFICATION_ROWS = 40
MIN_ROWS_A_LABEL = 5
MIN_LABELS = 2
MAX_TURN_TOKENS = 16_384


class CohereChatRows(RowFormat):
    """`{"messages": [{"role": "System" | "User" | "Chatbot", "content": ...}]}`."""

    name = "cohere_chat"
    title = '{"messages": [{"role": "User", "content": "..."}, {"role": "Chatbot", "content": "..."}]}'
    supports = f.BASIC

    ROLES: ClassVar[dict[str, str]] = {"System": "system", "User": "user", "Chatbot": "assistant"}
    NAMES: ClassVar[dict[str, str]] = {"system": "System", "user": "User", "assistant": "Chatbot"}

    def detect(self, row: Mapping[str, Any]) -> bool:
        turns = row.get("messages")
        first = turns[0] if isinstance(turns, list) and turns else None
        role = first.get("role") if isinstance(first, dict) else None
        return isinstance(role, str) and role in self.ROLES

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        turns = row.get("messages")
        if isinstance(turns, list):
            turns = [self._renamed(turn) if isinstance(turn, dict) else turn for turn in turns]
        return Example(read_messages(turns, faults), line=line, extra=other_keys(row, "messages"))

    def _renamed(self, turn: dict[str, Any]) -> dict[str, Any]:
        role = turn.get("role")
        return turn | {"role": self.ROLES.get(role, role)} if isinstance(role, str) else turn

    def write(self, example: Example) -> dict[str, Any]:
        return {
            "messages": [
                {"role": self.NAMES[message.role], "content": message.words}
                for message in with_preferred_answer(example)
                if message.role in self.NAMES
            ]
        }


class CohereClassificationRows(Labelled):
    """`{"text": ..., "label": ...}`; a list of labels for multi-label sets."""

    name = "cohere_classification"
    supports = f.CHAT | f.LABELS

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # the general labelled format tells such rows

    def write(self, example: Example) -> dict[str, Any]:
        return super().write(example._replace(extra=None))

    def problems(self, example: Example) -> list[Finding]:
        findings = super().problems(example)
        if label_of(example) is None:
            problem = "the answer is no label (64 characters on one line at most)"
            findings.append(error("cannot-label", problem, "use chat"))
        return findings


def row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    """Yield findings unless the system turn comes first and there is a question and an answer."""
    if method == "classification" or example.text is not None or example.preference is not None:
        return
    roles = [message.role for message in example.messages]
    if "user" not in roles or "assistant" not in roles:
        yield error("vendor-turns", f"at least one User and one Chatbot turn are needed ({CHAT_DATA})", "add it")
    if "system" in roles[1:]:
        yield error("vendor-role-order", f"the System turn must come first ({CHAT_DATA})", "move it")


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Check the rows per file and per label."""
    if facts.role != "train":
        return
    classification = facts.method == "classification"
    minimum, source = (MIN_CLASSIFICATION_ROWS, CLASSIFY_DATA) if classification else (MIN_CHAT_ROWS, CHAT_DATA)
    yield from count_findings(facts.rows, "rows", source, at_least=minimum)
    if not classification:
        return
    if len(facts.labels) < MIN_LABELS:
        yield error("vendor-labels", f"{len(facts.labels)} labels; at least 2 are needed ({CLASSIFY_DATA})", "add one")
    for label, count in sorted(facts.labels.items()):
        if count < MIN_ROWS_A_LABEL:
            yield error(
                "vendor-labels",
                f"label {label!r} has {count} rows; at least {MIN_ROWS_A_LABEL} are needed ({CLASSIFY_DATA})",
                "add rows of it, or leave it out",
            )


def token_limit(method: str, model: str | None) -> TokenLimit | None:
    """Return the limit of 16,384 tokens per turn."""
    if method == "classification":
        return None
    return TokenLimit(MAX_TURN_TOKENS, refuses=True, source=CHAT_DATA, per="turn")


COHERE_ROWS = VendorRows(
    provider="cohere",
    formats=(CohereChatRows(), CohereClassificationRows()),
    defaults={"sft": "cohere_chat", "classification": "cohere_classification"},
    row_rules=row_rules,
    file_rules=file_rules,
    token_limit=token_limit,
)
