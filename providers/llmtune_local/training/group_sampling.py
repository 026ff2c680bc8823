"""Groups of answers: the prompts of a file, the answers that the model samples to them, and what the grader pays.

Each answer's random numbers are a function of the run's seed, the step and the answer's number, so that a step that is
taken up again samples the same answers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llmtune.errors import InvalidData, InvalidJob
from llmtune.graders.job_trial import make_row
from llmtune.graders.scoring import Answer, GraderProcess, get_range, read_tool_calls
from llmtune.provider import GenerationRequest
from llmtune_local.batching.answer_groups import SampledTokens
from llmtune_local.batching.token_rows import TokenRow, TokenRows
from llmtune_local.inference import prefix_cache
from llmtune_local.inference.generator import Question, answer_tokens, group_prompts
from llmtune_local.inference.tool_call_parser import with_calls
from llmtune_local.models import fused_lora

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmtune.data.rendering.tokenize import Renderer
    from llmtune.job.graders import Grader
    from llmtune_local.models.model_runner import Network


@dataclass(frozen=True, slots=True)
class PromptRow(TokenRow):
    """A prompt as tokens, with the row as the grader is given it, and the tools that an answer may call."""

    graded: dict[str, Any] = field(default_factory=dict)
    tools: tuple[dict[str, Any], ...] = ()


def read_prompts(renderer: Renderer, path: str, grader: Grader, *, limit: int | None, on_too_long: str) -> TokenRows:
    """Read a canonical file as prompts. Raises `InvalidData` for one that leaves no room for an answer.

    With `on_too_long` drop such a row is left out instead; a prompt cannot be cut without changing the question.
    """
    from llmtune.data.io.reading import load

    rows: list[tuple[TokenRow, ...]] = []
    prompts = TokenRows(rows)
    for number, example in enumerate(load(path), 1):
        ids = renderer.prompt_ids(example.prompt(), example.tools)
        if limit is not None and len(ids) >= limit:
            if on_too_long != "drop":
                raise InvalidData(
                    f"{path}:{number}: the prompt has {len(ids):,} tokens and the limit is {limit:,}, its answer"
                    " included",
                    hint="shorten it, or set dataset.on_too_long to drop",
                )
            prompts.dropped += 1
            continue
        tokens = np.array(ids, dtype=np.int32)
        prompt = PromptRow(
            tokens,
            np.zeros(len(ids), dtype=np.bool_),
            graded=make_row(grader, example),
            tools=tuple(map(dict, example.tools)),
        )
        rows.append((prompt,))
    return prompts


@dataclass(frozen=True)
class GradedAnswer:
    """A sampled answer and its reward; `fault` says why the grader did not score it, "" where it did."""

    tokens: SampledTokens
    reward: float
    truncated: bool
    """Whether it was ended by its limit of tokens."""

    fault: str = ""


class GroupSampler:
    """The model that answers prompts, and the open grader that scores its answers."""

    def __init__(
        self,
        network: Network,
        renderer: Renderer,
        grader: GraderProcess,
        *,
        answer_tokens: int,
        limit: int | None,
        after_token: Callable[[], None],
    ) -> None:
        self._network, self._renderer, self._grader = network, renderer, grader
        self._answer_tokens, self._limit = answer_tokens, limit
        self._after_token = after_token
        self._lowest = get_range(grader.grader)[0]
        self._copies = prefix_cache.supports_prefix_cache(network)

    def sample(self, rows: Sequence[PromptRow], *, count: int, temperature: float, seed: str) -> list[GradedAnswer]:
        """Return `count` answers to each prompt, in order.

        Temperature 0 is greedy. The model must be in evaluation mode. An answer that the grader cannot score has the
        lowest reward. Raises `InvalidJob` where it scores none of them.
        """
        questions: dict[int, list[Question]] = {}
        for group, row in enumerate(rows):
            prompt = tuple(row.ids.tolist())
            limit = self._answer_tokens if self._limit is None else min(self._answer_tokens, self._limit - len(prompt))
            questions[group] = [
                Question(
                    number,
                    GenerationRequest(
                        messages=(),
                        tools=row.tools,
                        temperature=temperature,
                        seed=random.Random(f"{seed}/{number}").getrandbits(63),
                    ),
                    prompt,
                    limit,
                )
                for number in range(group * count, (group + 1) * count)
            ]
        answers = self._generate(questions, count)
        graded = [
            self._grade(rows[group], group, answers[question.number], question)
            for group, group_questions in questions.items()
            for question in group_questions
        ]
        if all(answer.fault for answer in graded):
            raise InvalidJob(
                f"the grader scores none of {len(graded)} answers: {graded[0].fault}",
                where="grader",
                hint="llmtune grade GRADER ROWS shows what it does with answers",
            )
        return graded

    def _generate(self, questions: dict[int, list[Question]], count: int) -> dict[int, Any]:
        network = self._network
        first = [questions[group][0] for group in sorted(questions)]
        answers = {}
        try:
            with torch.no_grad(), network.autocast(), network.unpacked():
                shared = prefix_cache.shared_prefix([question.prompt for question in first]) if self._copies else 0
                prefix = prefix_cache.Prefix(network, first[0].prompt[:shared]) if shared else None
                copies = count if self._copies else 1
                lengths, limits = [len(question.prompt) for question in first], [question.limit for question in first]
                for groups in group_prompts(lengths, limits, count):
                    batch = [question for group in groups for question in questions[group]]
                    for answer in answer_tokens(
                        network, self._renderer, batch, prefix, copies=copies, after_token=self._after_token
                    ):
                        answers[answer.index] = answer
        finally:
            fused_lora.clear_cache()  # the weights change before the model runs again
        return answers

    def _grade(self, row: PromptRow, group: int, answer: Any, question: Question) -> GradedAnswer:
        generation = with_calls(answer.done(self._renderer.tokenizer, 0.0), question.request)
        calls = [{"name": call.name, "arguments": call.arguments} for call in generation.tool_calls]
        score = self._grader.score(row.graded, Answer(generation.text, tuple(read_tool_calls(calls))))
        return GradedAnswer(
            tokens=SampledTokens(question.prompt, tuple(answer.tokens), group),
            reward=self._lowest if score.value is None else score.value,
            truncated=answer.reason == "length",
            fault="" if score.value is not None else score.error or "it returned nothing",
        )
