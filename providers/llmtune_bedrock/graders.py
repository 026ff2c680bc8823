"""Graders as AWS takes them: a Lambda function of the user's, whose source llmtune writes and which it can call.

The function is given answers as `[{"id", "messages": [..., the model's answer], "reference_answer", ...}]` and returns
`[{"id", "aggregate_reward_score", "metrics_list"}]`. Sources: AWS, Implementing reward functions (SageMaker guide, copy
of 2026); AWS, Setting up reward functions for Amazon Nova models (Bedrock guide, copy of 2026); aws-samples,
amazon-bedrock-samples 85fba9d9 (2026-08-21). Deploying the function is the user's act: llmtune creates none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from llmtune.data.findings import Finding, error, warning
from llmtune.errors import LlmtuneError
from llmtune.graders.job_trial import Sample, compare_scores
from llmtune.graders.scoring import find_reference, get_range, to_text
from llmtune.graders.source import find_obstacle, needs_last_turn, write_source
from llmtune.graders.trial import find_question
from llmtune.job.graders import Grader, HttpGrader, LambdaGrader, list_parts
from llmtune.provider import ConversionContext, Converted, ConvertedValue, NotConvertible
from llmtune_bedrock.client import Sdk

SOURCE = "AWS, Setting up reward functions (Bedrock guide, 2026); amazon-bedrock-samples 85fba9d9 (2026-08-21)"

#: The turn that answers a row rightly, as a key of its own.
RIGHT_ANSWER = "right_answer"
#: The right answer's text, where AWS's own functions look for it.
REFERENCE_ANSWER = "reference_answer"

#: Bytes of a question to a function and of its answer, at most. A Lambda function takes 6 MB.
LARGEST_QUESTION = 1024 * 1024
LARGEST_ANSWER = 64 * 1024

#: Answers in a row without a score from a function that cannot be called, before the others are given up too.
MOST_FAILURES = 3

_HANDLER = '''\
def _text(content):
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _score_item(item):
    messages = list(item.get("messages") or [])
    answer = messages.pop() if messages and messages[-1].get("role") == "assistant" else {{}}
    row = {{name: value for name, value in item.items() if name != "messages"}}
    if {right_answer!r} not in row and isinstance(row.get({reference_answer!r}), str):
        with suppress(ValueError):  # where only this one field travels, it holds the others
            fields = json.loads(row[{reference_answer!r}])
            if isinstance(fields, Mapping) and {right_answer!r} in fields:
                row.update(fields)
    turn = row.pop({right_answer!r}, None)
    if {last_turn} and turn is not None:
        messages.append(turn)
    calls = tuple(read_tool_calls(answer.get("tool_calls") or []))
    return score({{**row, "messages": messages}}, _text(answer.get("content")), calls)


def lambda_handler(event, context):
    """Score answers of a model; one that cannot be scored gets the lowest score, and its error is in the log."""
    results = []
    for item in event if isinstance(event, list) else [event]:
        try:
            value = _score_item(item)
        except Exception as error:
            print("no score for", item.get("id"), type(error).__name__, error)
            value = {low!r}
        metrics = [{{"name": "llmtune", "value": value, "type": "Reward"}}]
        results.append({{"id": item.get("id"), "aggregate_reward_score": value, "metrics_list": metrics}})
    return {answer}
'''


def write_grader_source(grader: Grader, *, wrapped: bool = False) -> str:
    """Return the source of a Lambda function, with the handler `lambda_function.lambda_handler`.

    Only of a grader for which `find_obstacle` is None. `wrapped` is whether the scores are the body of an answer of
    HTTP, as SageMaker's recipes of open models read them.
    """
    handler = _HANDLER.format(
        right_answer=RIGHT_ANSWER,
        reference_answer=REFERENCE_ANSWER,
        last_turn=needs_last_turn(grader),
        low=get_range(grader)[0],
        answer='{"statusCode": 200, "body": json.dumps(results)}' if wrapped else "results",
    )
    return f"{write_source(grader)}\n\n{handler}"


# --- what is sent ----------------------------------------------------------------------------------------------------
class _Arn:
    """The ARN of a function."""

    def error(self, value: Any) -> str | None:
        return None if isinstance(value, str) else f"must be {self.describe()}, not {value!r}"

    def describe(self) -> str:
        return "the ARN of a Lambda function"


def name_function(function: str | None, path: str, *, provider: str, option: str, runs_as: str = "") -> Converted:
    """Return what becomes of a grader at a service of AWS: the ARN of the user's function, sent at `path`.

    Args:
        function: the ARN that the job's option names; None where it names none.
        path: where the request has it.
        provider: under whose name the job has its options.
        option: the option; "" where there is none, so that only a grader of kind lambda can name its function.
        runs_as: what the function is behind there, where that has an ARN of its own ("an evaluator"): the option is
            then needed for every grader, and "" where a function's own ARN is sent.
    """

    def convert(grader: Any, _: ConversionContext) -> ConvertedValue | NotConvertible:
        if isinstance(grader, LambdaGrader):
            if grader.answer_from is not None:
                return NotConvertible("the function is given the whole answer: leave answer_from out", invalid=True)
            if not runs_as:
                return ConvertedValue(grader.function, "the kind lambda as the user's own Lambda function")
        elif any(isinstance(part, HttpGrader) for part in list_parts(grader)):
            return NotConvertible(
                "the functions that llmtune writes call no endpoint: call it in a function of yours, and name that"
                " function by a grader of kind lambda",
                invalid=True,
            )
        elif obstacle := find_obstacle(grader):
            return NotConvertible(obstacle, invalid=True)
        named = f"provider_options.{provider}.{option}" if option else "the function of a grader of kind lambda"
        if function is None:
            package = provider if option else "bedrock"
            written = f"write its source (llmtune grade GRADER ROWS --source-for {package} -o FILE) and deploy it"
            how = "register the function" if isinstance(grader, LambdaGrader) else written
            return NotConvertible(f"it runs in a Lambda function of yours: {how}, and name it as {named}", invalid=True)
        behind = f"behind {runs_as}" if runs_as else f"as the source of --source-for {provider}"
        return ConvertedValue(function, f"the kind {grader.kind} as the Lambda function that {named} names, {behind}")

    return Converted(
        path,
        _Arn(),
        convert,
        description="as a Lambda function of the user's, whose source llmtune writes",
        default=None,
        source=SOURCE,
    )


# --- the call --------------------------------------------------------------------------------------------------------
def make_item(
    grader: Grader,
    row: Mapping[str, Any],
    answer: str,
    tool_calls: Sequence[tuple[str, Any]],
    *,
    in_one_field: bool = False,
) -> dict[str, Any]:
    """Return an answer to a row as the function is given it while a model trains.

    `in_one_field` is whether all that is not a turn arrives as one JSON text, as from SageMaker's recipes.
    """
    turns = row.get("messages")
    messages = list(turns) if isinstance(turns, list) else [{"role": "user", "content": find_question(row)}]
    last = messages[-1] if messages else None
    turn = messages.pop() if isinstance(last, Mapping) and last.get("role") == "assistant" else None
    if turn is None and (reference := find_reference(grader, row)) is not None:
        turn = {"role": "assistant", "content": to_text(reference)}
    reply: dict[str, Any] = {"role": "assistant", "content": answer}
    if tool_calls:
        reply["tool_calls"] = [
            {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for name, arguments in tool_calls
        ]
    fields = {**{name: value for name, value in row.items() if name != "messages"}, **add_right_answer(row, turn)}
    if in_one_field:
        truth = {name: value for name, value in row.items() if name != "messages"} | (
            {} if turn is None else {RIGHT_ANSWER: dict(turn)}
        )
        fields = {REFERENCE_ANSWER: json.dumps(truth, ensure_ascii=False)}
    return {"id": "1", **fields, "messages": [*messages, reply]}


def add_right_answer(fields: Mapping[str, Any], turn: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the keys of a row that hold its right answer: the turn, and its text where the row has none of its own."""
    if turn is None:
        return {}
    text = turn.get("content") or json.dumps(turn.get("tool_calls") or [])
    return {RIGHT_ANSWER: dict(turn), REFERENCE_ANSWER: fields.get(REFERENCE_ANSWER, text)}


