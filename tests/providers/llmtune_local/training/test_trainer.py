"""Every field of a request moves a gradient, a schedule or an artefact; and a run ends where it should."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.errors import InvalidData, InvalidJob
from llmtune_local.models import loading as models
from llmtune_local.models.targets import select_targets
from llmtune_local.run_state.damage import DiskFull
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import TrainingConfig
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training import checkpoints, lr_schedule
from llmtune_local.training import trainer as loop
from llmtune_local.training.checkpoints import trained_weights
from llmtune_local.training.progress import Diverged, Stopped
from llmtune_local.training.registry import trainer_for
from llmtune_local.training.time_left import EVALUATION_START
from llmtune_local.training.trainer import Trainer

Train = Callable[..., Trainer]


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    """Write numbers in words, and whether the last one is odd."""
    draw, words = random.Random(seed), ("one", "two", "three", "four", "five")
    lines = []
    for _ in range(count):
        numbers = [draw.randrange(5) for _ in range(draw.randint(2, 6))]
        answer = "even" if numbers[-1] % 2 else "odd"
        turns = [("user", " ".join(words[number] for number in numbers)), ("assistant", answer)]
        lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def make_trainer(tmp_path: Path, make_request: Callable[..., Any]) -> Train:
    """Set a trainer up without training it."""

    def make(**hyperparameters: Any) -> Trainer:
        request = make_request(**hyperparameters)
        folder = RunDir(tmp_path / "set-up")
        folder.write_request(request)
        trainer = trainer_for(request)(folder, request, StatusWriter(folder), lambda: False)
        trainer.setup()
        return trainer

    return make


def series(trainer: Trainer, name: str) -> dict[int, float]:
    return {line.step: line.value for line in trainer.folder.read_metrics()[0] if line.series == name}


def adapter(trainer: Trainer) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(trainer.folder.adapter / "adapter_model.safetensors")


def far(actual: Trainer, expected: Trainer) -> bool:
    first, second = adapter(actual), adapter(expected)
    return first.keys() != second.keys() or any(
        first[name].shape != second[name].shape or (first[name] - second[name]).abs().max() > 1e-5 for name in first
    )


def same(actual: Trainer, expected: Trainer) -> None:
    first, second = adapter(actual), adapter(expected)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-3, atol=1e-5)


def test_learns_and_reports(train: Train) -> None:
    trainer = train(epochs=4, eval_every=5)
    result, status = trainer.folder.read_result(), trainer.folder.read_status()
    assert result is not None
    assert status is not None
    assert result.steps == 20
    assert result.rows == 40
    assert result.validation_loss < 0.85 * result.base_validation_loss  # type: ignore[operator]
    assert result.validation_token_accuracy > 0.5  # type: ignore[operator]
    losses = series(trainer, "train/loss")
    assert list(losses) == list(range(1, 21))
    assert result.train_loss == pytest.approx(sum(list(losses.values())[-5:]) / 5)
    assert list(series(trainer, "validation/loss")) == [0, 5, 10, 15, 20]
    assert list(series(trainer, "validation/token_accuracy")) == [0, 5, 10, 15, 20]
    assert series(trainer, "validation/loss")[20] == result.validation_loss
    assert result.trained_tokens < result.tokens
    assert result.trainable_parameters == sum(tensor.numel() for tensor in adapter(trainer).values())
    assert result.versions["torch"] == torch.__version__
    assert result.peak_memory_bytes > 1e7
    assert "packing without padding" in result.features
    assert set(series(trainer, "train/tokens_per_second")) == set(losses)


def test_the_saved_adapter_gives_the_same_logits_in_plain_peft(train: Train, base_folder: Path) -> None:
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = train()
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), trainer.folder.adapter)
    auto = AutoPeftModelForCausalLM.from_pretrained(trainer.folder.adapter)
    tokenizer = AutoTokenizer.from_pretrained(trainer.folder.adapter)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "one two three"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    trainer.model.eval()
    with torch.no_grad(), trainer.network.unpacked():
        expected = trainer.model(input_ids=ids).logits
        torch.testing.assert_close(plain.eval()(input_ids=ids).logits, expected)
        torch.testing.assert_close(auto.eval()(input_ids=ids).logits, expected)
        base = AutoModelForCausalLM.from_pretrained(base_folder).eval()(input_ids=ids).logits
    assert (expected - base).abs().max() > 0.1


def test_the_same_request_gives_the_same_run_and_another_seed_another(train: Train) -> None:
    first, second, reseeded = train(), train(), train({"seed": 1})
    assert series(first, "train/loss") == series(second, "train/loss")
    same(first, second)
    assert series(first, "train/loss")[1] != series(reseeded, "train/loss")[1]  # other rows first
    assert far(first, reseeded)


# Each field


@pytest.mark.slow
def test_epochs_and_max_steps_whichever_ends_first(train: Train) -> None:
    def steps(**hyper: Any) -> int:
        return train(**hyper).progress.step

    assert steps(epochs=1) == 5
    assert steps(epochs=2) == 10
    assert steps(epochs=2, max_steps=3) == 3
    assert steps(epochs=1, max_steps=50) == 5


def test_batch_size_is_rows_per_step(train: Train) -> None:
    trainer = train(batch_size=7)
    assert trainer.progress.step == 6  # 40 rows: five of 7 and one of 5
    assert trainer.resolved["total_steps"] == 6


@pytest.mark.slow
def test_accumulation_and_packing_change_the_batches_and_not_the_result(train: Train) -> None:
    base = train()
    for change in ({"gradient_accumulation_steps": 3}, {"gradient_accumulation_steps": 8}, {"packing": False}):
        trainer = train(**change)
        same(base, trainer)
        assert series(trainer, "train/loss") == pytest.approx(series(base, "train/loss"), rel=1e-4)
    assert "packing without padding" in base.network.features
    assert "padded batches" in trainer.network.features
    assert len(train(gradient_accumulation_steps=3).step(0)[1].batches) == 3
    assert len(train({"options": {"device": "cpu", "num_threads": 1, "token_budget": 40}}).step(0)[1].batches) > 3


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 1e-2)])
def test_a_beginning_computed_once_a_step_trains_like_rows_alone(
    dtype: str, tolerance: float, train: Train, tmp_path: Path
) -> None:
    rules = "one two three four five six seven eight nine ten " * 6
    rows = [
        {
            "messages": [
                {"role": "system", "content": rules},
                {"role": "user", "content": "the quick brown fox " * (1 + number % 5)},
                {"role": "assistant", "content": "jumps over" if number % 2 else "the lazy dog"},
            ]
        }
        for number in range(24)
    ]
    path = tmp_path / "shared.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {"device": "cpu", "num_threads": 1, "dtype": dtype, "token_budget": 80}
    request = {"files": {"train": str(path)}, "options": options}
    settings = {"learning_rate": 1e-2, "epochs": 6}
    together, apart = train(request, **settings), train(request, packing=False, **settings)
    (step, _), (apart_step, _) = together._compute_gradient(0), apart._compute_gradient(0)
    assert len({id(batch.prefix) for batch in step.batches}) == 1
    assert step.batches[0].prefix is not None
    assert len(step.batches) > 1
    assert all(batch.prefix is None for batch in apart_step.batches)
    losses = series(together, "train/loss")
    assert losses == pytest.approx(series(apart, "train/loss"), rel=tolerance)
    assert losses[max(losses)] < 0.9 * losses[1]


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-3},
        {"lr_schedule": "constant"},
        {"lr_schedule": "cosine"},
        {"lr_schedule": "cosine", "lr_num_cycles": 1.5},
        {"lr_schedule": "warmup_stable_decay", "warmup_steps": 2},
        {"min_lr_ratio": 0.5},
        {"warmup_steps": 3},
        {"warmup_ratio": 0.4},
    ],
)
def test_the_rate_follows_the_schedule(change: dict[str, Any], train: Train) -> None:
    trainer = train(epochs=2, **change)
    recipe = trainer.recipe
    rates = series(trainer, "train/learning_rate")
    assert rates == pytest.approx(
        {
            step + 1: recipe.learning_rate
            * lr_schedule.lr_factor(
                recipe.lr_schedule,
                step,
                10,
                recipe.warmup_steps if recipe.warmup_steps is not None else math.ceil(10 * (recipe.warmup_ratio or 0)),
                floor=recipe.min_lr_ratio,
                cycles=recipe.lr_num_cycles,
            )
            for step in range(10)
        }
    )
    assert rates != series(train(epochs=2), "train/learning_rate")
    if "warmup_steps" in change or "warmup_ratio" in change:
        first = adapter(train(epochs=2, max_steps=1, warmup_steps=1))
        assert all(not tensor.any() for name, tensor in first.items() if "lora_B" in name)  # rate 0: nothing moved


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd"},
        {"optimizer": "adafactor"},
        {"optimizer": "rmsprop"},
        {"optimizer": "adagrad"},
        {"adam_beta1": 0.5},
        {"adam_beta2": 0.9},
        {"adam_epsilon": 1e-2},
        {"weight_decay": 0.5},
        {"max_grad_norm": 0.01, "optimizer": "sgd"},
        {"lora_alpha": 1.0},
        {"lora_dropout": 0.5},
        {"dropout": 0.5},
        {"attention_dropout": 0.5},
        {"label_smoothing": 0.3},
        {"replay_share": 0.2},
        {"prompt_loss_weight": 0.3},
        {"layer_lr_multipliers": {"0": 0.1}},
        {"gradient_accumulation_steps": 2, "lora_dropout": 0.5},
    ],
    ids=str,
)
def test_each_setting_changes_what_is_learned(change: dict[str, Any], train: Train) -> None:
    plain = {"optimizer": "sgd"} if change.get("optimizer") == "sgd" and len(change) > 1 else {}
    assert far(train(**plain), train(**change))


def test_clipping_bounds_the_update_exactly(train: Train) -> None:
    """With plain gradient descent, one step moves all weights together by rate times the clipped norm."""

    def moved(limit: float) -> tuple[float, float]:
        trainer = train(optimizer="sgd", max_steps=1, max_grad_norm=limit)
        total = sum(float(tensor.square().sum()) for name, tensor in adapter(trainer).items() if "lora_B" in name)
        return math.sqrt(total), series(trainer, "train/grad_norm")[1]

    distance, norm = moved(0.01)
    assert norm > 0.1  # the norm before clipping is what is reported
    assert distance == pytest.approx(0.01 * 1e-2, rel=1e-3)
    assert moved(0.0)[0] == pytest.approx(norm * 1e-2, rel=1e-3)


@pytest.mark.parametrize("weight", [0.0, 0.01, 0.37, 1.0])
def test_the_prompt_loss_weight_is_exact(weight: float, train: Train, base_folder: Path) -> None:
    """The first step's loss against the base model's own log-probabilities, token by token."""
    from transformers import AutoModelForCausalLM

    trainer = train(prompt_loss_weight=weight, batch_size=40)
    base = AutoModelForCausalLM.from_pretrained(base_folder).eval()
    total, weights = 0.0, 0.0
    for (row,) in trainer.train.rows:
        ids = torch.from_numpy(row.ids.astype("int64"))
        with torch.no_grad():
            logits = base(input_ids=ids.unsqueeze(0)).logits[0, :-1].double()
        nll = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        share = torch.where(torch.from_numpy(row.completion[1:]), 1.0, weight).double()
        total += float((nll * share).sum())
        weights += float(share.sum())
    assert series(trainer, "train/loss")[1] == pytest.approx(total / weights, rel=1e-5)


def test_the_smoothed_loss_is_reported_and_the_validation_loss_is_plain(train: Train) -> None:
    plain, smooth = train(), train(label_smoothing=0.3)
    assert series(plain, "train/loss")[1] != pytest.approx(series(smooth, "train/loss")[1], rel=1e-3)
    assert series(plain, "validation/loss")[0] == pytest.approx(series(smooth, "validation/loss")[0])
    weighted = train(prompt_loss_weight=1.0)
    assert series(plain, "validation/loss")[0] == pytest.approx(series(weighted, "validation/loss")[0])


@pytest.mark.parametrize("change", [{"dropout": 0.5}, {"attention_dropout": 0.5}, {"lora_dropout": 0.5}])
def test_dropout_is_off_when_judging(change: dict[str, float], train: Train) -> None:
    plain, noisy = train(max_steps=1), train(max_steps=1, **change)
    assert series(plain, "validation/loss")[0] == pytest.approx(series(noisy, "validation/loss")[0])
    if "lora_dropout" not in change:  # a fresh adapter adds nothing yet, whatever is dropped
        assert series(plain, "train/loss")[1] != pytest.approx(series(noisy, "train/loss")[1], rel=1e-3)
    assert series(plain, "train/grad_norm")[1] != pytest.approx(series(noisy, "train/grad_norm")[1], rel=1e-3)


def test_dropout_through_the_configuration_where_it_has_one(random_model: Callable[..., Any], tmp_path: Path) -> None:
    random_model("gpt2").save_pretrained(tmp_path)
    recipe = TrainingConfig(epochs=1, batch_size=1, learning_rate=1, dropout=0.25, attention_dropout=0.125)
    model = models.load_base(str(tmp_path), None, dtype=torch.float32, device="cpu", recipe=recipe)
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25, 0.125}


def test_lora_shape(train: Train) -> None:
    trainer = train(lora_rank=6, lora_alpha=3.0, lora_dropout=0.1)
    settings = json.loads((trainer.folder.adapter / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (6, 3, 0.1)
    assert all(6 in tensor.shape for tensor in adapter(trainer).values())
    assert json.loads((train().folder.adapter / "adapter_config.json").read_text())["lora_alpha"] == 8


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("mlp", {"gate_proj", "up_proj", "down_proj"}),
        ("v_proj", {"v_proj"}),
        (("q_proj", "down_proj"), {"q_proj", "down_proj"}),
        (("q_proj", "lm_head"), {"q_proj", "lm_head"}),
    ],
)
def test_target_modules(targets: Any, expected: set[str], train: Train) -> None:
    trainer = train(lora_target_modules=targets)
    assert {name.split(".")[-3] for name in adapter(trainer)} == expected
    assert trainer.network.linear_head == ("lm_head" not in expected)


def test_what_the_adapter_covers_and_what_of_it_learned_nothing_is_reported(train: Train) -> None:
    trainer = train(lora_target_modules="attention", layer_lr_multipliers={"0": 0.0})
    events = [(line.level, line.message) for line in trainer.folder.read_events()[0]]
    assert ("info", "the adapter is on k_proj, o_proj, q_proj, v_proj (2 of each)") in events
    (warning,) = [message for level, message in events if level == "warning"]
    assert warning.startswith("4 of the adapter's matrices are still zero, so the layers behind them learned nothing")
    assert "layers.0.self_attn" in warning
    learned = train(max_steps=2)
    assert not [line for line in learned.folder.read_events()[0] if line.level == "warning"]


@pytest.mark.parametrize("family", ["gpt2", "phi3", "gpt_neox", "gemma2"])
def test_presets_on_other_families(family: str, random_model: Callable[..., Any]) -> None:
    model = random_model(family)
    attention = set(select_targets(model, "attention").modules)
    mlp = set(select_targets(model, "mlp").modules)
    everything = set(select_targets(model, "all-linear").modules)
    assert attention
    assert mlp
    assert not attention & mlp
    leaves = {name.split(".")[-1] for name in attention | mlp}
    assert {name.split(".")[-1] for name in everything} == leaves
    assert "lm_head" not in everything


def test_an_unknown_module_is_refused_with_the_nearest(random_model: Callable[..., Any]) -> None:
    with pytest.raises(InvalidJob, match=r"no module 'q_prj'; there are q_proj"):
        select_targets(random_model("llama"), ("v_proj", "q_prj"))


def test_layer_multipliers_freeze_a_layer(train: Train) -> None:
    weights = adapter(train(layer_lr_multipliers={"0": 0.0}))
    first = [tensor for name, tensor in weights.items() if "lora_B" in name and ".layers.0." in name]
    second = [tensor for name, tensor in weights.items() if "lora_B" in name and ".layers.1." in name]
    assert first
    assert all(not tensor.any() for tensor in first)
    assert all(tensor.any() for tensor in second)


def test_sequence_length(train: Train, tmp_path: Path, data: dict[str, str]) -> None:
    files = tmp_path / "long.jsonl"
    row = {"messages": [{"role": "user", "content": "one " * 60}, {"role": "assistant", "content": "odd"}]}
    files.write_text(Path(data["train"]).read_text() + json.dumps(row) + "\n")
    request = {"files": {"train": str(files)}}
    with pytest.raises(InvalidData, match=r"long.jsonl:41: this row has \d+ tokens and the limit is 48"):
        train(request, max_sequence_length=48)
    dropped = train(request | {"on_too_long": "drop"}, max_sequence_length=48)
    assert (len(dropped.train), dropped.train.dropped) == (40, 1)
    cut = train(request | {"on_too_long": "truncate"}, max_sequence_length=48)
    assert (len(cut.train), cut.train.truncated) == (41, 1)
    assert max(len(row.ids) for (row,) in cut.train.rows) == 48
    assert any("truncated" in event.message for event in cut.folder.read_events()[0])
    with pytest.raises(InvalidJob, match="more than the model's context of 128 tokens"):
        train(max_sequence_length=1000)
    assert train().resolved["max_sequence_length"] == 128


@pytest.mark.slow
def test_evaluation_and_checkpoints_come_when_asked(train: Train) -> None:
    trainer = train(epochs=3, eval_every=4, checkpoint_every=3, keep_checkpoints=2)
    assert list(series(trainer, "validation/loss")) == [0, 4, 8, 12, 15]
    assert list(trainer.folder.checkpoints()) == [12, 15]
    for path in trainer.folder.checkpoints().values():
        assert (path / "adapter" / "adapter_model.safetensors").exists()
    default = train(epochs=3)
    assert list(default.folder.checkpoints()) == [10, 15]  # each epoch, two kept
    assert list(series(default, "validation/loss")) == [0, 4, 8, 12, 15]  # a fifth of the training time allows no more
    assert list(train(epochs=3, keep_checkpoints=3).folder.checkpoints()) == [5, 10, 15]
    without = train({"files": {"train": trainer.request.files.train}})
    assert series(without, "validation/loss") == {}
    assert without.folder.read_result().validation_loss is None  # type: ignore[union-attr]


@pytest.mark.slow
def test_early_stopping_keeps_the_best_weights(train: Train) -> None:
    trainer = train(epochs=30, learning_rate=0.2, eval_every=1, early_stopping_patience=2, lr_schedule="constant")
    losses = series(trainer, "validation/loss")
    result = trainer.folder.read_result()
    assert result is not None
    assert result.early_stopping is not None
    assert result.early_stopping.stopped
    assert result.steps < 150
    best = min(losses, key=lambda step: (losses[step], step))
    assert result.early_stopping.best_step == best == result.steps - 2
    assert result.validation_loss == losses[best] == result.early_stopping.best_loss
    trainer.progress.step = 1
    trainer.validate()  # the weights in hand are those of the best step
    assert trainer.progress.validation_loss == pytest.approx(losses[best], rel=1e-5)
    strict = train(epochs=30, learning_rate=1e-4, eval_every=1, early_stopping_patience=2, early_stopping_threshold=5)
    assert strict.progress.step == 2
    patient = train(epochs=30, learning_rate=0.2, eval_every=1, early_stopping_patience=4, lr_schedule="constant")
    assert patient.progress.step > trainer.folder.read_result().steps  # type: ignore[union-attr]
    with pytest.raises(InvalidJob, match="needs validation rows"):
        train({"files": {"train": trainer.request.files.train}}, early_stopping_patience=1)


def test_validation_that_costs_too_much_is_on_a_fixed_sample(train: Train, tmp_path: Path) -> None:
    validation = write_rows(tmp_path / "many.jsonl", 200, seed=3)

    def run(**hyper: Any) -> Trainer:
        return train({"files": {"train": train_file, "validation": str(validation)}}, max_steps=2, **hyper)

    train_file = str(write_rows(tmp_path / "train.jsonl", 40))
    first, again = run(), run()
    assert first.resolved["validation_rows"] == len(first.validation) == 20
    assert [row.ids.tolist() for (row,) in first.validation.rows] == [
        row.ids.tolist() for (row,) in again.validation.rows
    ]
    assert list(series(first, "validation/loss")) == [0, 2]
    assert any("20 of 200 validation rows" in event.message for event in first.folder.read_events()[0])
    asked = run(eval_every=1)
    assert asked.resolved["validation_rows"] == 200
    assert list(series(asked, "validation/loss")) == [0, 1, 2]


def test_a_stop_says_where_and_what_was_kept(train: Train) -> None:
    trainer = train(epochs=30, learning_rate=0.2, eval_every=1, early_stopping_patience=2, lr_schedule="constant")
    (sentence,) = [event.message for event in trainer.folder.read_events()[0] if "at most" in event.message]
    steps, best = trainer.progress.step, trainer.progress.best_step
    assert sentence == (
        f"stopped after {steps / 5:.3g} of at most 30 epochs: validation no longer improved; the step with the best"
        f" validation loss was kept (step {best} of {steps})"
    )
    assert trainer.status_writer.status.resolved["stopping"] == sentence


def test_a_rising_accuracy_keeps_a_run_going_where_the_rule_chose_its_evaluations(make_trainer: Train) -> None:
    def stops(accuracies: list[float], **hyper: Any) -> int | None:
        trainer = make_trainer(epochs=30, early_stopping_patience=2, **hyper)
        for step, accuracy in enumerate(accuracies, start=1):
            trainer.progress.step = step
            trainer._check_early_stopping(1.0 + step, accuracy, 2)
            if trainer.progress.stopped_early:
                assert trainer.progress.best_step == 1
                return step
        return None

    assert stops([0.1, 0.1, 0.1, 0.1]) == 3
    assert stops([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3]) == 7
    assert stops([0.1, 0.1, 0.2, 0.3], eval_every=1) == 3  # the job's own evaluations: by the loss alone


def test_the_time_left_counts_what_is_still_to_come(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[tuple[int, float | None]] = []
    seconds = iter(range(10_000))
    monkeypatch.setattr(loop, "clock", lambda: float(next(seconds)))  # each measured part takes one second
    update = StatusWriter.update

    def note(writer: StatusWriter, **changes: Any) -> None:
        if "eta_seconds" in changes:
            left.append((changes.get("step", writer.status.step), changes["eta_seconds"]))
        update(writer, **changes)

    monkeypatch.setattr(StatusWriter, "update", note)
    trainer = train({"evaluated_rows": 60, "samples": 0}, epochs=2, eval_every=5, checkpoint_every=5)
    # An answer takes as long as eight rows of a validation pass, which goes over 12 rows in one second.
    evaluation = 60 * 8 / 12 + EVALUATION_START
    by_step = dict(left)
    assert by_step[0] == pytest.approx(10 * 3 * 8 / 12 + 2 + evaluation)  # before a step, one is three forward passes
    assert by_step[4] == pytest.approx(6 + 2 + evaluation)  # steps and validations; no checkpoint was measured yet
    assert by_step[5] == pytest.approx(5 + 1 + evaluation)
    assert by_step[7] == pytest.approx(3 + 1 + 2 + evaluation)  # a checkpoint and the result, a second each
    assert trainer.status_writer.status.eta_seconds == pytest.approx(evaluation)


def test_dora_and_full(train: Train, base_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    dora = train({"adapter": "dora"})
    assert any("magnitude" in name for name in adapter(dora))
    full = train({"adapter": "full"}, learning_rate=1e-3)
    result = full.folder.read_result()
    assert result is not None
    assert result.artefact == "model"
    assert result.trainable_parameters == result.total_parameters
    assert full.folder.artefact == full.folder.model
    tuned = AutoModelForCausalLM.from_pretrained(full.folder.model)
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    ids = torch.arange(10).unsqueeze(0)
    with torch.no_grad(), full.network.unpacked():
        logits = tuned(input_ids=ids).logits
        torch.testing.assert_close(full.model.eval()(input_ids=ids).logits, logits)
        assert (base(input_ids=ids).logits - logits).abs().max() > 1e-3


def test_goes_on_from_an_adapter(train: Train) -> None:
    first = train(epochs=2)
    folder = str(first.folder.adapter)
    second = train({"model": folder})
    before, after = series(first, "validation/loss"), series(second, "validation/loss")
    assert after[0] == pytest.approx(before[10], rel=1e-4)
    with pytest.raises(InvalidJob, match="has rank 4"):
        train({"model": folder}, lora_rank=8)
    full = train({"model": folder, "adapter": "full"}, learning_rate=1e-4)
    assert series(full, "validation/loss")[0] == pytest.approx(before[10], rel=1e-4)


@pytest.mark.slow
def test_options(train: Train) -> None:
    plain = train()
    for option in ({"gradient_checkpointing": True}, {"token_budget": 16}, {"num_threads": 2}):
        same(plain, train({"options": {"device": "cpu", "num_threads": 1} | option}))
    half = train({"options": {"device": "cpu", "num_threads": 1, "dtype": "bfloat16"}})
    assert half.folder.read_result().dtype == "bfloat16"  # type: ignore[union-attr]
    assert all(tensor.dtype == torch.float32 for tensor in adapter(half).values())
    assert series(half, "train/loss")[5] == pytest.approx(series(plain, "train/loss")[5], rel=2e-2)
    assert series(half, "train/loss") != series(plain, "train/loss")


# What goes wrong


def test_a_loss_that_is_no_number_stops_the_run(train: Train) -> None:
    with pytest.raises(Diverged, match=r"no longer a number at step \d+ \(learning rate 1e\+30\)"):
        train(epochs=5, optimizer="sgd", learning_rate=1e30, max_grad_norm=0, lr_schedule="constant")


@pytest.mark.slow
def test_out_of_memory_halves_the_micro_batches(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train()
    from llmtune_local.models.model_runner import Network

    original = Network.losses

    def scarce(self: Network, batch: Any, **kwargs: Any) -> Any:
        if self.model.training and batch.ids.numel() > 60:
            raise torch.OutOfMemoryError("out of memory")
        return original(self, batch, **kwargs)

    monkeypatch.setattr(Network, "losses", scarce)
    trainer = train()
    assert trainer.budget < 4096
    same(plain, trainer)
    assert any("out of memory at step 1" in event.message for event in trainer.folder.read_events()[0])
    counted = train(gradient_accumulation_steps=1)  # a fixed number of micro-batches is doubled instead
    assert counted.resolved["gradient_accumulation_steps"] > 1
    same(plain, counted)
    assert any("a step still has 8 rows" in event.message for event in counted.folder.read_events()[0])

    def none_at_all(self: Network, batch: Any, **kwargs: Any) -> Any:
        if self.model.training:
            raise torch.OutOfMemoryError("out of memory")
        return original(self, batch, **kwargs)

    monkeypatch.setattr(Network, "losses", none_at_all)
    for how in ({}, {"gradient_accumulation_steps": 2}):  # one row a micro-batch is as small as it gets
        with pytest.raises(torch.OutOfMemoryError):
            train(**how)


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("", InvalidData, "the file is empty"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n', InvalidData, "bad.jsonl:1: nothing to learn"),
        ('{"messages": [\n', InvalidData, "bad.jsonl:1"),
    ],
)
def test_bad_rows_are_named(text: str, error: type[Exception], sentence: str, train: Train, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(error, match=sentence):
        train({"files": {"train": str(tmp_path / "bad.jsonl")}})


@pytest.mark.slow
def test_unknown_models_are_named(train: Train, tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="holds no model"):
        train({"model": str(tmp_path)})
    with pytest.raises(InvalidJob, match="there is no model"):
        train({"model": "nobody/nothing"})
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(InvalidJob, match="does not generate text"):
        train({"model": str(tmp_path)})


# Resuming


@pytest.mark.slow
def test_a_run_stopped_and_resumed_ends_like_one_that_was_not(
    make_request: Callable[..., Any], train: Train, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "epochs": 3,
        "eval_every": 2,
        "checkpoint_every": 4,
        "lora_dropout": 0.2,
        "warmup_steps": 3,
        "early_stopping_patience": 9,
    }
    straight = train(**settings)
    folder = RunDir(tmp_path / "stopped")
    request = make_request(**settings)
    folder.write_request(request)

    def until(limit: int) -> Trainer:
        with StatusWriter(folder) as journal:
            trainer = Trainer(folder, request, journal, lambda: trainer.progress.step >= limit)
            trainer.run(resume=folder.read_status().attempt > 1)  # type: ignore[union-attr]
            return trainer

    for limit in (3, 9):
        with pytest.raises(Stopped):
            until(limit)
        assert max(folder.checkpoints()) == limit
    # Points written after the last checkpoint, as by a worker that was killed, and half a line.
    with folder.metrics.open("a") as file:
        file.write('{"step":10,"series":"train/loss","value":9.0,"epoch":2.0,"time":0.0}\n{"step":11,"ser')
    resumed = until(10**9)
    for name in ("train/loss", "train/learning_rate", "validation/loss", "validation/token_accuracy"):
        assert series(resumed, name) == pytest.approx(series(straight, name), rel=1e-6)
    lines = [(line.step, line.series) for line in folder.read_metrics()[0]]
    assert len(lines) == len(set(lines))
    same(straight, resumed)
    uninterrupted, result = straight.folder.read_result(), folder.read_result()
    assert uninterrupted is not None
    assert result is not None
    assert (uninterrupted.tokens, uninterrupted.trained_tokens, uninterrupted.steps) == (
        result.tokens,
        result.trained_tokens,
        result.steps,
    )
    assert uninterrupted.early_stopping == result.early_stopping


def test_full_tuning_resumes_too(make_request: Callable[..., Any], train: Train, tmp_path: Path) -> None:
    straight = train({"adapter": "full"}, epochs=2, learning_rate=1e-3)
    folder = RunDir(tmp_path / "stopped")
    request = make_request({"adapter": "full"}, epochs=2, learning_rate=1e-3)
    folder.write_request(request)
    with StatusWriter(folder) as journal:
        trainer = Trainer(folder, request, journal, lambda: trainer.progress.step >= 3)
        with pytest.raises(Stopped):
            trainer.run()
    with StatusWriter(folder) as journal:
        again = Trainer(folder, request, journal, lambda: False)
        again.run(resume=True)
    first, second = trained_weights(straight.model), trained_weights(again.model)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=1e-6)


def plain_loop(trainer: Trainer, base: Path) -> tuple[dict[int, float], dict[str, torch.Tensor]]:
    """Train the same run in transformers, PEFT and torch: each row by itself, one optimizer step for all rows of a
    step."""
    import peft
    from transformers import AutoModelForCausalLM

    from llmtune_local.batching import step_order

    request, recipe = trainer.request, trainer.recipe
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if request.adapter != "full":
        torch.manual_seed(request.seed)
        leaves = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = peft.get_peft_model(
            model,
            peft.LoraConfig(r=4, lora_alpha=8, target_modules=leaves, use_dora=request.adapter == "dora"),
        )
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=recipe.learning_rate, eps=recipe.adam_epsilon, weight_decay=0.0)
    losses = {}
    for number in range(trainer.total):
        chosen = step_order.rows_of_step(len(trainer.train), recipe.batch_size, request.seed, number)
        rows = [piece for index in chosen for piece in trainer.train.rows[index]]
        count = sum(int(row.completion[1:].sum()) for row in rows)
        losses[number + 1] = 0.0
        for row in rows:
            ids = torch.from_numpy(row.ids.astype("int64"))
            logits = model(input_ids=ids.unsqueeze(0)).logits[0, :-1]
            nll = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            loss = nll[torch.from_numpy(row.completion[1:])].sum() / count
            loss.backward()
            losses[number + 1] += float(loss)
        torch.nn.utils.clip_grad_norm_(trained.values(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return losses, {name: parameter.detach() for name, parameter in trained.items()}


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "dora", "full"])
def test_stopped_resumed_and_accumulated_with_a_last_step_of_fewer_rows_a_run_is_one_plain_loop(
    adapter: str, make_request: Callable[..., Any], base_folder: Path, tmp_path: Path
) -> None:
    """An epsilon that is large beside rounding, so that Adam does not turn the sign of noise into a step."""
    request = make_request(
        {"adapter": adapter},
        epochs=2,
        batch_size=17,  # 40 rows: steps of 17, 17 and 6
        gradient_accumulation_steps=3,
        learning_rate=1e-3,
        lr_schedule="constant",
        adam_epsilon=1e-2,
    )
    folder = RunDir(tmp_path / adapter)
    folder.write_request(request)
    with StatusWriter(folder) as journal:
        stopped = Trainer(folder, request, journal, lambda: stopped.progress.step >= 2)
        with pytest.raises(Stopped):
            stopped.run()
    with StatusWriter(folder) as journal:
        trainer = Trainer(folder, request, journal, lambda: False)
        trainer.run(resume=True)
    losses, weights = plain_loop(trainer, base_folder)
    assert len(losses) == 6
    assert series(trainer, "train/loss") == pytest.approx(losses, rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_base_of_a_run_that_goes_on_is_the_earlier_model(
    train: Train, base_folder: Path, data: dict[str, str]
) -> None:
    from llmtune.data.io.reading import load
    from llmtune_local.inference.generator import LocalGenerator

    def loss(model: str) -> float:
        with LocalGenerator(model=model, options={"device": "cpu", "num_threads": 1}) as generator:
            stats = generator.token_stats(load(data["validation"]))
        return stats.loss_sum / stats.tokens

    earlier = train()
    after = train({"model": str(earlier.folder.artefact)}, max_steps=1)
    assert loss(str(earlier.folder.artefact)) == pytest.approx(earlier.progress.validation_loss, rel=1e-4)
    assert loss(str(earlier.folder.artefact)) == pytest.approx(after.progress.base_loss, rel=1e-4)
    assert loss(str(base_folder)) == pytest.approx(earlier.progress.base_loss, rel=1e-4)
    with pytest.raises(InvalidJob, match="the adapter to continue with is LoRA, the job asks for dora"):
        train({"model": str(earlier.folder.artefact), "adapter": "dora"}, max_steps=1)


def test_what_a_run_that_goes_on_takes_over(train: Train, data: dict[str, str]) -> None:
    from llmtune import TuningJob, plan
    from llmtune.provider import ModelRef
    from llmtune_local.provider import LocalProvider
    from llmtune_local.settings import LocalSettings

    artefact = str(train(max_steps=1).folder.artefact)
    provider = LocalProvider("local", LocalSettings())
    options = {"device": "cpu", "template_options": {"enable_thinking": False}}
    ref = ModelRef(id=artefact, base="b", data={"tuned": True, "model": "b", "revision": "r1", "options": options})
    assert provider.continue_from(ref) == (
        artefact,
        {"revision": "r1", "template_options": {"enable_thinking": False}},
    )
    base = provider.base_model(plan(TuningJob(name="t", dataset=data["train"], model=artefact), "local"))
    assert isinstance(base, ModelRef)
    assert (base.data["model"], base.data["tuned"]) == (artefact, False)


# A full disk, and what a crash has damaged


class Disk:
    """Stands in for the disk: full for the folders whose names begin with one of `full`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *full: str) -> None:
        self.full = full
        real = checkpoints.write_folder

        def write(final: Path, write: Callable[[Path], None], *, needs: int) -> None:
            if final.name.startswith(self.full or ("nothing",)):
                raise DiskFull(f"{needs} bytes are needed to write {final.name}")
            real(final, write, needs=needs)

        monkeypatch.setattr(checkpoints, "write_folder", write)


