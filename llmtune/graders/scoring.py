"""Scores of answers: what a grader pays for one answer to one row."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from llmtune.errors import InvalidData, InvalidJob, MissingExtra, TransientError, VendorError
from llmtune.graders.http_endpoint import HttpEndpoint
from llmtune.graders.judging import HIGHEST, LOWEST, JudgePrompt, read_score, write_scoring
from llmtune.graders.python_process import PythonProcess
from llmtune.job.graders import (
    AnswerPart,
    Grader,
    HttpGrader,
    JudgeGrader,
    LambdaGrader,
    MatchGrader,
    PythonGrader,
    RegexGrader,
    SchemaGrader,
    SimilarityGrader,
    ToolCallGrader,
    WeightedGrader,
)
from llmtune.metrics.registry import METRICS
from llmtune.metrics.text import exact_match, final_number, normalised_match, same_json

#: Characters of an answer in which JSON is looked for.
LONGEST_JSON = 200_000

#: Seconds that a regular expression may take for one answer.
REGEX_SECONDS = 10.0

#: What a process runs to see whether a regular expression comes to an end.
_REGEX = """\
import re

pattern = re.compile({pattern!r})


def grade(row, answer):
    return {call}
"""


@dataclass(frozen=True)
class Answer:
    """What a model answered: its text, and the tools that it called as (name, arguments)."""

    text: str
    tool_calls: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Score:
    """What a grader pays for one answer; without a value, `error` says why there is none."""

    value: float | None
    error: str = ""


def get_range(grader: Grader) -> tuple[float, float]:
    """Return the lowest and the highest score that a grader may give."""
    if isinstance(grader, JudgeGrader):
        return float(LOWEST), float(HIGHEST)
    if isinstance(grader, PythonGrader | HttpGrader | LambdaGrader):
        return grader.lowest, grader.highest
    return 0.0, 1.0


def find_reference(grader: Grader, row: Mapping[str, Any]) -> Any:
    """Return the right answer of a row, as its field holds it; None where the row has none."""
    field = getattr(grader, "reference", None)
    if isinstance(grader, WeightedGrader):
        references = (find_reference(part.grader, row) for part in grader.parts)
        return next((reference for reference in references if reference is not None), None)
    if field is not None:
        value: Any = row
        for name in field.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value
    turn = _last_turn(row)
    if turn is None:
        return None
    return turn.get("tool_calls") if isinstance(grader, ToolCallGrader) else turn.get("content")


def _last_turn(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    turns = row.get("messages")
    last = turns[-1] if isinstance(turns, list) and turns else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return None
    parts = last.get("content")
    if isinstance(parts, list):  # a model answers with their words
        words = (part.get("text") for part in parts if isinstance(part, Mapping))
        return {**last, "content": "".join(text for text in words if isinstance(text, str))}
    return last


def make_right_answer(grader: Grader, row: Mapping[str, Any]) -> Answer | None:
    """Return an answer that ought to be paid, made of the row's reference; None where the row has none."""
    reference = find_reference(grader, row)
    if reference is None:
        return None
    if isinstance(grader, WeightedGrader):
        answers = [make_right_answer(part.grader, row) for part in grader.parts]
        return next((answer for answer in answers if answer is not None), None)
    if isinstance(grader, ToolCallGrader):
        return Answer("", tuple(read_tool_calls(reference)))
    template = getattr(grader, "right_answer", "{reference}")
    return Answer(template.replace("{reference}", to_text(reference)))


def to_text(value: Any) -> str:
    """Return a reference as the text that a model would write: texts as they are, other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class Function(Protocol):
    """A function that runs elsewhere and scores answers, opened by a package that can call it."""

    def grade(
        self, row: dict[str, Any], answer: str, tool_calls: Sequence[tuple[str, Any]]
    ) -> tuple[float | None, str]:
        """Return the score of an answer and "", or None and what went wrong."""
        ...


#: Entry points of packages that open graders which run elsewhere, by the grader's kind.
GROUP = "llmtune.graders"


def open_function(grader: LambdaGrader) -> AbstractContextManager[Function]:
    """Open the function of a grader by the installed package that can call it.

    Raises:
        InvalidJob: there is no such package.
    """
    from importlib.metadata import entry_points  # not at the top: it costs 25 ms

    for point in entry_points(group=GROUP, name=grader.kind):
        opened: AbstractContextManager[Function] = point.load()(grader)
        return opened
    raise InvalidJob(
        f"no installed package can call a grader of kind {grader.kind}",
        hint="install the extra of a backend that has such functions (docs/reinforcement.md)",
    )


class AsksJudge(Protocol):
    """Whoever can ask the model of a judge."""

    def ask(self, judge: JudgeGrader, prompt: JudgePrompt) -> str:
        """Return the model's reply. Raises `VendorError` where it refuses, `OverBudget` where it costs too much."""
        ...


