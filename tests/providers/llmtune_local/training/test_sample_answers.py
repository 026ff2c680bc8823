"""Answers while training: the model's own, to the same validation rows each time, and the training is not touched."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.data.example import Message
from llmtune.provider import GenerationRequest
from llmtune_local.inference.generator import LocalGenerator
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import Cursor, SampleLine
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training import sample_answers
from llmtune_local.training.registry import trainer_for
from llmtune_local.training.sample_answers import ANSWER_TOKENS, SampleAnswers, choose_rows
from llmtune_local.training.trainer import Trainer

Train = Callable[..., Trainer]


def answers(trainer: Trainer) -> list[SampleLine]:
    return trainer.folder.read_samples()[0]


def by_step(trainer: Trainer) -> dict[int, list[tuple[int, str, str]]]:
    steps: dict[int, list[tuple[int, str, str]]] = {}
    for line in answers(trainer):
        steps.setdefault(line.step, []).append((line.number, line.prompt, line.expected))
    return steps


def test_the_same_rows_are_answered_at_the_start_at_each_validation_and_at_the_end(
    train: Train, data: dict[str, str]
) -> None:
    trainer = train({"samples": 2}, eval_every=2)
    steps = by_step(trainer)
    assert trainer.total == 5
    assert list(steps) == [0, 2, 4, 5]
    assert len({tuple(rows) for rows in steps.values()}) == 1
    assert [number for number, _, _ in steps[0]] == [1, 2]
    rows = [json.loads(line)["messages"] for line in Path(data["validation"]).read_text().splitlines()]
    assert {(row[0]["content"], row[1]["content"]) for row in rows} >= {row[1:] for row in steps[0]}
    assert trainer.resolved["evaluation.samples"] == 2


def test_the_last_answers_are_those_of_the_tuned_model(train: Train, base_folder: Path) -> None:
    trainer = train({"samples": 3}, epochs=3)
    last = [line for line in answers(trainer) if line.step == trainer.total]
    requests = [GenerationRequest(messages=(Message("user", line.prompt),), max_tokens=ANSWER_TOKENS) for line in last]
    options = {"device": "cpu", "num_threads": 1}
    with LocalGenerator(model=str(base_folder), artefact=trainer.folder.adapter, options=options) as generator:
        assert [line.answer for line in last] == [answer.text for answer in generator.generate(requests)]
    assert any(line.answer for line in last)


def test_answers_change_nothing_that_is_learned(train: Train) -> None:
    dropout = {"lora_dropout": 0.2, "epochs": 2, "eval_every": 1}
    with_answers, without = train({"samples": 3}, **dropout), train({"samples": 0}, **dropout)
    assert answers(without) == []
    assert not without.folder.samples.exists()
    assert "evaluation.samples" not in without.resolved
    for (name, first), (_, second) in zip(
        with_answers.model.named_parameters(), without.model.named_parameters(), strict=True
    ):
        assert torch.equal(first, second), name


def test_unless_the_job_asks_they_come_at_the_start_and_the_end_and_between_while_they_are_cheap(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(sample_answers, "clock", lambda: float(next(ticks)))
    expensive = train(eval_every=1)
    assert list(by_step(expensive)) == [0, 5]
    assert len(by_step(expensive)[0]) == sample_answers.ROWS
    monkeypatch.setattr(sample_answers, "clock", lambda: 0.0)
    assert list(by_step(train(eval_every=1))) == [0, 1, 2, 3, 4, 5]
    assert list(by_step(train({"samples": 1}, eval_every=1))) == [0, 1, 2, 3, 4, 5]


def test_their_time_is_no_time_in_steps_and_is_expected_of_what_is_ahead(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(sample_answers, "clock", lambda: float(next(ticks)))
    trainer = train({"samples": 1}, eval_every=2)
    assert trainer.progress.sample_seconds == 4000
    assert trainer.progress.training_seconds < 1000
    trainer.progress.step = 1
    left = trainer._seconds_left()
    assert left is not None
    assert 3000 <= left < 4000  # validations at steps 2, 4 and 5


def test_a_run_without_validation_rows_has_none(train: Train, data: dict[str, str]) -> None:
    assert answers(train({"samples": 2, "files": {"train": data["train"]}})) == []


def test_a_stop_ends_them_and_a_resumed_run_asks_the_same_rows(
    tmp_path: Path, make_request: Callable[..., Any], train: Train
) -> None:
    request = make_request({"samples": 2}, eval_every=1)
    folder = RunDir(tmp_path / "stopped")
    folder.write_request(request)
    stopped = trainer_for(request)(folder, request, StatusWriter(folder), lambda: True)
    stopped.setup()
    assert stopped.sample_answers is not None
    stopped.model.eval()
    assert stopped.sample_answers.answer(0, lambda: False) == []
    again = trainer_for(request)(folder, request, StatusWriter(folder), lambda: False)
    assert again.run(resume=True) is not None
    assert by_step(again) == by_step(train({"samples": 2}, eval_every=1))


def test_a_model_that_cannot_answer_is_trained_all_the_same(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[SampleLine]:
        raise NotImplementedError("this model has no cache\nand says more")

    monkeypatch.setattr(SampleAnswers, "answer", refuse)
    trainer = train({"samples": 2}, eval_every=1)
    assert trainer.progress.step == trainer.total
    warnings = [event.message for event in trainer.folder.read_events()[0] if event.level == "warning"]
    assert warnings == ["no more answers are shown while training: NotImplementedError: this model has no cache"]


def test_plain_text_is_continued(train: Train, tmp_path: Path) -> None:
    texts = [f"one two three four five six seven eight nine ten {number}" for number in range(12)]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation")}
    (first, *_) = answers(train({"samples": 1, "files": files}))
    assert any(text.startswith(first.prompt) for text in texts)
    assert first.prompt
    assert first.expected
    assert any(first.expected.strip() in text for text in texts)


def test_the_preferred_answer_is_the_reference_of_a_pair(train: Train, tmp_path: Path) -> None:
    for name in ("train", "validation"):
        pairs = [{"prompt": f"one {number}", "chosen": f"yes {number}", "rejected": "no"} for number in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation")}
    trainer = train({"method": "dpo", "samples": 2, "files": files})
    lines = answers(trainer)
    assert {line.step for line in lines} == {0, trainer.total}
    assert all(line.expected == line.prompt.replace("one", "yes") for line in lines)


# --- the choice of rows ----------------------------------------------------------------------------------------------
def test_the_choice_depends_on_the_rows_and_not_on_their_order(tmp_path: Path) -> None:
    rows = [
        json.dumps({"messages": [{"role": "user", "content": f"q {number}"}, {"role": "assistant", "content": "a"}]})
        for number in range(100)
    ]
    (tmp_path / "one.jsonl").write_text("\n".join([*rows, rows[3]]))
    random.Random(1).shuffle(rows)
    (tmp_path / "two.jsonl").write_text("\n".join(rows) + "\n\n")
    first, second = (choose_rows(str(tmp_path / f"{name}.jsonl"), 5) for name in ("one", "two"))
    assert [row.messages for row in first] == [row.messages for row in second]
    assert len({row.messages[0] for row in first}) == 5
    assert len(choose_rows(str(tmp_path / "two.jsonl"), 500)) == 100


def test_rows_that_would_not_fit_the_context_are_passed_over(
    train: Train, tmp_path: Path, data: dict[str, str]
) -> None:
    long = {"messages": [{"role": "user", "content": "four " * 150}, {"role": "assistant", "content": "even"}]}
    short = {"messages": [{"role": "user", "content": "four"}, {"role": "assistant", "content": "even"}]}
    path = tmp_path / "validation.jsonl"
    path.write_text(json.dumps(long) + "\n" + json.dumps(short) + "\n")
    files = {"train": data["train"], "validation": str(path)}
    trainer = train({"samples": 2, "files": files, "on_too_long": "truncate"})
    assert {line.prompt for line in answers(trainer)} == {"four"}


def test_a_secret_in_a_row_is_not_written_nor_half_of_it(
    train: Train, tmp_path: Path, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a1b2c3" * 8
    monkeypatch.setenv("ACME_API_KEY", secret)
    question = f"one {secret}"
    row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "odd"}]}
    (tmp_path / "validation.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(sample_answers, "_SHOWN", 30)
    files = {"train": data["train"], "validation": str(tmp_path / "validation.jsonl")}
    trainer = train({"samples": 1, "files": files, "on_too_long": "truncate"})
    text = trainer.folder.samples.read_text()
    assert "one " in text
    assert "a1b2c3" not in text


# --- the run folder --------------------------------------------------------------------------------------------------
def test_answers_are_read_from_a_cursor_on_and_half_a_line_is_left(tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    folder.path.mkdir()
    line = SampleLine(step=1, number=1, prompt="\x1b[31mhow\n", answer="\U0001f680 \u2028")
    folder.append_samples([line])
    lines, cursor = folder.read_samples()
    assert lines == [line]
    with folder.samples.open("ab") as file:
        file.write(b'{"step": 2, "numb')
    assert folder.read_samples(cursor) == ([], cursor)
    folder.repair()
    folder.append_samples([line])
    assert folder.read_samples(Cursor(attempt=cursor.attempt, offset=cursor.offset))[0] == [line]
