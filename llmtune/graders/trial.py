"""What a grader pays for, tried on answers whose worth is known, before a job is paid that learns from it.

Reinforcement tuning teaches a model whatever is paid: a grader that pays empty answers teaches silence. Each row is
answered in six ways of which only the first ought to be paid in full; answers of a model, where there are some, show
how often there is anything to learn from.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llmtune.data.findings import Finding, error, warning
from llmtune.errors import InvalidData
from llmtune.graders.scoring import (
    Answer,
    AsksJudge,
    GraderProcess,
    Score,
    find_reference,
    get_range,
    make_right_answer,
    to_text,
)
from llmtune.job.graders import Grader, list_judges

#: Rows that are tried at most; fewer where a judge is asked for every answer, which takes time and may cost money.
ROWS, JUDGED_ROWS = 100, 10
#: A judge seldom gives the most points: what lies within this share of its range below them is paid in full.
JUDGE_TOLERANCE = 0.25
#: Of what a right answer earns above a wrong one: below the first share the difference is none, above the second a
#: wrong answer is paid as if it were right.
NO_DIFFERENCE, PAID_AS_RIGHT = 0.05, 0.5
#: Share of rows that may be lost by blanks around a right answer before it is said.
BRITTLE = 0.1
#: Answers that are scored twice, to see whether the scores are the same.
REPEATED = 10
#: Mean seconds per answer from which a grader is called slow: a job asks it tens of thousands of times.
SLOW_SECONDS = 1.0
#: Share of prompts without anything to learn from at which that is said.
DEAD_PROMPTS = 0.5

AnswerKind = Literal["right", "empty", "other", "prompt", "everything", "repeated", "padded", "samples"]

DESCRIPTIONS: dict[AnswerKind, str] = {
    "right": "the right answer",
    "empty": "an empty answer",
    "other": "the right answer of another row",
    "prompt": "the question, repeated",
    "everything": "all right answers in one",
    "repeated": "the right answer, twenty times",
    "padded": "the right answer between blank lines",
    "samples": "answers of a model",
}


@dataclass(frozen=True)
class KindScores:
    """What a grader paid for one kind of answer."""

    kind: AnswerKind
    answers: int
    """Answers that were scored; those that could not be scored aside."""

    mean: float | None
    """In the grader's own unit; None where nothing could be scored."""

    lowest: float | None
    highest: float | None


