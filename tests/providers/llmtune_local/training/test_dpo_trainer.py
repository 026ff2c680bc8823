"""DPO: the loss of a plain implementation, a reference that costs no second model, and a margin that grows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from llmtune.errors import InvalidData, NotTranslatable
from llmtune_local.batching import step_order
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training import lr_schedule
from llmtune_local.training.dpo_trainer import PreferenceTrainer, make_pair_step, pair_log_likelihoods
from llmtune_local.training.pair_loss import pair_losses
from llmtune_local.training.progress import Stopped


def write_pairs(path: Path, count: int, seed: int = 0, long: bool = False) -> str:
    """Questions whose polite answer is preferred to the curt one."""
    draw = random.Random(seed)
    before = " ".join(["again"] * 40) + " " if long else ""
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            question = before + " ".join(
                draw.choice(["one", "two", "three", "four"]) for _ in range(draw.randint(1, 6))
            )
            row = {"prompt": question, "chosen": f"the answer is {question[-3:]}", "rejected": "no"}
            file.write(json.dumps(row) + "\n")
    return str(path)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pairs")
    return {
        "train": write_pairs(folder / "train.jsonl", 24),
        "validation": write_pairs(folder / "validation.jsonl", 8, seed=1),
    }


@pytest.fixture
def prefer(train: Callable[..., Any], pairs: dict[str, str]) -> Callable[..., PreferenceTrainer]:
    def run(request: dict[str, Any] | None = None, **hyperparameters: Any) -> PreferenceTrainer:
        trainer = train({"method": "dpo", "files": pairs} | (request or {}), **hyperparameters)
        assert isinstance(trainer, PreferenceTrainer)
        return trainer

    return run


def series(trainer: Any, name: str) -> dict[int, float]:
    return {line.step: line.value for line in trainer.folder.read_metrics()[0] if line.series == name}


# A plain implementation, row by row, by transformers and autograd alone


def plain_likelihood(model: Any, row: Any) -> torch.Tensor:
    """log p(answer | prompt) of one side, through the model's own full logits."""
    ids = torch.tensor(row.ids.astype("int64"))
    logits = model(input_ids=ids[None, :-1]).logits[0].float()
    per_token = functional.log_softmax(logits, dim=-1)[torch.arange(len(ids) - 1), ids[1:]]
    return per_token[torch.tensor(row.completion[1:])].sum()


def plain_loss(model: Any, rows: list[Any], beta: float, smoothing: float) -> torch.Tensor:
    losses = []
    for preferred, rejected in rows:
        policy = plain_likelihood(model, preferred) - plain_likelihood(model, rejected)
        with torch.no_grad(), model.disable_adapter():
            reference = plain_likelihood(model, preferred) - plain_likelihood(model, rejected)
        logit = beta * (policy - reference)
        losses.append(
            -functional.logsigmoid(logit) * (1 - smoothing) - functional.logsigmoid(-logit) * smoothing,
        )
    return torch.stack(losses).mean()