def read_question(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the turns of a row up to the one that is answered, as a judge is shown them."""
    turns = [turn for turn in row.get("messages") or () if isinstance(turn, Mapping)]
    while turns and turns[-1].get("role") == "assistant":
        turns.pop()
    if turns:
        return turns
    text = next((row[name] for name in ("prompt", "question", "problem", "input") if row.get(name)), "")
    return [{"role": "user", "content": to_text(text)}]


#: HTTP statuses of refusals that concern the account or the model, not one answer.
_NOT_OF_A_ROW = (401, 403, 404)


class GraderProcess:
    """An open grader. Use as a context manager: a Python grader has a process of its own.

    `judge` asks the models of graders of kind judge; without it these give no score.

    Raises `InvalidJob` where a Python grader cannot be run, `MissingExtra` where a library is not installed,
    `MissingCredentials` where an endpoint's key is not set.
    """

    def __init__(self, grader: Grader, judge: AsksJudge | None = None) -> None:
        self.grader = grader
        self._judge = judge
        self._exit = ExitStack()
        self._process: PythonProcess | None = None
        self._function: Function | None = None
        self._parts: list[tuple[float, GraderProcess]] = []
        self._validator: Any = None
        self._pattern: PythonProcess | None = None
        self._part: PythonProcess | None = None

    def __enter__(self) -> Self:
        grader = self.grader
        if isinstance(grader, PythonGrader):
            self._process = self._exit.enter_context(PythonProcess(grader.source or "", grader.seconds))
        elif isinstance(grader, HttpGrader):
            self._function = self._exit.enter_context(HttpEndpoint(grader))
        elif isinstance(grader, LambdaGrader):
            self._function = self._exit.enter_context(open_function(grader))
        elif isinstance(grader, WeightedGrader):
            self._parts = [
                (part.weight, self._exit.enter_context(GraderProcess(part.grader, self._judge)))
                for part in grader.parts
            ]
        elif isinstance(grader, SchemaGrader):
            self._validator = _open_schema(grader.json_schema)
        elif isinstance(grader, RegexGrader):
            self._pattern = self._open_regex(grader.pattern, "pattern.search(answer) is not None")
        part = None if isinstance(grader, WeightedGrader) else grader.answer_from
        if part is not None and part.regex is not None:
            self._part = self._open_regex(part.regex, "sum(1 for _ in pattern.finditer(answer))")
        return self

    def _open_regex(self, pattern: str, call: str) -> PythonProcess:
        """Open a process that shows whether a regular expression comes to an end: nothing can stop one in this."""
        return self._exit.enter_context(PythonProcess(_REGEX.format(pattern=pattern, call=call), REGEX_SECONDS))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def score(self, row: Mapping[str, Any], answer: Answer) -> Score:
        """Return what the grader pays for an answer to a row."""
        grader = self.grader
        if isinstance(grader, WeightedGrader):
            return self._score_parts(row, answer)
        if self._part is not None and not _ends(self._part, answer.text):
            return Score(None, f"answer_from.regex takes longer than {REGEX_SECONDS:g} s")
        text = answer.text if grader.answer_from is None else take_part(grader.answer_from, answer.text)
        if text is None:
            return Score(get_range(grader)[0])
        if isinstance(grader, PythonGrader | HttpGrader | LambdaGrader):
            return self._call(grader, row, text, answer)
        if isinstance(grader, JudgeGrader):
            return self._ask_judge(grader, row, text)
        if isinstance(grader, RegexGrader):
            if self._pattern is not None and not _ends(self._pattern, text):
                return Score(None, f"its pattern takes longer than {REGEX_SECONDS:g} s")
            return Score(float(re.search(grader.pattern, text) is not None))
        if isinstance(grader, SchemaGrader):
            return _validate(self._validator, text)
        return _compare_with_reference(grader, row, text, answer)

    def _ask_judge(self, grader: JudgeGrader, row: Mapping[str, Any], text: str) -> Score:
        """Return the points of a judge; none for a reply that is not the form that was asked for."""
        if self._judge is None:
            return Score(None, "nobody was given to ask its judge (llmtune grade asks it)")
        reference = find_reference(grader, row) if grader.reference is not None else None
        shown = None if reference is None else to_text(reference)
        prompt = write_scoring(grader.rubric, read_question(row), text, shown)
        try:
            reply = self._judge.ask(grader, prompt)
        except VendorError as error:
            if isinstance(error, TransientError) or error.status in _NOT_OF_A_ROW:
                raise
            return Score(None, f"its judge refused: {error.message}")
        points = read_score(reply, prompt.id)
        if points is None:
            return Score(None, "its judge's reply is not the form that was asked for")
        return Score(float(points[0]))

    def _call(
        self, grader: PythonGrader | HttpGrader | LambdaGrader, row: Mapping[str, Any], text: str, answer: Answer
    ) -> Score:
        """Return what a function pays that runs in a process of its own or elsewhere, if it keeps to its range."""
        if self._process is not None:
            value, error = self._process.grade(dict(row), text)
        else:
            assert self._function is not None
            value, error = self._function.grade(dict(row), text, answer.tool_calls)
        if value is not None and not grader.lowest <= value <= grader.highest:
            return Score(None, f"it returned {value:g}, outside {grader.lowest:g} to {grader.highest:g}")
        return Score(value, error)

    def _score_parts(self, row: Mapping[str, Any], answer: Answer) -> Score:
        total = weights = 0.0
        for weight, process in self._parts:
            score = process.score(row, answer)
            if score.value is None:
                return score
            lowest, highest = get_range(process.grader)
            total += weight * (score.value - lowest) / (highest - lowest)
            weights += weight
        return Score(total / weights)


def _compare_with_reference(
    grader: MatchGrader | SimilarityGrader | ToolCallGrader, row: Mapping[str, Any], text: str, answer: Answer
) -> Score:
    """Return what a grader pays that compares an answer with the row's reference."""
    reference = find_reference(grader, row)
    if reference is None:
        return Score(None, f"the row has no {_name_reference(grader)}")
    if isinstance(grader, ToolCallGrader):
        return Score(_compare_calls(read_tool_calls(reference), answer.tool_calls, names_only=grader.names_only))
    if isinstance(grader, SimilarityGrader):
        score = METRICS[grader.metric].score
        assert score is not None
        return _score_text(score, to_text(reference), text)
    return _match(grader, reference, text)


def _ends(process: PythonProcess, text: str) -> bool:
    return process.grade({}, text)[0] is not None


def take_part(part: AnswerPart, text: str) -> str | None:
    """Return the part of an answer that is scored; None where the answer does not have it."""
    if part.regex is not None:
        matches = list(re.finditer(part.regex, text))
        if not matches:
            return None
        last = matches[-1]
        return last.group(1) if last.re.groups else last.group()
    value: Any = find_json(text)
    for name in (part.json_path or "").split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return to_text(value)


def find_json(text: str) -> Any:
    """Return the JSON value that an answer is, or the object that stands in it; None where there is none."""
    text = text.strip()[:LONGEST_JSON]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    decoder = json.JSONDecoder()
    start = text.find("{")
    if start >= 0:
        try:
            return decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            return None
    return None


def read_tool_calls(value: Any) -> list[tuple[str, Any]]:
    """Return tool calls as (name, arguments), from the form of chat completions or plain `{"name", "arguments"}`."""
    if isinstance(value, str):
        value = find_json(value)
    entries = value if isinstance(value, list) else [value]
    calls: list[tuple[str, Any]] = []
    for entry in entries:
        fields = entry.get("function", entry) if isinstance(entry, Mapping) else {}
        if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
            continue
        arguments = fields.get("arguments", {})
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):
                arguments = json.loads(arguments)
        calls.append((fields["name"], arguments))
    return calls