@dataclass(frozen=True)
class Trial:
    """What a grader paid for, and what is wrong with it."""

    rows: int
    low: float
    """The lowest score that the grader may give."""

    high: float
    """The highest score that the grader may give."""

    scores: tuple[KindScores, ...]
    errors: int
    """Answers that could not be scored."""

    seconds_per_answer: float
    dead_prompts: int | None
    """Prompts whose sampled answers all scored the same, so that nothing can be learned; None without samples."""

    findings: tuple[Finding, ...]

    @property
    def fit(self) -> bool:
        """Whether a job may learn from the grader: it has no error."""
        return not any(finding.is_error for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as the JSON output has it."""
        findings = [
            {name: getattr(finding, name) for name in ("code", "severity", "message", "remedy")}
            for finding in self.findings
        ]
        return asdict(self) | {"fit": self.fit, "findings": findings}


def try_grader(
    grader: Grader,
    rows: Sequence[Mapping[str, Any]],
    *,
    samples: Sequence[Sequence[Answer]] | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    judge: AsksJudge | None = None,
) -> Trial:
    """Try a grader on rows.

    Args:
        grader: from `load_grader`, or built.
        rows: with `messages`, `prompt` or another field with the question, and the reference; at most `ROWS` are used.
        samples: answers of a model, several for each row of `rows`.
        seed: of the choice of rows and of other rows' answers.
        on_progress: called with the answers scored so far and all of them.
        judge: asks the models of graders of kind judge, which are tried on `JUDGED_ROWS` rows at most.

    Raises:
        InvalidData: there is no row, or no row has a reference.
        InvalidJob: a Python grader cannot be run.
        MissingExtra: a library is not installed.
    """
    if not rows:
        raise InvalidData("there is no row to try the grader on")
    limit = JUDGED_ROWS if list_judges(grader) else ROWS
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(limit, len(rows))))
    answers = _make_answers(grader, [rows[index] for index in chosen], seed)
    if not any(answer is not None for answer in answers["right"]) and _needs_reference(grader):
        field = getattr(grader, "reference", None)
        where = f"has a field {field!r}" if field else "ends in an assistant turn"
        raise InvalidData(
            f"no row {where}, so nothing can be compared",
            hint=f"name the field with the right answer: reference: FIELD (the first row has {_list_fields(rows[0])})",
        )
    if samples is not None:
        for index in range(max((len(samples[row]) for row in chosen), default=0)):
            answers[f"samples {index}"] = [samples[row][index] if index < len(samples[row]) else None for row in chosen]
    total = sum(answer is not None for column in answers.values() for answer in column)
    began, done = time.perf_counter(), 0
    scores: dict[str, list[Score | None]] = {}
    with GraderProcess(grader, judge) as process:
        for kind, column in answers.items():
            scores[kind] = []
            for row, answer in zip(chosen, column, strict=True):
                scores[kind].append(None if answer is None else process.score(rows[row], answer))
                done += answer is not None
                if on_progress is not None:
                    on_progress(done, total)
        seconds = (time.perf_counter() - began) / max(1, total)
        changed = _count_changes(process, [rows[index] for index in chosen], answers["right"], scores["right"])
    return _judge(grader, chosen, scores, seconds=seconds, changed=changed)


def _needs_reference(grader: Grader) -> bool:
    return grader.kind in ("match", "similarity", "tool_call")


def _list_fields(row: Mapping[str, Any]) -> str:
    return ", ".join(list(map(str, row))[:12]) or "none"


# --- answers whose worth is known ------------------------------------------------------------------------------------
def _make_answers(grader: Grader, rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, list[Answer | None]]:
    right = [make_right_answer(grader, row) for row in rows]
    answers: dict[str, list[Answer | None]] = {
        "right": right,
        "empty": [Answer("") for _ in rows],
        "other": _take_others(grader, rows, right, seed),
        "prompt": [Answer(text) if (text := find_question(row)) else None for row in rows],
    }
    with_text = [answer for answer in right if answer is not None and answer.text]
    if with_text:
        texts = list(dict.fromkeys(answer.text for answer in with_text))
        answers["everything"] = [Answer("\n".join(texts)) if len(texts) > 1 else None for _ in rows]
        answers["repeated"] = [answer and Answer("\n".join([answer.text] * 20)) for answer in right]
        answers["padded"] = [answer and Answer(f"\n\n{answer.text}\n") for answer in right]
    return answers


def _take_others(
    grader: Grader, rows: Sequence[Mapping[str, Any]], right: Sequence[Answer | None], seed: int
) -> list[Answer | None]:
    """Give each row the right answer of a row whose reference is another; None where all references are the same."""
    order = list(range(len(rows)))
    random.Random(seed + 1).shuffle(order)
    references = [to_text(find_reference(grader, row)).strip().casefold() for row in rows]
    others: list[Answer | None] = []
    for index in range(len(rows)):
        candidates = (other for other in order if right[other] is not None and references[other] != references[index])
        chosen = next(candidates, None)
        others.append(None if chosen is None else right[chosen])
        if chosen is not None:  # the next row begins with another one
            order.remove(chosen)
            order.append(chosen)
    return others


def find_question(row: Mapping[str, Any]) -> str:
    """Return the last text that a user says in a row, or its prompt or question; "" where there is none."""
    turns = row.get("messages")
    if isinstance(turns, list):
        for turn in reversed(turns):
            if isinstance(turn, Mapping) and turn.get("role") == "user" and isinstance(turn.get("content"), str):
                return str(turn["content"])
    return next((str(row[name]) for name in ("prompt", "question", "problem", "input") if row.get(name)), "")


def _count_changes(
    process: GraderProcess,
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[Answer | None],
    scores: Sequence[Score | None],
) -> int:
    """Score some right answers again, and count those whose score is another one."""
    repeated = [index for index, score in enumerate(scores) if score is not None and score.value is not None]
    changed = 0
    for index in repeated[:REPEATED]:
        answer, score = answers[index], scores[index]
        if answer is not None and score is not None:
            changed += process.score(rows[index], answer).value != score.value
    return changed


# --- what is wrong with it -------------------------------------------------------------------------------------------
def _judge(
    grader: Grader,
    chosen: Sequence[int],
    scores: Mapping[str, Sequence[Score | None]],
    *,
    seconds: float,
    changed: int,
) -> Trial:
    low, high = get_range(grader)
    samples = [column for kind, column in scores.items() if kind.startswith("samples")]
    columns: dict[AnswerKind, Sequence[Score | None]] = {
        kind: scores[kind] for kind in DESCRIPTIONS if kind != "samples" and kind in scores
    }
    if samples:
        columns["samples"] = [score for column in samples for score in column]
    summaries = tuple(_summarise(kind, column) for kind, column in columns.items())
    findings = [
        *_find_errors(chosen, scores),
        *_find_constant(columns),
        *_find_unpaid(columns, high, JUDGE_TOLERANCE * (high - low) if list_judges(grader) else 0.0),
        *_find_paid(columns, summaries, low),
        *_find_brittle(columns),
    ]
    if changed:
        findings.append(
            error(
                "scores-change",
                f"{changed} of {REPEATED} answers score differently when they are scored again",
                "take chance and the time of day out of the grader",
            )
        )
    if seconds > SLOW_SECONDS:
        hours = seconds * 10_000 / 3600
        findings.append(
            warning(
                "slow", f"an answer takes {seconds:.1f} s to score: 10,000 answers take {hours:.0f} h", "make it faster"
            )
        )
    dead = _count_dead(samples) if samples else None
    if dead is not None and dead[1] and dead[0] >= DEAD_PROMPTS * dead[1]:
        findings.append(
            warning(
                "dead-prompts",
                f"all sampled answers of {dead[0]} of {dead[1]} prompts score the same: nothing is learned from those",
                "take prompts that the model gets right sometimes, or pay for parts of an answer",
            )
        )
    return Trial(
        rows=len(chosen),
        low=low,
        high=high,
        scores=summaries,
        errors=sum(score is not None and score.value is None for column in scores.values() for score in column),
        seconds_per_answer=seconds,
        dead_prompts=None if dead is None else dead[0],
        findings=tuple(findings),
    )


def _values(column: Sequence[Score | None]) -> list[float]:
    return [score.value for score in column if score is not None and score.value is not None]


def _summarise(kind: AnswerKind, column: Sequence[Score | None]) -> KindScores:
    values = _values(column)
    return KindScores(
        kind=kind,
        answers=len(values),
        mean=statistics.fmean(values) if values else None,
        lowest=min(values, default=None),
        highest=max(values, default=None),
    )


def _find_errors(chosen: Sequence[int], scores: Mapping[str, Sequence[Score | None]]) -> list[Finding]:
    """One finding for each reason why answers could not be scored, with the first row."""
    reasons: Counter[str] = Counter()
    first: dict[str, tuple[int, str]] = {}
    for kind, column in scores.items():
        for row, score in zip(chosen, column, strict=True):
            if score is not None and score.value is None:
                reasons[score.error] += 1
                first.setdefault(score.error, (row + 1, DESCRIPTIONS[_read_kind(kind)]))
    return [
        error(
            "not-scored",
            f"{count} answers have no score: {reason} (first: row {first[reason][0]}, {first[reason][1]})",
            "give every answer a score: the lowest one where it cannot be read",
        )
        for reason, count in reasons.most_common(3)
    ]


def _read_kind(column: str) -> AnswerKind:
    return "samples" if column.startswith("samples") else column  # type: ignore[return-value]


def _find_constant(columns: Mapping[AnswerKind, Sequence[Score | None]]) -> list[Finding]:
    """Find that no answer makes a difference: in all rows, or within each of them."""
    if sum(bool(_values(column)) for column in columns.values()) < 2:
        return []  # too little could be scored to say so
    values = {value for column in columns.values() for value in _values(column)}
    if len(values) == 1:
        return [
            error(
                "constant",
                f"every answer scores {values.pop():g}: nothing can be learned from it",
                "compare the answer with the row's reference",
            )
        ]
    rows = [
        {score.value for column in columns.values() for score in column[row : row + 1] if score is not None}
        for row in range(len(columns["empty"]))
    ]
    if values and all(len(row_values) <= 1 for row_values in rows):
        return [
            error(
                "answer-not-read",
                "in every row all answers score the same: the answer makes no difference",
                "score the answer, not the row",
            )
        ]
    return []


def _find_unpaid(columns: Mapping[AnswerKind, Sequence[Score | None]], high: float, tolerance: float) -> list[Finding]:
    values = _values(columns["right"])
    due = high - tolerance
    name = "the highest" if due == high else f"and the highest is {high:g}"
    unpaid = sum(value < due - 1e-9 for value in values)
    if not unpaid:
        return []
    make = error if unpaid > len(values) / 2 else warning
    return [
        make(
            "right-answer-unpaid",
            f"{unpaid} of {len(values)} right answers score below {due:g}, {name} (mean"
            f" {statistics.fmean(values):.3g})",
            "see whether answer_from finds the answer, and whether right_answer looks as a right answer does",
        )
    ]


def _find_paid(
    columns: Mapping[AnswerKind, Sequence[Score | None]], summaries: Sequence[KindScores], low: float
) -> list[Finding]:
    """Find answers that ought to earn little and are paid."""
    means = {summary.kind: summary.mean for summary in summaries}
    right = means.get("right")
    if right is None:
        return []
    findings = []
    for kind in ("empty", "other", "prompt", "everything"):
        mean = means.get(kind)
        if mean is None or right <= low:
            continue
        share = (mean - low) / (right - low)
        if share < PAID_AS_RIGHT:
            continue
        amount = "as much as" if share > 1 - NO_DIFFERENCE else f"{share:.0%} of what is paid for"
        finding = error if share > 1 - NO_DIFFERENCE else warning
        findings.append(
            finding(
                f"pays-{kind}",
                f"{DESCRIPTIONS[kind]} earns {mean:.3g}: {amount} the right answer",
                "a model learns what is paid: pay it as a wrong answer",
            )
        )
    repeated = means.get("repeated")
    if repeated is not None and repeated > right + 1e-9:
        findings.append(
            error(
                "pays-length",
                f"the right answer, twenty times, earns {repeated:.3g}: more than once ({right:.3g})",
                "do not pay for length",
            )
        )
    return findings


def _find_brittle(columns: Mapping[AnswerKind, Sequence[Score | None]]) -> list[Finding]:
    pairs = [
        (right.value, padded.value)
        for right, padded in zip(columns["right"], columns.get("padded", ()), strict=False)
        if right is not None and padded is not None and right.value is not None and padded.value is not None
    ]
    lost = sum(padded < right - 1e-9 for right, padded in pairs)
    if not pairs or lost <= BRITTLE * len(pairs):
        return []
    return [
        warning(
            "brittle",
            f"{lost} of {len(pairs)} right answers lose when blank lines stand around them",
            "strip the answer before it is compared",
        )
    ]


def _count_dead(samples: Sequence[Sequence[Score | None]]) -> tuple[int, int]:
    """Count the prompts whose answers all score the same, and the prompts with at least two scored answers."""
    dead = counted = 0
    for scores in zip(*samples, strict=True):
        values = _values(scores)
        if len(values) > 1:
            counted += 1
            dead += len(set(values)) == 1
    return dead, counted
