"""Sampled answers of a step, cut into micro-batches: several answers to one prompt stand behind one copy of it.

Unlike other rows, answers never share positions of their own: two that begin alike may be rewarded differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llmtune_local.batching.packing import SHARED_TOKENS, MicroBatch, PrefixGroup, pad_rows
from llmtune_local.batching.token_rows import TokenRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """An answer as it was sampled: its tokens, with the one that ended it, and those of the prompt of number `group`.

    Both are not empty. Answers of one group follow one another.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    group: int

    @property
    def tokens(self) -> int:
        """Count the tokens of prompt and answer."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class AnswerBatch:
    """Answers that go through the model at once.

    `token` [selected] numbers each trained token among those of all answers of the step, in their order.
    """

    batch: MicroBatch
    token: Tensor


@dataclass(frozen=True, slots=True)
class AnswerStep:
    """One optimizer step of answers; counts as in `packing.Step`."""

    batches: list[AnswerBatch]
    weight: float
    tokens: int
    completion_tokens: int


def make_answer_step(
    answers: Sequence[SampledTokens],
    *,
    packed: bool,
    share_prefixes: bool,
    token_budget: int,
    micro_batches: int | None = None,
    pad: int = 0,
) -> AnswerStep:
    """Cut the answers of a step, in their order, into `micro_batches`, or as many as the token budget asks for."""
    first_tokens = np.cumsum([0, *(len(answer.answer) for answer in answers)])
    parts = (
        _cut_by_budget(answers, token_budget, packed=packed, share_prefixes=share_prefixes)
        if micro_batches is None
        else _cut_evenly(answers, micro_batches)
    )
    batches = []
    for part in parts:
        chosen = [answers[index] for index in part]
        batch = _pack(chosen, share_prefixes) if packed else _pad(chosen, pad)
        numbers = [np.arange(first_tokens[index], first_tokens[index + 1]) for index in part]
        batches.append(AnswerBatch(batch, torch.from_numpy(np.concatenate(numbers).astype(np.int64))))
    return AnswerStep(
        batches,
        weight=1.0,
        tokens=sum(answer.tokens for answer in answers),
        completion_tokens=int(first_tokens[-1]),
    )


def _shared_tokens(prompt: tuple[int, ...]) -> int:
    """Count the tokens of a prompt that its answers share; the last one is each answer's own."""
    return len(prompt) - 1 if len(prompt) > SHARED_TOKENS else 0


def _cut_by_budget(
    answers: Sequence[SampledTokens], budget: int, *, packed: bool, share_prefixes: bool
) -> list[list[int]]:
    parts: list[list[int]] = []
    size = longest = 0
    for index, answer in enumerate(answers):
        begins = not parts or answers[parts[-1][-1]].group != answer.group
        shared = _shared_tokens(answer.prompt) if packed and share_prefixes else 0
        if packed:
            grown = size + answer.tokens - (0 if begins else shared)
        else:
            grown = max(longest, answer.tokens) * (len(parts[-1]) + 1 if parts else 1)
        if not parts or grown > budget:
            parts.append([])
            grown, longest = answer.tokens, 0
        parts[-1].append(index)
        size, longest = grown, max(longest, answer.tokens)
    return parts


def _cut_evenly(answers: Sequence[SampledTokens], count: int) -> list[list[int]]:
    """Make `count` parts (fewer where there are fewer answers) of about as many tokens each."""
    count = min(count, len(answers))
    ends = np.cumsum([answer.tokens for answer in answers])
    numbers = np.minimum((ends - 1) * count // ends[-1], count - 1)
    parts = [np.flatnonzero(numbers == number).tolist() for number in range(count)]
    return [part for part in parts if part]


def _pack(answers: Sequence[SampledTokens], share_prefixes: bool) -> MicroBatch:
    groups: list[list[SampledTokens]] = []
    for answer in answers:
        if groups and groups[-1][0].group == answer.group:
            groups[-1].append(answer)
        else:
            groups.append([answer])
    ids: list[Any] = []
    positions: list[Any] = []
    select: list[Any] = []
    prefix_groups: list[PrefixGroup] = []
    start = 0
    for group in groups:
        prompt = group[0].prompt
        shared = _shared_tokens(prompt) if share_prefixes and len(group) > 1 else 0
        lengths = [answer.tokens - 1 - shared for answer in group]
        prefix_groups += (
            [PrefixGroup(shared, tuple(lengths))] if shared else [PrefixGroup(0, (length,)) for length in lengths]
        )
        ids += prompt[:shared]
        positions += range(shared)
        start += shared
        for answer, length in zip(group, lengths, strict=True):
            ids += (*prompt[shared:], *answer.answer[:-1])
            positions += range(shared, shared + length)
            first = start + len(prompt) - 1 - shared
            select += range(first, first + len(answer.answer))
            start += length
    return MicroBatch(
        ids=torch.tensor([ids]),
        positions=torch.tensor([positions]),
        prefix_groups=tuple(prefix_groups),
        attention_mask=None,
        **_trained(answers, select),
    )


def _pad(answers: Sequence[SampledTokens], pad: int) -> MicroBatch:
    rows = []
    for answer in answers:
        ids = np.array(answer.prompt + answer.answer, dtype=np.int32)
        rows.append(TokenRow(ids, np.arange(len(ids)) >= len(answer.prompt)))
    fields: dict[str, Any] = pad_rows(rows, pad)
    longest = fields["ids"].shape[1]
    select = [
        index * longest + len(answer.prompt) - 1 + number
        for index, answer in enumerate(answers)
        for number in range(len(answer.answer))
    ]
    return MicroBatch(**fields, positions=None, prefix_groups=None, **_trained(answers, select))


def _trained(answers: Sequence[SampledTokens], select: list[int]) -> dict[str, Any]:
    """Return the fields of a micro-batch that say what is trained in it."""
    return {
        "select": torch.tensor(select),
        "targets": torch.tensor([token for answer in answers for token in answer.answer]),
        "weights": torch.ones(len(select)),
        "completion": torch.ones(len(select), dtype=torch.int64),
        "tokens": sum(answer.tokens for answer in answers),
    }
