"""The trial of a job's grader on the rows that it is to learn from, before anything is paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.data.checks.privacy import scan
from llmtune.data.example import Example
from llmtune.data.formats.chat import write_messages
from llmtune.errors import InvalidJob, LlmtuneError
from llmtune.graders.scoring import Answer, AsksJudge, GraderProcess, make_right_answer
from llmtune.graders.source import needs_last_turn
from llmtune.graders.trial import try_grader
from llmtune.job.graders import Grader, PythonGrader, list_parts, make_grader


def make_row(grader: Grader, example: Example) -> dict[str, Any]:
    """Return a row as the grader is given it: its turns and its other fields.

    The right answer is its last turn only where the grader takes it from there, not from a field.
    """
    turns = example.messages if needs_last_turn(grader) else example.prompt()
    return {"messages": write_messages(turns), **(example.extra or {})}


def check_grader(grader: Grader, examples: Sequence[Example], judge: AsksJudge | None = None) -> list[str]:
    """Try the grader on training rows, and return its warnings, a sentence each. `judge` asks those of kind judge.

    Raises:
        InvalidJob: a job would learn the wrong thing from it.
    """
    trial = try_grader(grader, [make_row(grader, example) for example in examples], judge=judge)
    if not trial.fit:
        errors = [finding for finding in trial.findings if finding.is_error]
        raise InvalidJob(
            f"grader: a job would learn the wrong thing: {'; '.join(finding.message for finding in errors)}",
            hint="; ".join(finding.remedy for finding in errors if finding.remedy) or None,
        )
    secrets = [
        f"grader: the source holds what looks like {name} ({match}), and it is sent as it is (take it out)"
        for part in list_parts(grader)
        if isinstance(part, PythonGrader)
        for code, name, match in scan(part.source or "")
        if code == "secret"
    ]
    return secrets + [f"grader: {finding.message} ({finding.remedy})" for finding in trial.findings]


@dataclass(frozen=True)
class Sample:
    """A training row with its right answer, on which a backend's own grader is tried before a job is sent."""

    grader: Grader
    example: Example
    row: dict[str, Any]
    """The row as the grader is given it here."""

    answer: Answer


#: Two scores that are further apart are not the same.
_SAME = 1e-6


def choose_sample(fields: Mapping[str, Any] | None, examples: Sequence[Example]) -> Sample | None:
    """Return the first row that has a right answer; None where there is none, or no grader.

    `fields` are those of the grader, as a receipt holds them.
    """
    if not fields:
        return None
    grader = make_grader(fields)
    for example in examples:
        row = make_row(grader, example)
        if (answer := make_right_answer(grader, row)) is not None:
            return Sample(grader, example, row, answer)
    return None


def compare_scores(sample: Sample, paid: float, payer: str) -> str | None:
    """Return how a backend's score of the sample's answer differs from the score here, as a sentence; None where it
    does not, or where the grader cannot be run here."""
    try:
        with GraderProcess(sample.grader) as process:
            score = process.score(sample.row, sample.answer)
    except LlmtuneError:
        return None
    if score.value is None or abs(score.value - paid) <= _SAME:
        return None
    return f"{payer} pays {paid:g} for the right answer of a row, and llmtune {score.value:g}"
