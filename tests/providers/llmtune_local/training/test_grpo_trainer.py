"""GRPO: the gradient of a plain implementation, answers that a resumed run samples again, and rewards that rise."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.errors import InvalidData, InvalidJob
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training.grpo_trainer import COLLAPSE_STEPS, ReinforcementTrainer
from llmtune_local.training.progress import Stopped
from llmtune_local.training.time_left import ANSWER_COST

#: Pays an answer of the random model now and then.
GRADER = {"kind": "match", "operation": "contains", "reference": "letter"}


def write_prompts(path: Path, count: int, *, long: bool = False, letter: str = "e") -> str:
    before = " ".join(["again"] * 40) + " " if long else ""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{before}{number} one two"},
                {"role": "assistant", "content": letter},
            ],
            "letter": letter,
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("prompts")
    return {
        "train": write_prompts(folder / "train.jsonl", 12),
        "validation": write_prompts(folder / "validation.jsonl", 4),
        "long": write_prompts(folder / "long.jsonl", 4, long=True),
        "hopeless": write_prompts(folder / "hopeless.jsonl", 8, letter="no model writes this"),
    }


@pytest.fixture
def ask(prompts: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """Make the fields of a request; keywords are worker options."""

    def make(train: str = "train", validation: bool = True, **options: Any) -> dict[str, Any]:
        files = {"train": prompts[train]} | ({"validation": prompts["validation"]} if validation else {})
        fixed = {"device": "cpu", "num_threads": 1, "samples_per_prompt": 4, "answer_tokens": 10}
        return {"method": "reinforcement", "grader": GRADER, "files": files, "options": fixed | options}

    return make


def series(trainer: Any, name: str) -> dict[int, float]:
    return {line.step: line.value for line in trainer.folder.read_metrics()[0] if line.series == name}


def points(trainer: Any) -> dict[tuple[int, str], float]:
    return {
        (line.step, line.series): line.value
        for line in trainer.folder.read_metrics()[0]
        if line.series != "train/tokens_per_second"
    }


# A plain implementation, answer by answer, by transformers and autograd alone


def plain_likelihoods(model: Any, answer: Any, temperature: float) -> torch.Tensor:
    ids = torch.tensor(answer.prompt + answer.answer)
    logits = model(input_ids=ids[None, :-1]).logits[0, len(answer.prompt) - 1 :].float() / temperature
    return logits.log_softmax(-1)[torch.arange(len(answer.answer)), torch.tensor(answer.answer)]


def plain_loss(trainer: Any, rollout: Any, drift: float) -> torch.Tensor:
    """The formula; `drift` is by how much each token has become likelier since it was sampled, in nats."""
    options, model = trainer.request.options, trainer.model
    rewards = [answer.reward for answer in rollout.answers]
    size = options.samples_per_prompt
    total, longest = torch.zeros(()), options.answer_tokens
    trained_tokens = sum(len(answer.tokens.answer) for answer in rollout.answers)
    for number, answer in enumerate(rollout.answers):
        group = torch.tensor(rewards[number // size * size : number // size * size + size], dtype=torch.float64)
        advantage = float(rewards[number] - group.mean())
        if options.loss_normalisation != "dr_grpo":
            advantage /= float(group.std()) + 1e-4
        policy = plain_likelihoods(model, answer.tokens, options.answer_temperature)
        with torch.no_grad(), trainer._reference():
            reference = plain_likelihoods(model, answer.tokens, options.answer_temperature)
        ratio = torch.exp(policy - policy.detach() + drift)
        clipped = ratio.clamp(1 - options.clip, 1 + options.clip)
        kl = torch.exp(reference - policy) - (reference - policy) - 1
        tokens = options.kl_beta * kl - torch.minimum(ratio * advantage, clipped * advantage)
        if options.loss_normalisation == "grpo":
            total = total + tokens.mean() / len(rewards)
        elif options.loss_normalisation == "dapo":
            total = total + tokens.sum() / trained_tokens
        else:
            total = total + tokens.sum() / (len(rewards) * longest)
    return total


def awaken(trainer: Any) -> None:
    """Move the trained weights away from the start, so that policy and reference differ and every gradient is alive."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            scale = 0.1 if "lora_B" in name else 0.02
            parameter.data = parameter.data + torch.randn(parameter.shape, generator=generator) * scale


