"""A panel and its questions."""

from __future__ import annotations

from dataclasses import dataclass

from llmtune.data.example import Example
from llmtune.evaluation.panel.rules import PanelAnswer, Rule


@dataclass(frozen=True)
class PanelQuestion:
    """One question: its row with the reference answer, and the rules that an answer must keep."""

    id: str
    skill: str
    row: Example
    rules: tuple[Rule, ...]
    source: str = ""
    licence: str = ""
    choices: tuple[str, ...] = ()
    """Answers of which the likeliest one counts; empty where the model writes its own."""

    def is_right(self, answer: PanelAnswer) -> bool:
        """Return whether an answer keeps every rule."""
        return all(rule.holds(answer) for rule in self.rules)


@dataclass(frozen=True)
class Panel:
    """A panel by the name that the job gives it; `sha256` identifies its content."""

    name: str
    questions: tuple[PanelQuestion, ...]
    sha256: str
    max_tokens: int | None = None
    """Tokens of an answer at most; None goes by the reference answers."""

    @property
    def rows(self) -> tuple[Example, ...]:
        """The questions as rows, with their reference answers."""
        return tuple(question.row for question in self.questions)
