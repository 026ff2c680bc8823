"""Replay: the model's own answers, from before training, mixed into every step against forgetting.

Before the first step the model answers prompts that have nothing to do with the task (`replay_prompts.jsonl`: sums,
questions about short texts, instructions, JSON, eight languages, refusals). Every step then has some of those rows
beside its own, weighted so that they make up the asked share of the step's loss, exactly. The answers lie in the run
folder, so that a resumed run learns from the same ones.

Rehearsal of earlier data against forgetting: Robins 1995 (Connection Science 7:123), there with outputs of the network
itself; for language models Scialom et al. 2022, arXiv:2205.12393.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import torch

from llmtune.data.example import Example
from llmtune.data.formats.registry import detect
from llmtune.data.io.reading import read_rows
from llmtune.errors import InvalidData
from llmtune.provider import GenerationRequest
from llmtune_local.batching.token_rows import TokenRow
from llmtune_local.inference.generator import GeneratedAnswer, Question, answer_tokens
from llmtune_local.models import fused_lora
from llmtune_local.run_state.run_dir import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.models.model_runner import Network

#: The prompts, one chat row without an answer a line.
PROMPTS = Path(__file__).with_name("replay_prompts.jsonl")

#: Tokens of an answer at most. Of a longer one these are learned, and not that it ends there.
ANSWER_TOKENS = 96

#: Prompts that are answered side by side.
_BATCH = 16


class Replay:
    """The rows that are replayed, and which of them a step takes. `share` is that of the step's loss, in (0, 0.5]."""

    def __init__(self, rows: Sequence[TokenRow], *, share: float, batch_size: int, seed: int) -> None:
        if not rows:
            raise InvalidData(
                "replay_share: the model answers none of the prompts, so that there is nothing to replay",
                hint="leave replay_share out: this base model answers no questions",
            )
        self.rows = rows
        self._ratio = share / (1 - share)
        self._seed = seed
        self.rows_per_step = count_needed(share, batch_size, 1)
        """Rows beside a step's own: as many as the share asks for, where rows are alike in length."""

    def rows_of_step(self, step: int, task_weight: float, prompt_weight: float = 0.0) -> list[TokenRow]:
        """Return the rows that a step (counted from 0) replays, weighted against the `task_weight` of its own rows.

        `prompt_weight` is that of prompt tokens in the loss.

        All rows come once, in another order each time, before one comes again.
        """
        first = step * self.rows_per_step
        count = len(self.rows)
        numbers = range(first, first + self.rows_per_step)
        orders = {number // count: self._order(number // count) for number in numbers}
        chosen = [self.rows[orders[number // count][number % count]] for number in numbers]
        weight = self._ratio * task_weight / sum(row.total_weight(prompt_weight) for row in chosen)
        return [replace(row, weight=weight) for row in chosen]

    def _order(self, turn: int) -> list[int]:
        """Return the order in which the rows come for the `turn`-th time (counted from 0)."""
        order = list(range(len(self.rows)))
        random.Random(f"{self._seed}/replay/{turn}").shuffle(order)
        return order


def count_needed(share: float, batch_size: int, steps: int) -> int:
    """Return how many prompts so many steps replay, if each comes once."""
    return steps * max(1, round(batch_size * share / (1 - share)))


def read_prompts(count: int, seed: int) -> list[Example]:
    """Return up to `count` of the prompts, chosen by the seed."""
    lines = PROMPTS.read_bytes().splitlines()
    random.Random(f"{seed}/replay").shuffle(lines)
    return [example for line in lines[:count] for example in _read_row(orjson.loads(line))]


def answer_prompts(
    network: Network,
    renderer: Renderer,
    prompts: Sequence[Example],
    *,
    context: int | None,
    on_progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Return the model's greedy answers as `ids` with `prompt_tokens`, and as `text` to look at.

    Prompts that the template refuses or the context has no room for, and empty answers, are left out. The model must be
    in evaluation mode.
    """
    request = GenerationRequest(messages=(), max_tokens=ANSWER_TOKENS)
    questions: list[Question] = []
    for number, prompt in enumerate(prompts):
        try:
            ids = renderer.prompt_ids(prompt.messages, ())
        except InvalidData:  # a template without system turns
            continue
        room = ANSWER_TOKENS if context is None else min(ANSWER_TOKENS, context - len(ids))
        if ids and room > 0:
            questions.append(Question(number, request, ids, room))
    questions.sort(key=lambda question: len(question.prompt))  # little padding
    answers: dict[int, GeneratedAnswer] = {}
    try:
        with torch.no_grad(), network.autocast(), network.unpacked():
            for start in range(0, len(questions), _BATCH):
                group = questions[start : start + _BATCH]
                answers |= {answer.index: answer for answer in answer_tokens(network, renderer, group)}
                fused_lora.clear_cache()
                on_progress(start + len(group))
    finally:
        fused_lora.clear_cache()
    return [
        {
            "ids": [*answer.prompt, *answer.tokens],
            "prompt_tokens": len(answer.prompt),
            "text": text,
        }
        for _, answer in sorted(answers.items())
        if (text := answer.text(renderer.tokenizer))
    ]


def store_answers(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the answered rows, whole or not at all."""
    write_atomically(path, "".join(f"{orjson.dumps(row).decode()}\n" for row in rows))


def load_rows(path: Path, *, limit: int | None) -> list[TokenRow]:
    """Read answered rows; those longer than the limit of training rows are left out.

    An answer that did not end within its tokens has no end of turn, so none is learned.

    Raises:
        InvalidData: the file is not what was written.
    """
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = orjson.loads(line)
            ids = np.array(row["ids"], dtype=np.int32)
            completion = np.arange(len(ids)) >= int(row["prompt_tokens"])
        except (ValueError, KeyError, TypeError):
            raise InvalidData(f"{path}: damaged", hint="start the run again with --new") from None
        if limit is None or len(ids) <= limit:
            rows.append(TokenRow(ids, completion))
    return rows


def _read_row(row: dict[str, Any]) -> list[Example]:
    row_format = detect(row)
    return (
        [] if row_format is None else [read for read in read_rows([(0, row)], row_format) if isinstance(read, Example)]
    )