@pytest.mark.parametrize(
    ("adapter", "how", "recipe", "drift"),
    [
        ("lora", {"loss_normalisation": "grpo"}, {}, 0.3),
        ("lora", {"loss_normalisation": "dapo", "answer_temperature": 0.7}, {"packing": False}, 0.0),
        ("lora", {"loss_normalisation": "dr_grpo"}, {"gradient_accumulation_steps": 3}, 0.3),
        ("full", {"loss_normalisation": "dapo"}, {}, 0.0),
        ("lora", {"train": "long", "token_budget": 200}, {}, 0.0),
    ],
)
def test_loss_and_gradient_are_those_of_a_plain_implementation(
    train: Callable[..., Any],
    ask: Callable[..., Any],
    adapter: str,
    how: dict[str, Any],
    recipe: dict[str, Any],
    drift: float,
) -> None:
    request = ask(kl_beta=0.2, validation=False, **how) | {"adapter": adapter}
    trainer = train(request, max_steps=1, batch_size=4, **recipe)
    awaken(trainer)
    step, values = trainer._compute_gradient(0)
    rollout = trainer._rollout
    assert len({answer.reward for answer in rollout.answers}) > 1
    if drift:  # as after an update that has made each token so much likelier
        rollout.sampling -= drift
        trainer._update = 1
        step, values = trainer._compute_gradient(0)
        assert values["train/clipped_tokens"] > 0
    gradients = [parameter.grad.clone() for parameter in trainer.trained]
    trainer.optimizer.zero_grad(set_to_none=True)
    with trainer.network.unpacked():
        loss = plain_loss(trainer, rollout, drift)
        loss.backward()
    assert values["train/policy_loss"] == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-6)
    assert values["train/kl"] > 0
    largest = max(float(parameter.grad.abs().max()) for parameter in trainer.trained)
    for gradient, parameter in zip(gradients, trainer.trained, strict=True):
        assert float((gradient - parameter.grad).abs().max()) <= 1e-5 * max(1.0, largest)
    assert step.tokens == sum(answer.tokens.tokens for answer in rollout.answers)
    if how.get("train") == "long":
        assert trainer.network.shares_prefixes


def test_what_a_run_measures(train: Callable[..., Any], ask: Callable[..., Any]) -> None:
    trainer = train(ask() | {"samples": 2}, max_steps=4, epochs=2, batch_size=4, eval_every=2)
    measured = {line.series for line in trainer.folder.read_metrics()[0]}
    assert {f"train/{name}" for name in ("reward", "reward_deviation", "kl", "entropy", "answer_tokens")} < measured
    assert {f"train/{name}" for name in ("dead_groups", "truncated_answers", "clipped_tokens")} < measured
    assert sorted(series(trainer, "validation/reward")) == [0, 2, 4]
    assert {sample.step for sample in trainer.folder.read_samples()[0]} == {0, 2, 4}
    assert series(trainer, "train/kl")[1] == pytest.approx(0.0, abs=1e-6)  # the adapter is still the base
    assert series(trainer, "train/kl")[4] > 0
    assert all(0 <= value <= 1 for value in series(trainer, "train/dead_groups").values())
    assert all(1 <= value <= 10 for value in series(trainer, "train/answer_tokens").values())
    result = trainer.folder.read_result()
    assert result.validation_loss is None
    assert result.trained_tokens < result.tokens
    assert result.resolved["kl_reference"] == "the adapter switched off"


@pytest.mark.slow
def test_several_updates_on_the_answers_of_a_step(train: Callable[..., Any], ask: Callable[..., Any]) -> None:
    once = train(ask(validation=False), max_steps=1, batch_size=4)
    thrice = train(ask(validation=False, updates_per_step=3), max_steps=1, batch_size=4)
    assert series(once, "train/reward") == series(thrice, "train/reward")  # the same answers
    assert series(once, "train/clipped_tokens")[1] == 0
    assert thrice.progress.tokens == 3 * once.progress.tokens
    assert thrice.optimizer.state_dict()["state"][0]["step"] == 3


class PowerCut(BaseException):
    """The end of a process without warning: nothing is written any more."""