def awake(trainer: Any) -> None:
    """Adapters that are not zero, so that policy and reference differ and every gradient is alive."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1


@pytest.mark.parametrize("how", [{}, {"packing": False}, {"gradient_accumulation_steps": 3}, {"label_smoothing": 0.2}])
def test_loss_and_gradient_are_those_of_a_plain_implementation(
    prefer: Callable[..., PreferenceTrainer], how: dict[str, Any]
) -> None:
    trainer = prefer(max_steps=1, dpo_beta=0.3, **how)
    awake(trainer)
    step, values = trainer._compute_gradient(0)
    gradients = [parameter.grad.clone() for parameter in trainer.trained]
    indices = step_order.rows_of_step(24, 8, 0, 0)
    trainer.optimizer.zero_grad(set_to_none=True)
    with trainer.network.unpacked():
        loss = plain_loss(
            trainer.model, [trainer.train.rows[index] for index in indices], 0.3, how.get("label_smoothing", 0.0)
        )
        loss.backward()
    assert values["train/loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    for gradient, parameter in zip(gradients, trainer.trained, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5)
    assert step.tokens == sum(len(side.ids) for index in indices for side in trainer.train.rows[index])
    margin = values["train/reward_preferred"] - values["train/reward_rejected"]
    assert values["train/reward_margin"] == pytest.approx(margin, abs=1e-5)


@pytest.mark.slow
def test_a_whole_run_has_the_losses_of_a_plain_loop(prefer: Callable[..., PreferenceTrainer]) -> None:
    trainer = prefer(epochs=2, learning_rate=1e-2)
    first = prefer(max_steps=1, learning_rate=1e-30)  # the same beginning: the adapter as it was drawn
    model, rows = first.model.train(), first.train.rows
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2)
    losses = {}
    with first.network.unpacked():
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        for number in range(6):
            loss = plain_loss(model, [rows[index] for index in step_order.rows_of_step(24, 8, 0, number)], 0.1, 0.0)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * lr_schedule.lr_factor("linear", number, 6, 0)
            optimizer.step()
            losses[number + 1] = float(loss.detach())
    assert series(trainer, "train/loss") == pytest.approx(losses, rel=1e-3)
    assert losses[1] == pytest.approx(0.6931, abs=1e-4)  # policy and reference are one at the start: log 2
    assert losses[6] < 0.5


def test_the_formula() -> None:
    policy = torch.tensor([[-1.0, -2.0], [-3.0, -1.0]])
    losses = pair_losses(policy, torch.zeros(2, 2), beta=0.5)
    torch.testing.assert_close(losses.margins, torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(losses.loss, torch.log1p(torch.exp(-losses.margins)))
    smoothed = pair_losses(policy, torch.zeros(2, 2), beta=0.5, smoothing=0.25)
    torch.testing.assert_close(
        smoothed.loss, 0.75 * torch.log1p(torch.exp(-losses.margins)) + 0.25 * torch.log1p(torch.exp(losses.margins))
    )


# Layouts


def test_packed_padded_and_behind_one_prompt_are_the_same(
    prefer: Callable[..., PreferenceTrainer], tmp_path: Path
) -> None:
    files = {"train": write_pairs(tmp_path / "long.jsonl", 10, long=True)}
    trainer = prefer({"files": files}, max_steps=1)
    assert trainer.network.shares_prefixes
    awake(trainer)
    rows: Any = trainer.train.rows
    numbers = list(range(len(rows)))
    trainer.model.eval()

    def all_of(**how: Any) -> dict[int, list[float]]:
        step = make_pair_step(rows, numbers, **how)
        assert sorted(number for batch in step.batches for number in batch.pairs) == numbers
        by_pair = {}
        for batch in step.batches:
            by_pair |= dict(zip(batch.pairs, pair_log_likelihoods(trainer.network, batch).tolist(), strict=True))
        return by_pair

    with torch.no_grad():
        shared = all_of(packed=True, share_prefixes=True, token_budget=4096)
        alone = all_of(packed=True, share_prefixes=False, token_budget=4096)
        small = all_of(packed=True, share_prefixes=True, token_budget=16)
        with trainer.network.unpacked():
            padded = all_of(packed=False, token_budget=4096)
            plain = {
                number: [float(plain_likelihood(trainer.model, side)) for side in rows[number]] for number in numbers
            }
    for variant in (shared, alone, small, padded):
        for number in numbers:
            assert variant[number] == pytest.approx(plain[number], rel=1e-4)
    one = make_pair_step(rows, numbers, packed=True, share_prefixes=True, token_budget=4096)
    two = make_pair_step(rows, numbers, packed=True, share_prefixes=False, token_budget=4096)
    assert one.batches[0].batch.ids.numel() < 0.8 * two.batches[0].batch.ids.numel()


def test_micro_batches_and_memory_change_nothing(
    prefer: Callable[..., PreferenceTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 1, "learning_rate": 1e-2}
    plain = prefer(**settings)
    from llmtune_local.training import dpo_trainer

    real = dpo_trainer.pair_log_likelihoods

    def scarce(network: Any, pairs: Any) -> torch.Tensor:
        if network.model.training and len(pairs.pairs) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return real(network, pairs)

    monkeypatch.setattr(dpo_trainer, "pair_log_likelihoods", scarce)
    trainer = prefer(**settings)
    assert trainer.budget < 4096
    assert series(trainer, "train/loss") == pytest.approx(series(plain, "train/loss"), rel=1e-4)
    assert any("out of memory" in event.message for event in trainer.folder.read_events()[0])


def test_a_head_that_is_more_than_a_layer(
    random_model: Callable[..., Any], tokenizers: Callable[[str], Any], pairs: dict[str, str]
) -> None:
    """Gemma 2 caps its logits: its own head is used, and the likelihoods are still those of its own logits."""
    from llmtune_local.batching.token_rows import read_pairs
    from llmtune_local.models.model_runner import Network

    tokenizer = tokenizers("model_role")
    model = random_model("gemma2", vocab_size=len(tokenizer))
    rows: Any = read_pairs(tokenizer, pairs["train"], limit=None, on_too_long="error").rows
    network = Network(model, device="cpu", dtype=torch.float32)
    assert not network.linear_head
    step = make_pair_step(
        rows, range(4), packed=network.packed, share_prefixes=network.shares_prefixes, token_budget=4096
    )
    with torch.no_grad():
        by_head = {
            number: values
            for batch in step.batches
            for number, values in zip(batch.pairs, pair_log_likelihoods(network, batch).tolist(), strict=True)
        }
        with network.unpacked():
            for number in range(4):
                assert by_head[number] == pytest.approx(
                    [float(plain_likelihood(model, side)) for side in rows[number]], rel=1e-4
                )


# Training


@pytest.mark.parametrize("adapter", ["lora", "dora", "full"])
def test_the_preferred_margin_grows(prefer: Callable[..., PreferenceTrainer], adapter: str) -> None:
    trainer = prefer({"adapter": adapter}, epochs=4, learning_rate=1e-3 if adapter == "full" else 1e-2)
    margins = list(series(trainer, "validation/reward_margin").values())
    assert margins[0] == pytest.approx(0.0, abs=1e-3)
    assert margins[-1] > 0.5
    assert series(trainer, "validation/reward_accuracy")[12] == 1.0
    assert series(trainer, "validation/loss")[0] == pytest.approx(0.6931, abs=1e-3)
    assert series(trainer, "validation/loss")[12] < 0.5
    assert (trainer.folder.path / "reference.npy").exists() == (adapter == "full")
    for part in ("train", "validation"):
        for name in ("loss", "reward_margin", "reward_accuracy", "reward_preferred", "reward_rejected"):
            assert series(trainer, f"{part}/{name}")


@pytest.mark.slow
def test_beta_and_smoothing_have_an_effect(prefer: Callable[..., PreferenceTrainer]) -> None:
    plain = prefer(epochs=1)
    assert series(prefer(epochs=1, dpo_beta=0.1), "train/loss") == series(plain, "train/loss")
    assert series(prefer(epochs=1, dpo_beta=0.5), "train/loss")[3] != series(plain, "train/loss")[3]
    smoothed = prefer(epochs=1, label_smoothing=0.3)
    assert series(smoothed, "train/loss")[3] > series(plain, "train/loss")[3]


def test_a_stopped_full_run_finds_its_reference_again(
    make_request: Callable[..., Any], prefer: Callable[..., PreferenceTrainer], pairs: dict[str, str], tmp_path: Path
) -> None:
    run_request: dict[str, Any] = {"method": "dpo", "adapter": "full", "files": pairs}
    settings: dict[str, Any] = {"epochs": 2, "learning_rate": 1e-3, "lr_schedule": "constant"}
    straight = prefer(run_request, **settings)
    folder = RunDir(tmp_path / "stopped")
    request = make_request(run_request, **settings)
    folder.write_request(request)
    with StatusWriter(folder) as journal:
        trainer = PreferenceTrainer(folder, request, journal, lambda: trainer.progress.step >= 3)
        with pytest.raises(Stopped):
            trainer.run()
    with StatusWriter(folder) as journal:
        again = PreferenceTrainer(folder, request, journal, lambda: False)
        again.run(resume=True)
    for name in ("train/loss", "validation/reward_margin"):
        assert series(again, name) == pytest.approx(series(straight, name), rel=1e-3, abs=1e-5)


def test_going_on_from_an_adapter_takes_it_as_the_reference(
    train: Callable[..., Any], prefer: Callable[..., PreferenceTrainer]
) -> None:
    first = train(epochs=2)
    second = prefer({"model": str(first.folder.adapter)}, epochs=1)
    assert series(second, "train/loss")[1] == pytest.approx(0.6931, abs=1e-3)
    assert (second.folder.path / "reference.npy").exists()
    assert not second.reference_off


def test_rows_without_a_pair_are_named(train: Callable[..., Any], data: dict[str, str]) -> None:
    with pytest.raises(InvalidData, match=r"train.jsonl:1: .*no pair of answers"):
        train({"method": "dpo", "files": data})


# Through the job


def job_of(path: str, **changes: Any) -> Any:
    from llmtune import TuningJob

    return TuningJob.model_validate(
        {
            "name": "polite",
            "dataset": path,
            "model": "tiny",
            "method": "dpo",
            "hyperparameters": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "lora_rank": 4},
            "provider_options": {"local": {"device": "cpu", "num_threads": 1}},
        }
        | changes
    )


@pytest.mark.slow
def test_the_whole_way_of_a_job(tmp_path: Path) -> None:
    from llmtune import tune

    report = tune(job_of(write_pairs(tmp_path / "rows.jsonl", 40)), "local")
    margin = report.series["validation/reward_margin"]
    assert margin.values[0] == pytest.approx(0.0, abs=1e-3)
    assert margin.values[-1] > 0.1
    assert report.series["train/reward_accuracy"].values[-1] > 0.5
    assert next(row for row in report.receipt if row.field == "dpo_beta").effective == 0.1
    tuned = report.evaluation.system("tuned")
    assert report.evaluation.main == "reward_accuracy"
    assert tuned["reward_accuracy"].value == 1.0  # absolute likelihoods would prefer the short "no"
    assert report.diagnosis.verdict == "good fit"
    assert report.identity.method == "dpo"


def test_the_plan_says_what_dpo_takes(tmp_path: Path) -> None:
    from llmtune import plan
    from llmtune.provider.translate import enforce

    path = write_pairs(tmp_path / "rows.jsonl", 10)
    receipt = plan(job_of(path, hyperparameters={}), "local")
    assert (receipt["dpo_beta"].support, receipt["dpo_beta"].effective) == ("default", 0.1)
    assert receipt["learning_rate"].effective == 1e-4
    assert receipt["prompt_loss_weight"].support == "not_applicable"
    assert receipt.data.format == "preference"
    assert receipt.request is not None
    assert receipt.request.body["hyperparameters"]["dpo_beta"] == 0.1
    too_smooth = plan(job_of(path, hyperparameters={"label_smoothing": 0.5}), "local")
    with pytest.raises(NotTranslatable, match="label_smoothing"):
        enforce(too_smooth)