def warnings_of(trainer: Trainer) -> list[str]:
    return [event.message for event in trainer.folder.read_events()[0] if event.level == "warning"]


def test_a_checkpoint_without_room_is_left_out_and_training_goes_on(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, "step-5")
    trainer = train(epochs=2)
    assert trainer.folder.read_result().steps == 10  # type: ignore[union-attr]
    assert list(trainer.folder.checkpoints()) == [10]
    assert [message[:38] for message in warnings_of(trainer)] == ["the checkpoint of step 5 is left out: "]


def test_the_best_steps_weights_are_kept_in_memory_where_there_is_no_room(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    hyperparameters = {"epochs": 2, "early_stopping_patience": 3, "eval_every": 2}
    expected = train(**hyperparameters)
    Disk(monkeypatch, "best")
    trainer = train(**hyperparameters)
    assert trainer.folder.checkpoints() == {}  # a run could not go on from one without the best weights
    actual, uninterrupted = (run.folder.read_result() for run in (trainer, expected))
    assert actual.early_stopping == uninterrupted.early_stopping  # type: ignore[union-attr]
    files = [run.folder.adapter / "adapter_model.safetensors" for run in (trainer, expected)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_result_waits_for_room_and_older_checkpoints_make_some(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, "adapter")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            disk.full = ()

    monkeypatch.setattr(loop, "pause", pause)
    trainer = train(epochs=2)
    assert pauses == [loop.DISK_RETRY_SECONDS] * 3
    assert list(trainer.folder.checkpoints()) == [10]  # of 5 and 10
    assert trainer.folder.artefact_fault() is None
    assert trainer.status_writer.status.waiting_for is None
    assert trainer.folder.read_events()[0][-1].message == "there is room on the disk again"


def test_the_wait_for_room_has_an_end(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, "adapter")
    passed = [0.0]
    monkeypatch.setattr(loop, "clock", lambda: passed[0])
    monkeypatch.setattr(loop, "pause", lambda seconds: passed.__setitem__(0, passed[0] + 3600))
    with pytest.raises(DiskFull, match="bytes are needed to write adapter"):
        train(max_steps=1)
    assert passed[0] == loop.DISK_TIMEOUT


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_damaged_checkpoint_is_passed_over(
    adapter: str, make_request: Callable[..., Any], train: Train, tmp_path: Path
) -> None:
    straight = train({"adapter": adapter}, epochs=3, checkpoint_every=4)
    request = make_request({"adapter": adapter}, epochs=3, checkpoint_every=4)
    folder = RunDir(tmp_path / "crashed")
    folder.write_request(request)
    with StatusWriter(folder) as journal:
        trainer_for(request)(folder, request, journal, lambda: False).run()
    newer = folder.checkpoints()[12]
    newest = newer / "trainer.pt" if adapter == "lora" else newer / "model" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-50])
    with StatusWriter(folder) as journal:
        resumed = trainer_for(request)(folder, request, journal, lambda: False)
        resumed.run(resume=True)
    assert any("the checkpoint of step 12 cannot be used" in message for message in warnings_of(resumed))
    assert "resumed from step 8" in [event.message for event in folder.read_events()[0]]
    lines = [(line.step, line.series) for line in folder.read_metrics()[0]]
    assert len(lines) == len(set(lines))
    uninterrupted, result = straight.folder.read_result(), folder.read_result()
    assert uninterrupted is not None
    assert result is not None
    assert (result.tokens, result.steps) == (uninterrupted.tokens, uninterrupted.steps)  # nothing counts twice
    assert result.train_loss == pytest.approx(uninterrupted.train_loss, rel=1e-5)


