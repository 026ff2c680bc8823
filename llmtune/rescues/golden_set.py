"""The golden set: what the old model answers, while it still does. One line an answer, and no answer asked twice."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._retry import RetryPolicy
from llmtune._safety.private_files import open_private
from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.formats.chat import write_messages
from llmtune.errors import LlmtuneError
from llmtune.evaluation.cache import answer_key
from llmtune.evaluation.inference import ask
from llmtune.evaluation.sampling import requests_of, subsample, token_limit
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.points import NotReported
from llmtune.provider.generation import Generation, GenerationRequest, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import DeploymentRef, ModelRef
from llmtune.rescues.results import GoldenSet
from llmtune.runs.failpoints import checkpoint

if TYPE_CHECKING:
    from typing import Self

    from llmtune.evaluation.inference import Progress


class Questions:
    """The prompts of the golden set, each with its key and the answer it should get, where one is known."""

    def __init__(self, rows: Sequence[Example], model: str, spec: EvaluationSpec) -> None:
        self.rows = [rows[number] for number in subsample(rows, spec.max_rows)]
        self.spec = spec
        self.requests = requests_of(self.rows, spec, max_tokens=token_limit(self.rows, spec), seed=0)
        self.keys = [answer_key(model, "text", request) for request in self.requests]
        self.model = model

    @property
    def spec_alike(self) -> EvaluationSpec:
        """The specification with its limits spelled out, so that whoever is asked is asked the very same."""
        longest = self.requests[0].max_tokens if self.requests else None
        return self.spec.model_copy(update={"max_tokens": longest})

    @property
    def sampling(self) -> dict[str, Any]:
        """How the model is asked."""
        told = {"temperature": self.spec.temperature, "top_p": self.spec.top_p, "top_k": self.spec.top_k}
        longest = self.requests[0].max_tokens if self.requests else None
        return {name: value for name, value in (told | {"max_tokens": longest}).items() if value is not None}


class GoldenFile:
    """golden.jsonl: a line for each answer, there before the next is awaited. An `AnswerCache` by content."""

    def __init__(self, path: Path, questions: Questions) -> None:
        self.path = path
        self._asked = dict(zip(questions.keys, zip(questions.rows, questions.requests, strict=True), strict=True))
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, Any]] = {}
        self._read()

    def __len__(self) -> int:
        return len(self._kept)

    def _read(self) -> None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        lines = data.split(b"\n")
        whole = b""
        for number, line in enumerate(lines):
            if not line:
                continue
            try:
                entry = json.loads(line)
                key, answer = entry["key"], entry["answer"]
            except (ValueError, KeyError, TypeError):
                if number == len(lines) - 1:  # torn by a kill
                    continue
                raise LlmtuneError(
                    f"{self.path} line {number + 1} is damaged", hint="take the line out; its question is asked again"
                ) from None
            calls = [
                {"id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
                for call in entry.get("tool_calls", ())
            ]
            told = {name: entry.get(name) for name in ("prompt_tokens", "completion_tokens", "seconds")}
            self._kept[key] = {"text": answer, "finish_reason": entry["finish_reason"], "tool_calls": calls, **told}
            whole += line + b"\n"
        if whole != data:
            made = self.path.with_suffix(".mended")
            with open_private(made, "wb") as file:
                file.write(whole)
            made.replace(self.path)

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer to a question, or None."""
        return self._kept.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Append an answer; it is on the disk when this returns."""
        row, request = self._asked[key]
        line: dict[str, Any] = {"key": key, "prompt": write_messages(request.messages)}
        if request.tools:
            line["tools"] = list(request.tools)
        line["answer"] = value["text"]
        if value["tool_calls"]:
            line["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in value["tool_calls"]
            ]
        if row.answer() is not None:
            line["expected"] = row.completion()
        line |= {name: value[name] for name in ("finish_reason", "prompt_tokens", "completion_tokens", "seconds")}
        data = json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self._lock:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            self._kept[key] = value
        checkpoint("rescue-answered")

    def answers(self, questions: Questions) -> dict[str, Generation]:
        """The answers there are, by key."""
        found = {}
        for key in questions.keys:
            kept = self._kept.get(key)
            if kept is not None:
                calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in kept["tool_calls"])
                found[key] = Generation(**{**kept, "tool_calls": calls})
        return found


def at_most(cost: float) -> str:
    """An upper bound in words; what is not nothing is not shown as 0.00."""
    return "less than 0.01" if 0 < cost < 0.005 else f"at most {cost:,.2f}"


def estimate(
    questions: Questions, provider: Provider, base: str, known: GoldenFile, *, answered: bool = False
) -> tuple[float | None, str]:
    """What asking the questions that are left may cost in USD (None: not known), and how that was reckoned.

    With `answered`, what those that have their answer cost at most instead.
    Answers are taken to be as long as the longest allowed, so that the figure errs upward.
    """
    from llmtune.data.rendering.token_count import Counter
    from llmtune.provider.types import Target

    if not provider.hosted:
        return 0.0, "your own machine: nobody bills it"
    left = [
        (row, request)
        for key, row, request in zip(questions.keys, questions.rows, questions.requests, strict=True)
        if (known.get(key) is not None) is answered
    ]
    if not left:
        return 0.0, "no question has an answer" if answered else "every question has its answer already"
    price = provider.capabilities(Target(provider=provider.name, kind=provider.kind, model=base)).price
    count = Counter().row
    sent = sum(count(row.replace(messages=row.prompt())).total for row, _ in left)
    most = sum(request.max_tokens or 0 for _, request in left)
    if price.input is None or price.output is None:
        return None, f"{len(left)} answers, about {sent:,} tokens in, at most {most:,} out; the price is not published"
    cost = sent / 1e6 * price.input + most / 1e6 * price.output
    return cost, (
        f"{len(left)} answers: about {sent:,} tokens x {price.input:g} + at most {most:,} x {price.output:g}"
        f" {price.currency} per million = {at_most(cost)} (price of {price.checked})"
    )


def record(
    questions: Questions,
    file: GoldenFile,
    provider: Provider,
    model: ModelRef | DeploymentRef,
    *,
    patience: RetryPolicy | None = None,
    progress: Progress,
) -> GoldenSet | NotReported:
    """Ask what has no answer yet. `NotReported` when the old model cannot be asked any more; what it said is kept.

    Raises:
        TransientError: the vendor stayed unwell; calling again goes on from the answers on file.
    """
    refused = 0
    if any(file.get(key) is None for key in questions.keys):
        generator = provider.generator(model)
        if isinstance(generator, Unavailable):
            return NotReported(generator.reason)
        with generator as opened:
            answers = ask(
                opened,
                questions.requests,
                model=questions.model,
                cache=file,
                patience=patience or RetryPolicy(),
                progress=progress,
            )
        refused = sum(each.generation is None for each in answers)
    got = list(file.answers(questions).values())
    return GoldenSet(
        rows=len(questions.rows),
        answered=len(got),
        refused=refused,
        sampling=questions.sampling,
        prompt_tokens=_total([each.prompt_tokens for each in got]),
        completion_tokens=_total([each.completion_tokens for each in got]),
    )


def _total(counts: Sequence[int | None]) -> int | NotReported:
    known = [count for count in counts if count is not None]
    if len(known) < len(counts) or not known:
        return NotReported("the vendor does not report it")
    return sum(known)


class Replay:
    """The old model as the golden set remembers it: a generator that asks nobody."""

    max_concurrency = 1

    def __init__(self, questions: Questions, answers: dict[str, Generation]) -> None:
        self._answers = {
            request.messages: answers[key]
            for key, request in zip(questions.keys, questions.requests, strict=True)
            if key in answers
        }

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """The remembered answers."""
        return [self._answers[request.messages] for request in requests]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def as_reference(questions: Questions, answers: dict[str, Generation]) -> list[Example]:
    """The golden set as rows to judge by: the old model's answers in the place of the reference answers."""
    rows = []
    for key, row, request in zip(questions.keys, questions.rows, questions.requests, strict=True):
        if key in answers:
            told = answers[key]
            reply = Message("assistant", told.text or None, tool_calls=tuple(told.tool_calls))
            rows.append(Example((*request.messages, reply), row.tools, line=row.line))
    return rows


#: Asked before anything is sent: (what it may cost or None, how that was reckoned, sampling).
Confirm = Callable[[float | None, str, dict[str, Any]], None]


def stopped(until: date | None, today: date) -> str | None:
    """Why the old model is not asked any more, by the calendar."""
    return f"it stopped answering on {until}" if until is not None and until <= today else None
