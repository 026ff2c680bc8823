"""Answers of a server beside those of the model that was measured: which are the same, and why others are not."""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.provider.chat import FINISH_REASONS
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.verifications.endpoint import ServerAnswer
from llmtune.verifications.results import Difference, DifferenceKind

#: Characters of an answer that are quoted.
_QUOTED = 50

#: Of the answers that differ, the share that one cause must explain to be named.
_SHARE = 0.2


@dataclass(frozen=True)
class AnswerPair:
    """The answers to one row: `expected` is the measured model's, `got` the server's; None where it refused.

    `row` is its number from 1, `refusal` are the server's words, `alone` is its answer when nothing else was asked at
    the same time, where that was done. `tied` says that the model itself finds both answers about equally likely.
    """

    row: int
    request: GenerationRequest
    expected: Generation
    got: ServerAnswer | None
    refusal: str = ""
    alone: ServerAnswer | None = None
    tied: bool = False

    @property
    def same(self) -> bool:
        """Whether both are the same answer."""
        return self.got is not None and same_answer(self.expected, self.got)

    @property
    def agrees(self) -> bool:
        """Whether both are the same answer, or equally good to the model."""
        return self.same or self.tied


def same_answer(expected: Generation, got: ServerAnswer | Generation) -> bool:
    """Return whether two answers have the same text and calls, outer blanks and the spelling of JSON aside."""
    return expected.text.strip() == got.text.strip() and normalise_calls(expected.tool_calls) == normalise_calls(
        got.tool_calls
    )


def normalise_calls(calls: Iterable[Any]) -> list[tuple[str, str]]:
    """Return tool calls as names and arguments, whose JSON is spelled in one way."""
    plain = []
    for call in calls:
        try:
            arguments = json.dumps(json.loads(call.arguments), sort_keys=True)
        except ValueError:
            arguments = call.arguments
        plain.append((call.name, arguments))
    return plain


@dataclass(frozen=True)
class TurnMarks:
    """Texts that a template writes around answers: the `ends` of a turn, and the `begins` of an answer's turn."""

    ends: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()


def explain_answers(pairs: Sequence[AnswerPair], marks: TurnMarks) -> tuple[list[Difference], list[AnswerPair]]:
    """Return the differences that answers show by their form, and the pairs that differ without such a cause."""
    differing = [pair for pair in pairs if not pair.agrees]
    by_kind: dict[DifferenceKind, list[AnswerPair]] = {}
    unexplained = []
    for pair in differing:
        kind = _classify(pair, marks, pairs)
        if kind is None:
            unexplained.append(pair)
        else:
            by_kind.setdefault(kind, []).append(pair)
    differences = []
    for kind, group in by_kind.items():
        if len(group) < max(2, _SHARE * len(differing)) and len(group) < len(differing) and kind != "rows_refused":
            unexplained += group
            continue
        says = f"{_SENTENCES[kind](group)} ({len(group)} of {len(pairs)} answers)"
        differences.append(Difference(kind=kind, says=says, rows=tuple(pair.row for pair in group)))
    differences += _explain_form(pairs)
    return differences, sorted(unexplained, key=lambda pair: pair.row)


def _classify(pair: AnswerPair, marks: TurnMarks, pairs: Sequence[AnswerPair]) -> DifferenceKind | None:  # noqa: C901
    """Return the kind of one difference by its form; None where the answer is simply another one."""
    if pair.got is None:
        return "rows_refused"
    expected, text = pair.expected.text.strip(), pair.got.text.strip()
    if not text and not pair.got.tool_calls and (expected or pair.expected.tool_calls):
        return "answer_in_reasoning" if pair.got.reasoning.strip() else "answers_empty"
    if pair.expected.tool_calls and not pair.got.tool_calls:
        named = all(call.name and call.name in text for call in pair.expected.tool_calls)
        return "tool_calls_as_text" if named else None
    if not expected or pair.expected.tool_calls:
        return None
    if any(text.endswith(end) and text.removesuffix(end).strip() == expected for end in marks.ends):
        return "end_token_in_answer"
    if any(text.startswith(begin) and text.removeprefix(begin).strip(" \n:") == expected for begin in marks.begins):
        return "role_in_answer"
    question = pair.request.messages[-1].words.strip()
    if question and text.endswith(expected) and question in text.removesuffix(expected):
        return "prompt_in_answer"
    if _rewriting(expected, text) is not None:
        return "answers_rewritten"
    if text.startswith(expected):
        behind = text[len(expected)]
        return "stop_not_honoured" if pair.got.finish_reason == "length" or not behind.isalnum() else None
    if text and expected.startswith(text):
        return "answers_cut"
    if pair.alone is not None and same_answer(pair.expected, pair.alone):
        candidates = (candidate for candidate in pairs if candidate.row != pair.row)
        if any(same_answer(candidate.expected, pair.got) for candidate in candidates):
            return "answers_swapped"
    return "answers_rewritten" if text.endswith(expected) else None


def _rewriting(expected: str, text: str) -> str | None:
    """Return how a text was changed on its way; None where it is another text."""
    for says, matches in _REWRITINGS:
        try:
            if matches(expected, text):
                return says
        except (UnicodeError, ValueError):
            continue
    return None


