"""Replay: the model's own answers have exactly the asked share of each step's loss, in a resumed run too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmtune.errors import InvalidData
from llmtune.evaluation.panel.questions import load_panel
from llmtune_local.batching.token_rows import TokenRow
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training import replay
from llmtune_local.training.progress import Stopped
from llmtune_local.training.registry import trainer_for
from llmtune_local.training.replay import Replay
from llmtune_local.training.trainer import Trainer

Train = Callable[..., Trainer]


def losses(trainer: Trainer, name: str = "train/loss") -> dict[int, float]:
    return {line.step: line.value for line in trainer.folder.read_metrics()[0] if line.series == name}


def rows_of(count: int, tokens: int = 8) -> list[TokenRow]:
    mask = np.arange(tokens) >= 3
    return [TokenRow(np.full(tokens, number, dtype=np.int32), mask) for number in range(count)]


@pytest.mark.parametrize("prompt_weight", [0.0, 0.3])
def test_the_share_of_the_loss_is_exact(prompt_weight: float, train: Train, base_folder: Path) -> None:
    """The first step's loss against the base model's own log-probabilities, token by token, of both kinds of rows."""
    from transformers import AutoModelForCausalLM

    trainer = train(prompt_loss_weight=prompt_weight, batch_size=40, replay_share=0.25, max_steps=1)
    base = AutoModelForCausalLM.from_pretrained(base_folder).eval()

    def sums(rows: list[TokenRow]) -> tuple[float, float]:
        total, weights = 0.0, 0.0
        for row in rows:
            ids = torch.from_numpy(row.ids.astype("int64"))
            with torch.no_grad():
                logits = base(input_ids=ids.unsqueeze(0)).logits[0, :-1].double()
            nll = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            share = torch.where(torch.from_numpy(row.completion[1:]), 1.0, prompt_weight).double()
            total, weights = total + float((nll * share).sum()), weights + float(share.sum())
        return total, weights

    assert trainer.replay is not None
    assert trainer.replay.rows_per_step == 13
    task, task_weight = sums([row for (row,) in trainer.train.rows])
    chosen = trainer.replay.rows_of_step(0, task_weight, prompt_weight)
    replayed, replayed_weight = sums(chosen)
    expected = 0.75 * task / task_weight + 0.25 * replayed / replayed_weight
    assert losses(trainer)[1] == pytest.approx(expected, rel=1e-5)


def test_the_answers_are_the_models_own_from_before_training(train: Train, base_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    trainer = train(replay_share=0.2, max_steps=2, learning_rate=0.1)
    stored = [json.loads(line) for line in trainer.folder.replay.read_text().splitlines()]
    assert trainer.replay is not None
    assert trainer.resolved["replay_rows"] == len(trainer.replay.rows) == len(stored) == 4
    base = AutoModelForCausalLM.from_pretrained(base_folder).eval()
    row = trainer.replay.rows[0]
    ids = torch.from_numpy(row.ids.astype("int64"))
    with torch.no_grad():
        likeliest = base(input_ids=ids.unsqueeze(0)).logits[0, :-1].argmax(dim=1)
    produced = torch.from_numpy(row.completion[1:])
    assert (likeliest[produced] == ids[1:][produced]).float().mean() > 0.9  # but where text is tokenised otherwise
    assert any(
        "beside each step's rows, with 20% of its loss" in event.message for event in trainer.folder.read_events()[0]
    )


def test_a_stopped_run_learns_from_the_same_answers(
    make_request: Callable[..., Any], train: Train, tmp_path: Path
) -> None:
    straight = train(replay_share=0.3, epochs=2)
    request = make_request(replay_share=0.3, epochs=2, checkpoint_every=2)
    folder = RunDir(tmp_path / "stopped")
    folder.write_request(request)
    with StatusWriter(folder) as journal:
        trainer = trainer_for(request)(folder, request, journal, lambda: len(losses(trainer)) >= 4)
        with pytest.raises(Stopped):
            trainer.run()
    answers = folder.replay.read_bytes()
    with StatusWriter(folder) as journal:
        resumed = trainer_for(request)(folder, request, journal, lambda: False)
        resumed.run(resume=True)
    assert folder.replay.read_bytes() == answers
    assert losses(resumed) == pytest.approx(losses(straight), rel=1e-6)


def test_stopped_while_answering_it_answers_again(make_request: Callable[..., Any], tmp_path: Path) -> None:
    request = make_request(replay_share=0.3, max_steps=2)
    folder = RunDir(tmp_path / "early")
    folder.write_request(request)
    with StatusWriter(folder) as journal:
        with pytest.raises(Stopped):
            trainer_for(request)(folder, request, journal, lambda: True).run()
        assert not folder.replay.exists()
        again = trainer_for(request)(folder, request, journal, lambda: False)
        again.run(resume=True)
    assert folder.replay.exists()
    assert list(losses(again)) == [1, 2]


def test_damaged_answers_are_named(make_request: Callable[..., Any], tmp_path: Path) -> None:
    request = make_request(replay_share=0.3, max_steps=2)
    folder = RunDir(tmp_path / "damaged")
    folder.write_request(request)
    folder.replay.write_text('{"ids": [1, 2')
    with StatusWriter(folder) as journal, pytest.raises(InvalidData, match=r"replay\.jsonl: damaged"):
        trainer_for(request)(folder, request, journal, lambda: False).run()


def test_a_model_that_answers_nothing_has_nothing_to_replay() -> None:
    with pytest.raises(InvalidData, match="answers none of the prompts"):
        Replay([], share=0.1, batch_size=8, seed=0)


def test_every_answer_comes_once_before_one_comes_again() -> None:
    rows = Replay(rows_of(10), share=0.2, batch_size=12, seed=3)  # three beside twelve
    assert rows.rows_per_step == 3
    taken = [int(row.ids[0]) for step in range(10) for row in rows.rows_of_step(step, 60.0)]
    assert all(Counter(taken[start : start + 10]) == Counter(range(10)) for start in range(0, 30, 10))
    assert taken[:10] != taken[10:20]
    assert [row.weight for row in rows.rows_of_step(0, 60.0)] == pytest.approx([0.25 * 60 / 15] * 3)
    few = Replay(rows_of(2), share=0.5, batch_size=5, seed=0)  # fewer answers than rows beside a step
    assert Counter(int(row.ids[0]) for row in few.rows_of_step(0, 1.0)).total() == 5


def test_longer_answers_than_training_rows_may_be_are_left_out(tmp_path: Path) -> None:
    rows = [{"ids": list(range(tokens)), "prompt_tokens": 2, "text": "x"} for tokens in (5, 9)]
    replay.store_answers(tmp_path / "replay.jsonl", rows)
    (row,) = replay.load_rows(tmp_path / "replay.jsonl", limit=8)
    assert row.completion.tolist() == [False, False, True, True, True]
    assert len(replay.load_rows(tmp_path / "replay.jsonl", limit=None)) == 2


def test_the_prompts_are_chat_rows_and_no_questions_of_the_panel() -> None:
    prompts = replay.read_prompts(10_000, seed=0)
    texts = [" ".join(str(turn.content) for turn in prompt.messages) for prompt in prompts]
    assert len(set(texts)) == len(texts) >= 150
    assert all(prompt.messages[-1].role == "user" for prompt in prompts)
    asked = {" ".join(str(turn.content) for turn in row.prompt()) for row in load_panel("general").rows}
    assert not asked & set(texts)
    assert replay.read_prompts(20, seed=1) != replay.read_prompts(20, seed=2)