def test_max_time_ends_a_run_with_a_checkpoint_and_says_so(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr(loop, "clock", lambda: float(next(ticks)))
    trainer = train({"options": {"device": "cpu", "max_time": 30}}, epochs=50)
    steps = trainer.progress.step
    assert 1 < steps < trainer.total
    assert max(trainer.folder.checkpoints()) == steps
    result = trainer.folder.read_result()
    assert result is not None
    assert result.steps == steps
    sentence = str(result.resolved["stopping"])
    assert sentence.startswith(f"stopped after {steps} of {trainer.total:,} steps: another would have ended after")
    assert any(event.message == sentence for event in trainer.folder.read_events()[0])
    assert max(series(trainer, "validation/loss"), default=steps) == steps


def test_max_time_allows_the_first_step(train: Train) -> None:
    trainer = train({"options": {"device": "cpu", "max_time": 1e-6}}, epochs=5)
    assert trainer.progress.step == 1


def test_enough_time_changes_nothing(train: Train) -> None:
    trainer = train({"options": {"device": "cpu", "max_time": 1e6}}, epochs=1)
    assert trainer.progress.step == trainer.total
    assert "stopping" not in trainer.resolved


def test_an_optimizer_by_its_class_trains_and_resumes(train: Train) -> None:
    options = {"device": "cpu", "optimizer_arguments": {"momentum_decay": 0.01}}
    trainer = train({"options": options}, optimizer="torch.optim.NAdam", epochs=3, checkpoint_every=2)
    curve = series(trainer, "train/loss")
    assert curve[max(curve)] < curve[1]
    assert type(trainer.optimizer) is torch.optim.NAdam


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantization_without_qlora_is_refused(quantization: str, train: Train) -> None:
    with pytest.raises(InvalidJob, match=f"quantization {quantization} is how adapter qlora holds the base"):
        train({"options": {"device": "cpu", "quantization": quantization}})


def test_a_process_without_memory_is_named_by_the_others_too(
    make_request: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that is cut up one process cannot try again alone, and the first may be another one."""
    request, folder = make_request(), RunDir(tmp_path / "run")
    folder.write_request(request)

    def out_of_memory(trainer: Trainer, resume: bool) -> None:
        trainer.root = torch.nn.Module()  # type: ignore[assignment]
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    def lost(trainer: Trainer, resume: bool) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")

    for train, problem, says in (
        (out_of_memory, RuntimeError, "allocate"),
        (lost, MemoryError, "one of the processes"),
    ):
        monkeypatch.setattr(Trainer, "_train", train)
        with StatusWriter(folder) as journal, pytest.raises(problem, match=says):
            trainer_for(request)(folder, request, journal, lambda: False).run()
    monkeypatch.undo()
    with StatusWriter(folder) as journal, pytest.raises(MemoryError, match="out of memory in one of the processes"):
        trainer_for(request)(folder, request, journal, lambda: False).run()
    folder.out_of_memory.unlink()
    with StatusWriter(folder) as journal:
        trainer_for(request)(folder, request, journal, lambda: False).run()
