"""The golden set: the old model's answers, recorded while it still answers. One line per answer, none asked twice."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._retry import RetryPolicy
from llmtune._safety.operating_system import get_binary_flag
from llmtune._safety.private_files import open_private
from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.formats.chat import write_messages
from llmtune.errors import LlmtuneError
from llmtune.evaluation.cache import answer_key
from llmtune.evaluation.inference import generate_answers
from llmtune.evaluation.replay import Replay
from llmtune.evaluation.sampling import build_requests, subsample, token_limit
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.points import NotReported
from llmtune.provider.generation import Generation, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import DeploymentRef, ModelRef
from llmtune.rescues.results import GoldenSet
from llmtune.runs.failpoints import failpoint

if TYPE_CHECKING:
    from llmtune.evaluation.inference import Progress


class Questions:
    """The prompts of the golden set, each with its key and the answer it should get, where one is known."""

    def __init__(self, rows: Sequence[Example], model: str, spec: EvaluationSpec) -> None:
        self.rows = [rows[number] for number in subsample(rows, spec.max_rows)]
        self.spec = spec
        self.requests = build_requests(self.rows, spec, max_tokens=token_limit(self.rows, spec), seed=0)
        self.keys = [answer_key(model, "text", request) for request in self.requests]
        self.model = model

    @property
    def resolved_spec(self) -> EvaluationSpec:
        """The specification with its limits filled in, so that both models are asked the same."""
        longest = self.requests[0].max_tokens if self.requests else None
        return self.spec.model_copy(update={"max_tokens": longest})

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling settings of the requests, those that are set."""
        settings = {"temperature": self.spec.temperature, "top_p": self.spec.top_p, "top_k": self.spec.top_k}
        longest = self.requests[0].max_tokens if self.requests else None
        return {name: value for name, value in (settings | {"max_tokens": longest}).items() if value is not None}


class GoldenFile:
    """The file golden.jsonl: one line per answer, on disk before the next is asked. An `AnswerCache` by content."""

    def __init__(self, path: Path, questions: Questions) -> None:
        self.path = path
        self._questions = dict(zip(questions.keys, zip(questions.rows, questions.requests, strict=True), strict=True))
        self._lock = threading.Lock()
        self._answers: dict[str, dict[str, Any]] = {}
        self._read()

    def __len__(self) -> int:
        return len(self._answers)

    def _read(self) -> None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        lines = data.split(b"\n")
        intact = b""
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
            usage = {name: entry.get(name) for name in ("prompt_tokens", "completion_tokens", "seconds")}
            self._answers[key] = {"text": answer, "finish_reason": entry["finish_reason"], "tool_calls": calls, **usage}
            intact += line + b"\n"
        if intact != data:
            repaired = self.path.with_suffix(".repaired")
            with open_private(repaired, "wb") as file:
                file.write(intact)
            repaired.replace(self.path)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the answer to a question, or None."""
        return self._answers.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Append an answer; it is on the disk when this returns."""
        row, request = self._questions[key]
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
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | get_binary_flag(), 0o600)
            try:
                os.write(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            self._answers[key] = value
        failpoint("rescue-answered")

    def answers(self, questions: Questions) -> dict[str, Generation]:
        """Return the answers on file, by key."""
        generations = {}
        for key in questions.keys:
            answer = self._answers.get(key)
            if answer is not None:
                calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in answer["tool_calls"])
                generations[key] = Generation(**{**answer, "tool_calls": calls})
        return generations


def format_upper_bound(cost: float) -> str:
    """Return an upper bound in words; a small cost is not shown as 0.00."""
    return "less than 0.01" if 0 < cost < 0.005 else f"at most {cost:,.2f}"


def estimate_cost(
    questions: Questions, provider: Provider, base: str, golden_file: GoldenFile, *, answered: bool = False
) -> tuple[float | None, str]:
    """Estimate the cost in USD of asking the open questions (None: not known). Returns it with its formula.

    With `answered`, the cost of the answers on file instead. Each answer is counted with the most tokens allowed, so
    the figure is an upper bound.
    """
    from llmtune.data.rendering.token_count import Counter
    from llmtune.provider.types import Target

    if not provider.hosted:
        return 0.0, "your own machine: it is not billed"
    remaining = [
        (row, request)
        for key, row, request in zip(questions.keys, questions.rows, questions.requests, strict=True)
        if (golden_file.get(key) is not None) is answered
    ]
    if not remaining:
        return 0.0, "no question has an answer" if answered else "every question has its answer already"
    price = provider.capabilities(Target(provider=provider.name, kind=provider.kind, model=base)).price
    count = Counter().row
    sent = sum(count(row.replace(messages=row.prompt())).total for row, _ in remaining)
    max_output = sum(request.max_tokens or 0 for _, request in remaining)
    if price.input is None or price.output is None:
        return (
            None,
            f"{len(remaining)} answers, about {sent:,} tokens in, at most {max_output:,} out; the price is not"
            " published",
        )
    cost = sent / 1e6 * price.input + max_output / 1e6 * price.output
    return cost, (
        f"{len(remaining)} answers: about {sent:,} tokens x {price.input:g} + at most {max_output:,} x {price.output:g}"
        f" {price.currency} per million = {format_upper_bound(cost)} (price of {price.checked})"
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
    """Ask the open questions. Returns `NotReported` when the old model cannot be asked; its answers are kept.

    Raises:
        TransientError: the vendor stayed unavailable; calling again goes on from the answers on file.
    """
    refused = 0
    if any(file.get(key) is None for key in questions.keys):
        generator = provider.generator(model)
        if isinstance(generator, Unavailable):
            return NotReported(generator.reason)
        with generator as opened:
            answers = generate_answers(
                opened,
                questions.requests,
                model=questions.model,
                cache=file,
                patience=patience or RetryPolicy(),
                progress=progress,
            )
        refused = sum(answer.generation is None for answer in answers)
    generations = list(file.answers(questions).values())
    return GoldenSet(
        rows=len(questions.rows),
        answered=len(generations),
        refused=refused,
        sampling=questions.sampling,
        prompt_tokens=_sum_counts([generation.prompt_tokens for generation in generations]),
        completion_tokens=_sum_counts([generation.completion_tokens for generation in generations]),
    )


def _sum_counts(counts: Sequence[int | None]) -> int | NotReported:
    reported = [count for count in counts if count is not None]
    if len(reported) < len(counts) or not reported:
        return NotReported("the vendor does not report it")
    return sum(reported)


def replay(questions: Questions, answers: dict[str, Generation]) -> Replay:
    """Return a generator that replays the old model's recorded answers."""
    requests = zip(questions.keys, questions.requests, strict=True)
    return Replay((request, answers[key]) for key, request in requests if key in answers)


def build_reference_rows(questions: Questions, answers: dict[str, Generation]) -> list[Example]:
    """Build rows to evaluate by: the old model's answers take the place of the reference answers."""
    rows = []
    for key, row, request in zip(questions.keys, questions.rows, questions.requests, strict=True):
        if key in answers:
            generation = answers[key]
            reply = Message("assistant", generation.text or None, tool_calls=tuple(generation.tool_calls))
            rows.append(Example((*request.messages, reply), row.tools, line=row.line))
    return rows


#: Called before anything is sent, with the cost in USD (or None), its formula, and the sampling settings.
Confirm = Callable[[float | None, str, dict[str, Any]], None]


def stop_reason(until: date | None, today: date) -> str | None:
    """Return why the old model is not asked any more; None while it still answers by its shutdown date."""
    return f"it stopped answering on {until}" if until is not None and until <= today else None