@dataclass
class LambdaFunction:
    """A Lambda function that scores answers, called by its ARN. Use as a context manager; nothing is deployed."""

    sdk: Sdk
    grader: Grader
    function: str
    seconds: float
    in_one_field: bool = False
    failures: int = 0
    last_error: str = ""

    def __enter__(self) -> Self:
        self._client = self.sdk.lambda_client(self.function.split(":")[3], self.seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def grade(
        self, row: dict[str, Any], answer: str, tool_calls: Sequence[tuple[str, Any]]
    ) -> tuple[float | None, str]:
        """Return the score of an answer and "", or None and what went wrong."""
        if self.failures >= MOST_FAILURES:
            return None, self.last_error
        item = make_item(self.grader, row, answer, tool_calls, in_one_field=self.in_one_field)
        try:
            question = json.dumps([item]).encode()
        except (TypeError, ValueError) as problem:
            return None, f"the row cannot be written as JSON: {problem}"
        if len(question) > LARGEST_QUESTION:
            return None, f"row and answer have {len(question):,} bytes, and {LARGEST_QUESTION:,} are sent at most"
        try:
            with self.sdk.translate_errors(f"calling {self.function}"):
                reply = self._client.invoke(FunctionName=self.function, Payload=question)
                content = reply["Payload"].read(LARGEST_ANSWER + 1)
        except LlmtuneError as refused:
            self.failures += 1
            self.last_error = refused.message
            return None, refused.message
        self.failures = 0
        if len(content) > LARGEST_ANSWER:
            return None, f"the function's answer has more than {LARGEST_ANSWER:,} bytes"
        if reply.get("FunctionError"):
            return None, f"the function failed: {_read_error(content)}"
        return read_score(content)


def _read_error(content: bytes) -> str:
    try:
        error = json.loads(content)
    except (ValueError, RecursionError):
        return "it does not say why"
    message = error.get("errorMessage") if isinstance(error, dict) else None
    return str(message or "it does not say why")[:200]


def read_score(content: bytes) -> tuple[float | None, str]:
    """Return the score in a function's answer and "", or None and what is wrong with it."""
    try:
        answer = json.loads(content)
        if isinstance(answer, dict) and isinstance(answer.get("body"), str):
            answer = json.loads(answer["body"])
    except (ValueError, RecursionError):
        return None, "the function's answer is not JSON"
    entry = answer[0] if isinstance(answer, list) and len(answer) == 1 else None
    score = entry.get("aggregate_reward_score") if isinstance(entry, dict) else None
    if isinstance(score, bool) or not isinstance(score, int | float):
        return None, 'the function\'s answer is no list with one "aggregate_reward_score"'
    try:
        value = float(score)
    except OverflowError:
        value = math.inf
    return (value, "") if math.isfinite(value) else (None, f"the function's score is {value}")


def open_function(grader: LambdaGrader) -> LambdaFunction:
    """Open the function of a grader, with the account that is configured for Bedrock."""
    from llmtune.provider.registry import get_provider

    provider: Any = get_provider("bedrock")
    opened: LambdaFunction = provider.open_function(grader, grader.function, grader.seconds)
    return opened


def try_function(function: LambdaFunction, sample: Sample) -> Iterator[Finding]:
    """Call a function with the right answer of a row, before a job is paid. Yields what is wrong with it."""
    with function:
        value, problem = function.grade(sample.row, sample.answer.text, sample.answer.tool_calls)
    if value is None:
        if function.failures:  # calling it may be barred where starting jobs is not
            yield warning("grader", f"the function could not be tried: {problem}", "lambda:InvokeFunction allows it")
        else:
            yield error("grader", f"the function cannot score the right answer of a row: {problem}", "correct it")
        return
    if difference := compare_scores(sample, value, "the Lambda function"):
        yield error("grader", difference, "deploy the source that --source-for writes of this grader")