def _compare_calls(
    expected: Sequence[tuple[str, Any]], called: Sequence[tuple[str, Any]], *, names_only: bool
) -> float:
    if names_only:
        return float([name for name, _ in expected] == [name for name, _ in called])
    return float(same_json([list(call) for call in expected], [list(call) for call in called]))


def _match(grader: MatchGrader, reference: Any, text: str) -> Score:
    expected = to_text(reference)
    if grader.operation == "exact":
        return Score(exact_match(expected, text))
    if grader.operation == "normalised":
        return Score(normalised_match(expected, text))
    if grader.operation == "contains":
        return Score(float(expected.strip() in text))
    if grader.operation == "numeric":
        number = final_number(expected)
        if number is None:
            return Score(None, f"the reference {expected[:60]!r} holds no number")
        answered = final_number(text)
        if answered is None:
            return Score(0.0)
        try:
            difference = abs(answered - number)
        except ArithmeticError:  # 1e9999999 and its like: beyond what decimals subtract
            return Score(float(answered == number))
        return Score(float(difference <= abs(type(number)(grader.tolerance))))
    value = find_json(expected) if isinstance(reference, str) else reference
    if value is None:
        return Score(None, f"the reference {expected[:60]!r} is not JSON")
    answered_value = find_json(text)
    if not grader.partial or not isinstance(value, Mapping):
        return Score(float(same_json(value, answered_value)))
    if not value:
        return Score(float(answered_value == {}))
    fields = answered_value if isinstance(answered_value, Mapping) else {}
    right = sum(name in fields and same_json(expected_field, fields[name]) for name, expected_field in value.items())
    return Score(right / len(value))


def _score_text(score: Any, expected: str, text: str) -> Score:
    try:
        return Score(float(score(expected, text)))
    except InvalidData as error:
        return Score(None, error.message)


def _open_schema(schema: dict[str, Any]) -> Any:
    try:
        import jsonschema  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("report", "jsonschema", purpose="the grader 'schema'") from error
    try:
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InvalidJob(f"it is no JSON Schema: {error.message[:200]}", where="json_schema") from None
    return kind(schema)


def _validate(validator: Any, text: str) -> Score:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Score(0.0)
    try:
        return Score(float(validator.is_valid(value)))
    except Exception as error:  # noqa: BLE001 - a $ref that leads nowhere, whose class the library keeps private
        return Score(None, f"the schema cannot be applied: {str(error)[:200]}")


def _name_reference(grader: Grader) -> str:
    field = getattr(grader, "reference", None)
    return "assistant turn at its end" if field is None else f"field {field!r}"
