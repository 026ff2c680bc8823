"""The trial of a grader: sound graders are found fit, and each of a bank of broken ones is named."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.errors import InvalidData, InvalidJob
from llmtune.graders import Answer, Grader, Trial, load_grader, make_grader, try_grader

SUMS = [
    {
        "messages": [{"role": "user", "content": f"What is {n} plus {n + 3}?"}],
        "answer": f"{n} and {n + 3} make {2 * n + 3}.\n#### {2 * n + 3}",
        "team": ("billing", "network", "sales")[n % 3],
        "order": {"id": n, "city": f"City {n}"},
    }
    for n in range(40)
]


def grader_of(**fields: Any) -> Grader:
    return make_grader(fields)


def python(source: str, **fields: Any) -> Grader:
    return grader_of(kind="python", source=source, **{"reference": "answer", **fields})


def codes(trial: Trial) -> set[str]:
    return {finding.code for finding in trial.findings}


def score_of(trial: Trial, kind: str) -> float | None:
    return next(scores.mean for scores in trial.scores if scores.kind == kind)


@pytest.mark.parametrize(
    "grader",
    [
        grader_of(kind="match", operation="numeric", reference="answer"),
        grader_of(kind="match", operation="exact", reference="team"),
        grader_of(kind="match", operation="normalised", reference="team"),
        grader_of(kind="match", operation="json", reference="order", partial=True),
        grader_of(
            kind="match",
            reference="order.id",
            answer_from={"regex": r"####\s*(-?\d+)"},
            right_answer="It is #### {reference}",
        ),
        grader_of(
            kind="match", reference="team", answer_from={"json_path": "team"}, right_answer='{"team": "{reference}"}'
        ),
        grader_of(kind="similarity", metric="rouge_l", reference="answer"),
        python("def grade(row, answer):\n    return float(answer.strip() == row['answer'].strip())"),
        grader_of(
            kind="weighted",
            parts=[
                {"weight": 3, "grader": {"kind": "match", "operation": "numeric", "reference": "answer"}},
                {"weight": 1, "grader": {"kind": "regex", "pattern": "####"}},
            ],
        ),
    ],
    ids=lambda grader: f"{grader.kind}-{getattr(grader, 'operation', '')}",
)
def test_a_sound_grader_is_fit(grader: Grader) -> None:
    trial = try_grader(grader, SUMS)
    assert [str(finding) for finding in trial.findings] == []
    assert trial.fit
    assert score_of(trial, "right") == 1.0
    assert (score_of(trial, "empty") or 0) <= 0.05


#: Source of a Python grader that is wrong in one way, and the finding that names it.
BROKEN = {
    "always the same": ("def grade(row, answer): return 0.5", "constant"),
    "does not look at the answer": ("def grade(row, answer): return len(row['answer']) / 100", "answer-not-read"),
    "pays for silence": ("def grade(row, answer): return float(answer in ('', row['answer']))", "pays-empty"),
    "pays a copied question": (
        "def grade(row, answer):\n    return float(answer in (row['answer'], row['messages'][-1]['content']))",
        "pays-prompt",
    ),
    "pays any right answer of the file": ("def grade(row, answer): return float('####' in answer)", "pays-other"),
    "pays a list of everything": (
        "def grade(row, answer): return float(row['answer'] in answer)",
        "pays-everything",
    ),
    "pays for length": ("def grade(row, answer): return min(1.0, len(answer) / 500)", "pays-length"),
    "never pays": (
        "def grade(row, answer): return 0.4 if answer.strip() == row['answer'] else 0.0",
        "right-answer-unpaid",
    ),
    "reads another column": ("def grade(row, answer): return float(answer == row['team'])", "right-answer-unpaid"),
    "raises": ("def grade(row, answer): return float(answer.split('####')[1] in row['answer'])", "not-scored"),
    "returns nothing": ("def grade(row, answer):\n    if answer == row['answer']: return 1.0", "not-scored"),
    "returns no number": ("def grade(row, answer): return 'good' if answer else 0.0", "not-scored"),
    "returns NaN": ("def grade(row, answer): return 1.0 if answer == row['answer'] else float('nan')", "not-scored"),
    "leaves its range": ("def grade(row, answer): return 100.0 * (answer.strip() == row['answer'])", "not-scored"),
    "is chance": ("import random\ndef grade(row, answer): return random.random()", "scores-change"),
    "calls a server": (
        "import socket\ndef grade(row, answer): return float(bool(socket.create_connection(('127.0.0.1', 9))))",
        "not-scored",
    ),
    "starts a process": (
        "import subprocess\ndef grade(row, answer): return float(subprocess.call(['true']) == 0)",
        "not-scored",
    ),
    "writes a file": (
        "def grade(row, answer):\n    open('seen.txt', 'a').write(answer)\n    return 1.0",
        "not-scored",
    ),
    "exits": ("def grade(row, answer): exit()", "not-scored"),
    "loses answers with blanks": ("def grade(row, answer): return float(answer == row['answer'])", "brittle"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_grader_is_named(name: str) -> None:
    source, code = BROKEN[name]
    trial = try_grader(python(source), SUMS[:20])
    assert code in codes(trial), [str(finding) for finding in trial.findings]
    assert trial.fit == (code == "brittle")


def test_an_answer_that_takes_too_long_is_given_up_and_the_next_is_scored() -> None:
    source = "def grade(row, answer):\n    while not answer: pass\n    return float(answer.strip() == row['answer'])"
    trial = try_grader(python(source, seconds=0.2), SUMS[:2])
    assert any("longer than 0.2 s" in finding.message for finding in trial.findings)
    assert score_of(trial, "right") == 1.0


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def grade(row, answer) return 1", "SyntaxError in line 1"),
        ("score = 1", "no function named grade"),
        ("import no_such_module\ndef grade(row, answer): return 1", "No module named 'no_such_module'"),
        ("exit(3)", "SystemExit"),
    ],
)
def test_a_source_that_defines_no_grader_is_a_sentence(source: str, sentence: str) -> None:
    with pytest.raises(InvalidJob, match=sentence):
        try_grader(python(source), SUMS[:2])


def test_what_a_grader_prints_goes_nowhere_and_keys_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    source = (
        "import os\n"
        "def grade(row, answer):\n"
        "    print('{\"score\": 7}')\n"
        "    assert 'OPENAI_API_KEY' not in os.environ\n"
        "    return float(answer.strip() == row['answer'])"
    )
    assert try_grader(python(source), SUMS[:5]).fit


def test_samples_show_how_often_there_is_something_to_learn() -> None:
    grader = grader_of(kind="match", operation="numeric", reference="answer")
    samples = [[Answer("#### 1"), Answer(str(row["answer"]) if n < 10 else "no idea")] for n, row in enumerate(SUMS)]
    trial = try_grader(grader, SUMS, samples=samples)
    assert trial.dead_prompts == 30
    assert codes(trial) == {"dead-prompts"}
    assert trial.fit


def test_tool_calls_are_compared_by_name_and_arguments() -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Weather in {city}?"},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"type": "function", "function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'}}
                    ],
                },
            ]
        }
        for city in ("Rome", "Oslo", "Lima")
    ]
    trial = try_grader(grader_of(kind="tool_call"), rows)
    assert trial.fit
    assert score_of(trial, "other") == 0.0
    by_name = try_grader(grader_of(kind="tool_call", names_only=True), rows)
    assert "pays-other" in codes(by_name)


def test_rows_without_the_reference_are_a_sentence_that_lists_their_fields() -> None:
    with pytest.raises(InvalidData, match="no row has a field 'solution'") as caught:
        try_grader(grader_of(kind="match", reference="solution"), SUMS)
    assert "messages, answer, team, order" in str(caught.value)


def test_no_rows_are_a_sentence() -> None:
    with pytest.raises(InvalidData, match="no row"):
        try_grader(grader_of(kind="match", reference="team"), [])


def test_a_python_file_is_read_from_the_graders_own_folder(tmp_path: Any) -> None:
    (tmp_path / "score.py").write_text("def grade(row, answer): return float(answer.strip() == row['team'])\n")
    (tmp_path / "grader.yaml").write_text("kind: python\nfile: score.py\nreference: team\n")
    assert try_grader(load_grader(tmp_path / "grader.yaml"), SUMS).fit


def test_a_part_compared_with_the_whole_reference_is_never_paid() -> None:
    """The grader of docs/grade.md that is wrong, and what the page says of it."""
    fields = {"kind": "match", "operation": "contains", "reference": "answer", "answer_from": {"regex": "####.*"}}
    trial = try_grader(make_grader(fields), SUMS)
    assert any(
        finding.message == "40 of 40 right answers score below 1, the highest (mean 0)" for finding in trial.findings
    )