@pytest.mark.slow
def test_a_run_that_is_cut_off_anywhere_ends_as_an_undisturbed_one(
    make_request: Callable[..., Any],
    train: Callable[..., Any],
    ask: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off at a sign of life, later each time: between sampled tokens, micro-batches, updates, validations."""
    fields = ask(updates_per_step=2, token_budget=150) | {"adapter": "full"}
    settings: dict[str, Any] = {"max_steps": 4, "batch_size": 4, "eval_every": 2, "checkpoint_every": 1}
    straight = train(fields, **settings)
    folder = RunDir(tmp_path / "cut")
    folder.write_request(make_request(fields, **settings))
    show_life, cuts, signs = StatusWriter.update, 0, itertools.count()

    def update(writer: StatusWriter, **values: Any) -> None:
        if next(signs) == 20 + 27 * cuts:
            raise PowerCut
        show_life(writer, **values)

    with monkeypatch.context() as patches:
        patches.setattr(StatusWriter, "update", update)
        while True:
            signs = itertools.count()
            with StatusWriter(folder) as journal:
                trainer = ReinforcementTrainer(folder, folder.read_request(), journal, lambda: False)
                try:
                    trainer.run(resume=cuts > 0)
                    break
                except PowerCut:
                    cuts += 1
    assert cuts > 3
    assert points(trainer) == points(straight)
    after, before = trainer.model.state_dict(), straight.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_stopped_run_ends_as_an_undisturbed_one(
    adapter: str, make_request: Callable[..., Any], train: Callable[..., Any], ask: Callable[..., Any], tmp_path: Path
) -> None:
    fields = ask(updates_per_step=2) | {"adapter": adapter}
    settings: dict[str, Any] = {"max_steps": 5, "batch_size": 4, "learning_rate": 1e-3, "eval_every": 2}
    straight = train(fields, **settings)
    request = make_request(fields, **settings)
    folder = RunDir(tmp_path / "stopped")
    folder.write_request(request)
    asked = iter(range(10_000))
    for last in (8, 20, None):  # in the first step's sampling, in a later one's, never
        with StatusWriter(folder) as journal:
            first = next(asked)
            trainer = ReinforcementTrainer(
                folder, request, journal, lambda last=last, first=first: last is not None and next(asked) - first > last
            )
            if last is None:
                trainer.run(resume=True)
            else:
                with pytest.raises(Stopped):
                    trainer.run(resume=first > 0)
    assert points(trainer) == points(straight)
    after, before = trainer.model.state_dict(), straight.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.slow
def test_a_killed_worker_ends_as_an_undisturbed_one(
    train: Callable[..., Any], make_request: Callable[..., Any], ask: Callable[..., Any], tmp_path: Path
) -> None:
    """A process of its own, killed without warning; the process of its Python grader ends with it."""
    from tests.providers.llmtune_local.worker.test_main import wait_for

    source = "def grade(row, answer):\n    return min(1.0, answer.count('e') / 3)\n"
    fields = ask() | {"grader": {"kind": "python", "source": source}}
    settings: dict[str, Any] = {"max_steps": 6, "batch_size": 4, "checkpoint_every": 2, "eval_every": 3}
    straight = train(fields, **settings)
    folder = RunDir(tmp_path / "killed")
    folder.write_request(make_request(fields, **settings))
    with (folder.path / "worker.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "llmtune_local.worker", str(folder.path)], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: child.poll() is not None or any(line.step >= 3 for line in folder.read_metrics()[0]))
    finally:
        child.kill()
        child.wait()
    with StatusWriter(folder) as journal:
        trainer = ReinforcementTrainer(folder, folder.read_request(), journal, lambda: False)
        trainer.run(resume=True)
    assert points(trainer) == points(straight)
    after, before = trainer.model.state_dict(), straight.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_rewards_rise(
    adapter: str,
    train: Callable[..., Any],
    ask: Callable[..., Any],
    random_model: Callable[..., Any],
    tokenizers: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    tokenizer, folder = tokenizers("chatml"), tmp_path / "base"
    shape = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "initializer_range": 0.2}
    random_model("llama", **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = {"train": write_prompts(tmp_path / "rare.jsonl", 12, letter="z")}
    request = ask(validation=False, samples_per_prompt=8, kl_beta=0.0) | {"adapter": adapter, "model": str(folder)}
    trainer = train(
        request | {"files": files},
        max_steps=20,
        epochs=100,
        batch_size=8,
        learning_rate=3e-2 if adapter == "lora" else 1e-2,
    )
    rewards = list(series(trainer, "train/reward").values())
    assert rewards[0] < 0.3
    assert max(rewards) > 0.7
    assert trainer.folder.read_result().train_reward == pytest.approx(sum(rewards[-2:]) / 2)  # an epoch has two steps


@pytest.mark.slow
def test_going_on_from_an_adapter_takes_it_as_the_reference(train: Callable[..., Any], ask: Callable[..., Any]) -> None:
    first = train(epochs=1)
    second = train(ask(validation=False) | {"model": str(first.folder.adapter)}, max_steps=2, batch_size=4)
    assert series(second, "train/kl")[1] == pytest.approx(0.0, abs=1e-6)
    assert second.resolved["kl_reference"] == "the trained weights from before the first step"


# Collapse


def test_a_run_that_learns_nothing_ends_in_a_sentence(train: Callable[..., Any], ask: Callable[..., Any]) -> None:
    trainer = train(ask("hopeless", validation=False), max_steps=40, epochs=40, batch_size=2)
    assert trainer.progress.step == COLLAPSE_STEPS
    sentence = trainer.folder.read_result().resolved["stopping"]
    assert sentence.startswith(f"stopped after {COLLAPSE_STEPS} of 40 steps: in the last {COLLAPSE_STEPS} steps all")
    assert "nothing left to learn" in sentence
    assert any(event.message == sentence for event in trainer.folder.read_events()[0])
    assert set(series(trainer, "train/dead_groups").values()) == {1.0}


def test_a_fall_of_the_reward_is_a_collapse(train: Callable[..., Any], ask: Callable[..., Any]) -> None:
    trainer = train(ask(validation=False), max_steps=1, batch_size=2)
    trainer.total = 100

    def watch(rewards: list[float]) -> str:
        trainer._rewards, trainer._best_mean, trainer.progress.collapse = [], None, ""
        for reward in rewards:
            trainer._watch_rewards({"train/reward": reward, "train/dead_groups": 0.0})
        return str(trainer.progress.collapse)

    assert watch([0.8] * 10 + [0.5] * 30) == ""
    assert watch([0.1] * 10 + [0.04] * 30) == ""  # few rewards are noisy
    assert "fell to 0.3, below half of the 0.8 that it had reached" in watch([0.8] * 10 + [0.3] * 10)


# What is refused


def test_a_grader_that_scores_nothing_ends_the_run(train: Callable[..., Any], ask: Callable[..., Any]) -> None:
    grader = {"kind": "match", "operation": "numeric", "reference": "letter"}
    with pytest.raises(InvalidJob, match=r"the grader scores none of 16 answers: the reference 'e' holds no number"):
        train(ask(validation=False) | {"grader": grader}, max_steps=1, batch_size=4)


def test_an_answer_without_a_score_counts_as_the_lowest(train: Callable[..., Any], ask: Callable[..., Any]) -> None:
    source = (
        "def grade(row, answer):\n    if row['messages'][0]['content'].startswith('3'):\n        raise ValueError\n"
    )
    source += "    return 1.0\n"
    grader = {"kind": "python", "source": source, "lowest": -1.0, "highest": 1.0}
    trainer = train(ask(validation=False) | {"grader": grader}, max_steps=3, batch_size=4, learning_rate=1e-9)
    (warning,) = [event.message for event in trainer.folder.read_events()[0] if "does not score" in event.message]
    assert "they count as the lowest reward" in warning
    assert sorted(series(trainer, "train/reward").values()) == [0.5, 1.0, 1.0]  # four of 16 answers at -1, once


def test_prompts_without_room_for_an_answer(
    train: Callable[..., Any], ask: Callable[..., Any], prompts: dict[str, str]
) -> None:
    with pytest.raises(InvalidData, match=r"long\.jsonl:1: the prompt has \d+ tokens and the limit is 40"):
        train(ask("long", validation=False), max_steps=1, max_sequence_length=40)
    with pytest.raises(InvalidData, match="every row is longer"):
        train(ask("long", validation=False) | {"on_too_long": "drop"}, max_steps=1, max_sequence_length=40)


def test_one_process_only(train: Callable[..., Any], ask: Callable[..., Any]) -> None:
    with pytest.raises(InvalidJob, match="one process"):
        train(ask(processes=2), max_steps=1)


def test_the_time_of_its_evaluation_is_estimated() -> None:
    assert ANSWER_COST["reinforcement"] == ANSWER_COST["sft"]
