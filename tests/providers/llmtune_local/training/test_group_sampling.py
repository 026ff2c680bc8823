"""Groups of sampled answers: drawn from the model's own distribution, the same again for the same seed, and scored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.data.rendering.tokenize import Renderer
from llmtune.graders import GraderProcess, make_grader
from llmtune_local.models.model_runner import Network
from llmtune_local.training.group_sampling import GroupSampler, PromptRow, read_prompts

LONG = " ".join(["again"] * 30)


@pytest.fixture
def rows(tmp_path: Path, tokenizers: Callable[[str], Any]) -> list[Any]:
    path = tmp_path / "prompts.jsonl"
    questions = [f"{LONG} one", f"{LONG} two", "three"]
    lines = [{"messages": [{"role": "user", "content": text}], "letter": "e"} for text in questions]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    grader = make_grader({"kind": "match", "operation": "contains", "reference": "letter"})
    prompts = read_prompts(Renderer(tokenizers("chatml")), str(path), grader, limit=None, on_too_long="")
    return [row for (row,) in prompts.rows]


@pytest.fixture
def make_sampler(
    random_model: Callable[..., Any], tokenizers: Callable[[str], Any]
) -> Iterator[Callable[..., GroupSampler]]:
    tokenizer = tokenizers("chatml")
    model = random_model(
        "llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, initializer_range=0.2
    ).eval()
    network = Network(model, device="cpu", dtype=torch.float32)
    opened = []

    def make(grader: dict[str, Any] | None = None, *, answer_tokens: int = 8, limit: int | None = None) -> GroupSampler:
        process = GraderProcess(
            make_grader(grader or {"kind": "match", "operation": "contains", "reference": "letter"})
        )
        opened.append(process)
        process.__enter__()
        return GroupSampler(
            network, Renderer(tokenizer), process, answer_tokens=answer_tokens, limit=limit, after_token=lambda: None
        )

    yield make
    for process in opened:
        process.__exit__(None, None, None)


def test_answers_are_the_same_for_a_seed_and_others_for_another(make_sampler: Any, rows: list[Any]) -> None:
    sampler = make_sampler()
    answers = sampler.sample(rows, count=4, temperature=1.0, seed="0/1")
    again = sampler.sample(rows, count=4, temperature=1.0, seed="0/1")
    others = sampler.sample(rows, count=4, temperature=1.0, seed="0/2")
    assert answers == again
    assert [answer.tokens.answer for answer in answers] != [answer.tokens.answer for answer in others]
    assert [answer.tokens.group for answer in answers] == [0] * 4 + [1] * 4 + [2] * 4
    assert [answer.tokens.prompt for answer in answers[::4]] == [tuple(row.ids.tolist()) for row in rows]
    assert len({answer.tokens.answer for answer in answers[:4]}) > 1
    assert all(answer.truncated == (len(answer.tokens.answer) == 8) for answer in answers)


def test_a_shared_prefix_changes_no_answer(make_sampler: Any, rows: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shared = make_sampler()
    assert shared._copies
    monkeypatch.setattr("llmtune_local.inference.prefix_cache.supports_prefix_cache", lambda network: False)
    copied = make_sampler()
    answers = [sampler.sample(rows, count=4, temperature=1.0, seed="3/4") for sampler in (shared, copied)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_are_drawn_from_the_models_own_distribution(
    temperature: float, make_sampler: Any, rows: list[Any]
) -> None:
    sampler, count = make_sampler(answer_tokens=1), 1000
    drawn = Counter(
        answer.tokens.answer[0] for answer in sampler.sample(rows[:1], count=count, temperature=temperature, seed="0/0")
    )
    with torch.no_grad(), sampler._network.unpacked():
        logits = sampler._network.causal(torch.tensor(rows[0].ids.tolist()).unsqueeze(0)).logits[0, -1]
    shares = torch.softmax(logits / temperature, 0)
    likeliest = shares.topk(5).indices.tolist()
    for token in likeliest:  # five standard deviations: the seed is fixed, and another machine rounds otherwise
        deviation = float((count * shares[token] * (1 - shares[token])).sqrt())
        assert abs(drawn[token] - count * float(shares[token])) < 5 * deviation + 1


def test_greedy_answers_are_the_likeliest_tokens(make_sampler: Any, rows: list[Any]) -> None:
    sampler = make_sampler(answer_tokens=4)
    for answer in sampler.sample(rows, count=1, temperature=0.0, seed=""):
        ids = list(answer.tokens.prompt)
        for token in answer.tokens.answer:
            with torch.no_grad(), sampler._network.unpacked():
                assert int(sampler._network.causal(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_prompt_and_answer_stay_within_the_limit(make_sampler: Any, rows: list[Any]) -> None:
    limit = len(rows[0].ids) + 2
    answers = make_sampler(limit=limit).sample(rows, count=2, temperature=1.0, seed="0/0")
    assert all(answer.tokens.tokens <= limit for answer in answers)
    assert max(len(answer.tokens.answer) for answer in answers[:2]) <= 2


def test_calls_are_read_from_the_answer_and_scored(
    make_sampler: Any, rows: list[Any], tokenizers: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text that the model writes is stood in for; what is made of it is the sampler's own."""
    call = '<tool_call>\n{"name": "find", "arguments": {"n": 7}}\n</tool_call>'
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": '{"n": 7}'}}]}
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    row = PromptRow(rows[2].ids, rows[2].completion, graded={"messages": [turn]}, tools=(tool,))
    sampler = make_sampler({"kind": "tool_call"})
    assert {answer.reward for answer in sampler.sample([row], count=2, temperature=1.0, seed="0/0")} == {0.0}
    monkeypatch.setattr(tokenizers("chatml").__class__, "decode", lambda *_, **__: call)
    assert {answer.reward for answer in sampler.sample([row], count=2, temperature=1.0, seed="0/0")} == {1.0}
