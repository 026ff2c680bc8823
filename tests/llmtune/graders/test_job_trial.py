"""The trial of a job's grader: what it is given of a row, and what it says of the source that will be sent."""

from __future__ import annotations

from llmtune.data.example import Example, Message
from llmtune.graders import make_grader
from llmtune.graders.job_trial import check_grader, make_row

EXAMPLES = [
    Example(
        messages=(Message("user", f"What is {n} plus 1?"), Message("assistant", str(n + 1))), extra={"unit": f"m{n}"}
    )
    for n in range(12)
]


def test_a_key_in_the_source_is_said_and_not_shown() -> None:
    key = "sk-" + "a1" * 20
    source = f"KEY = '{key}'\ndef grade(row, answer): return float(answer.strip() == row['messages'][-1]['content'])"
    remarks = check_grader(make_grader({"kind": "python", "source": source}), EXAMPLES)
    assert any("looks like an API key" in remark for remark in remarks)
    assert key not in " ".join(remarks)


def test_of_several_graders_one_that_reads_the_last_turn_is_given_it() -> None:
    parts = [
        {"weight": 3, "grader": {"kind": "match"}},
        {"weight": 1, "grader": {"kind": "match", "reference": "unit"}},
    ]
    row = make_row(make_grader({"kind": "weighted", "parts": parts}), EXAMPLES[0])
    assert row["messages"][-1]["role"] == "assistant"
