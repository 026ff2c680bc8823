"""Answers of a step in micro-batches: every token once, in its place, whatever the budget."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune_local.batching.answer_groups import SampledTokens, make_answer_step

LONG = tuple(range(100, 160))
ANSWERS = [
    SampledTokens(LONG, (1, 2, 3), 0),
    SampledTokens(LONG, (4,), 0),
    SampledTokens(LONG, (1, 2, 5, 6), 0),
    SampledTokens((7, 8), (9, 1), 1),
    SampledTokens((7, 8), (9, 2, 3), 1),
]
EXPECTED = [token for answer in ANSWERS for token in answer.answer]


def contexts(step: Any) -> dict[int, tuple[tuple[int, ...], int]]:
    """Return of each trained token what the model sees before it, and the token, read back from the batches."""
    found = {}
    for answers in step.batches:
        batch = answers.batch
        seen: dict[int, tuple[int, ...]] = {}
        if batch.prefix_groups is None:
            for row, ids in enumerate(batch.ids.tolist()):
                seen |= {row * len(ids) + at: tuple(ids[: at + 1]) for at in range(len(ids))}
        else:
            ids, at = batch.ids[0].tolist(), 0
            for group in batch.prefix_groups:
                prefix = tuple(ids[at : at + group.shared])
                at += group.shared
                for length in group.own:
                    own = ids[at : at + length]
                    seen |= {at + count: prefix + tuple(own[: count + 1]) for count in range(length)}
                    assert batch.positions[0, at : at + length].tolist() == list(
                        range(group.shared, group.shared + length)
                    )
                    at += length
            assert at == len(ids)
        for token, place, target in zip(
            answers.token.tolist(), batch.select.tolist(), batch.targets.tolist(), strict=True
        ):
            assert token not in found
            found[token] = (seen[place], target)
    return found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("share_prefixes", [True, False])
@pytest.mark.parametrize(("budget", "micro_batches"), [(10_000, None), (70, None), (1, None), (10_000, 2), (1, 9)])
def test_each_token_is_trained_once_behind_its_prompt(
    packed: bool, share_prefixes: bool, budget: int, micro_batches: int | None
) -> None:
    step = make_answer_step(
        ANSWERS,
        packed=packed,
        share_prefixes=share_prefixes,
        token_budget=budget,
        micro_batches=micro_batches,
    )
    expected = {}
    for answer in ANSWERS:
        for count, token in enumerate(answer.answer):
            expected[len(expected)] = (answer.prompt + answer.answer[:count], token)
    assert contexts(step) == expected
    assert step.completion_tokens == len(EXPECTED)
    assert step.tokens == sum(answer.tokens for answer in ANSWERS)


def test_a_long_prompt_is_there_once_for_its_answers() -> None:
    shared = make_answer_step(ANSWERS, packed=True, share_prefixes=True, token_budget=10_000)
    copied = make_answer_step(ANSWERS, packed=True, share_prefixes=False, token_budget=10_000)
    assert copied.batches[0].batch.ids.numel() - shared.batches[0].batch.ids.numel() == 2 * (len(LONG) - 1)


def test_the_budget_counts_what_is_shared_once() -> None:
    step = make_answer_step(ANSWERS[:3], packed=True, share_prefixes=True, token_budget=75)
    assert len(step.batches) == 1
    assert len(make_answer_step(ANSWERS[:3], packed=True, share_prefixes=False, token_budget=75).batches) == 3
    assert len(make_answer_step(ANSWERS[:3], packed=False, share_prefixes=True, token_budget=130).batches) == 2


def test_parts_are_about_equal() -> None:
    step = make_answer_step(ANSWERS[:3], packed=True, share_prefixes=True, token_budget=1, micro_batches=3)
    assert [len(batch.token) for batch in step.batches] == [3, 1, 4]