#: Changes of a text on its way, each with a test of the expected and the received one.
_REWRITINGS: tuple[tuple[str, Callable[[str, str], bool]], ...] = (
    ("characters are escaped for HTML", lambda expected, text: html.unescape(text) == expected),
    (
        "UTF-8 was read in another encoding",
        lambda expected, text: expected in {text.encode(name).decode() for name in ("latin-1",)},
    ),
    ("UTF-8 was read in another encoding", lambda expected, text: text.encode("cp1252").decode() == expected),
    (
        "characters beyond ASCII are lost",
        lambda expected, text: (
            text.strip()
            in {expected.encode("ascii", how).decode().strip() for how in ("ignore", "replace", "backslashreplace")}
        ),
    ),
    ("characters beyond ASCII are lost", lambda expected, text: "\ufffd" in text and _without_replaced(expected, text)),
    ("its letters are in another case", lambda expected, text: text.casefold() == expected.casefold()),
    ("it is written as JSON text", lambda expected, text: json.loads(text) == expected),
    ("it is wrapped in a block of code", lambda expected, text: _unfenced(text) == expected),
    (
        "it is wrapped in quotes",
        lambda expected, text: len(text) > 2 and text[1:-1] == expected and text[0] in "\"'`\u201c",
    ),
    ("blanks and line ends are changed", lambda expected, text: "".join(text.split()) == "".join(expected.split())),
    (
        "characters are composed otherwise (Unicode)",
        lambda expected, text: unicodedata.normalize("NFC", text) == unicodedata.normalize("NFC", expected),
    ),
)


def _without_replaced(expected: str, text: str) -> bool:
    ascii_only = "".join(character for character in text if character.isascii())
    return ascii_only == "".join(character for character in expected if character.isascii())


def _unfenced(text: str) -> str:
    if not (text.startswith("```") and text.endswith("```")):
        raise ValueError
    return text.partition("\n")[2].removesuffix("```").strip()


def _describe_refusals(group: Sequence[AnswerPair]) -> str:
    return f"the server refuses questions: {group[0].refusal[:200]}"


def _describe_cuts(group: Sequence[AnswerPair]) -> str:
    lengths = {pair.got.completion_tokens for pair in group if pair.got is not None}
    if len(lengths) == 1 and None not in lengths:
        return f"answers are cut at {lengths.pop()} tokens, although more were allowed"
    return "answers end before they are complete"


def _describe_rewriting(group: Sequence[AnswerPair]) -> str:
    first = group[0]
    text = first.got.text.strip() if first.got is not None else ""
    says = _rewriting(first.expected.text.strip(), text)
    if says is None:
        return f"something stands in front of answers: {_quote(text.removesuffix(first.expected.text.strip()))}"
    return f"the text of answers is changed on its way: {says}"


def _describe_running(group: Sequence[AnswerPair]) -> str:
    first = group[0]
    behind = first.got.text.strip().removeprefix(first.expected.text.strip()) if first.got is not None else ""
    return f"the stop token is not honoured: answers run on, as in {_quote(behind)}"


def _describe_end(group: Sequence[AnswerPair]) -> str:
    first = group[0]
    behind = first.got.text.strip().removeprefix(first.expected.text.strip()) if first.got is not None else ""
    return f"the token that ends a turn stands in the answer: {_quote(behind.strip())}"


_SENTENCES: dict[DifferenceKind, Callable[[Sequence[AnswerPair]], str]] = {
    "rows_refused": _describe_refusals,
    "answer_in_reasoning": lambda group: "the answer comes as reasoning beside an empty content",
    "answers_empty": lambda group: "answers are empty",
    "tool_calls_as_text": lambda group: "tool calls come as text, not as calls",
    "end_token_in_answer": _describe_end,
    "role_in_answer": lambda group: "answers begin with the mark of their turn",
    "prompt_in_answer": lambda group: "answers repeat the prompt",
    "answers_rewritten": _describe_rewriting,
    "stop_not_honoured": _describe_running,
    "answers_cut": _describe_cuts,
    "answers_swapped": lambda group: "questions that are asked at the same time get each other's answers",
}


def _explain_form(pairs: Sequence[AnswerPair]) -> list[Difference]:
    """Return differences of the form of answers that are right otherwise."""
    differences = []
    objects = tuple(pair.row for pair in pairs if pair.got is not None and pair.got.object_arguments)
    if objects:
        says = f"arguments of tool calls come as an object, not as JSON text ({len(objects)} of {len(pairs)} answers)"
        differences.append(Difference(kind="tool_arguments_not_text", says=says, rows=objects))
    wrong = [pair for pair in pairs if pair.same and is_reason_wrong(pair.expected, pair.got)]
    if wrong:
        first = wrong[0]
        assert first.got is not None
        says = (
            f"finish_reason is {first.got.finish_reason!r} where the answer ends by {first.expected.finish_reason!r}"
            f" ({len(wrong)} of {len(pairs)} answers)"
        )
        differences.append(Difference(kind="finish_reason_differs", says=says, rows=tuple(pair.row for pair in wrong)))
    return differences


def is_reason_wrong(expected: Generation, got: ServerAnswer | None) -> bool:
    """Return whether a server says "length" of an answer that ended by itself, or the other way round.

    A tool call that is reported as "stop", and a word of the server's own, are left alone.
    """
    reason = FINISH_REASONS.get(str(got.finish_reason)) if got is not None else None
    return {expected.finish_reason, reason} in ({"stop", "length"}, {"tool_calls", "length"})


def _quote(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}\u2026")
