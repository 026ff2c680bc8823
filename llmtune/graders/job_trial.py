"""The trial of a job's grader on the rows that it is to learn from, before anything is paid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtune.data.checks.privacy import scan
from llmtune.data.example import Example
from llmtune.data.formats.chat import write_messages
from llmtune.errors import InvalidJob
from llmtune.graders.scoring import AsksJudge
from llmtune.graders.source import needs_last_turn
from llmtune.graders.trial import try_grader
from llmtune.job.graders import Grader, PythonGrader, list_parts


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
