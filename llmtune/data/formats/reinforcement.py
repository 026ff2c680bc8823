"""What rows of reinforcement jobs have in common: a prompt, and beside it what a grader reads."""

from __future__ import annotations

from collections.abc import Iterable

from llmtune.data.example import Example
from llmtune.data.findings import Finding, error


def list_prompt_problems(example: Example, written_fields: Iterable[str]) -> list[Finding]:
    """Return what keeps an example from being a prompt with a right answer.

    `written_fields` are the fields of a row under which its format writes the right answer.
    """
    problems = [
        error(
            "own-field",
            f"the row has a field {name!r} of its own, under which the right answer is written",
            "give it another name",
        )
        for name in written_fields
        if name in (example.extra or ())
    ]
    if example.preference is not None or example.text is not None:
        return problems
    prompt = example.prompt()
    if all(turn.role == "system" for turn in prompt):
        problems.append(error("no-question", "no question comes before the answer", "add the user's turn"))
    if len(example.messages) > len(prompt) + 1:
        what = "turns follow the answer that is learned from; they are left out"
        problems.append(error("lost-turns", what, "end the row in the right answer"))
    return problems
