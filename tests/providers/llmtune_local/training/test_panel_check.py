"""A step that has lost more on the panel than the margin is not kept, whatever its validation loss."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.errors import InvalidData, InvalidJob
from llmtune.evaluation.panel.questions import load_panel
from llmtune.job.spec import TuningJob
from llmtune.runs.plans import plan
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training import panel_check
from llmtune_local.training.panel_check import SERIES, check_margin
from llmtune_local.training.trainer import Trainer

Train = Callable[..., Trainer]

#: As many validations as steps; no early stop before the end.
STEPS = {
    "epochs": 2,
    "max_steps": 6,
    "eval_every": 1,
    "early_stopping_patience": 6,
    "learning_rate": 0.05,
    "lr_schedule": "constant",
}


@pytest.fixture(autouse=True)
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the panel: the models of these tests learn in seconds."""
    whole = load_panel(True)
    monkeypatch.setattr(panel_check, "load_panel", lambda _: replace(whole, questions=whole.questions[::10]))


def series(trainer: Trainer, name: str) -> dict[int, float]:
    return {line.step: line.value for line in trainer.folder.read_metrics()[0] if line.series == name}


def options(margin: float | None) -> dict[str, Any]:
    return {"options": {"device": "cpu", "num_threads": 1, "panel_margin": margin}}


def forget(monkeypatch: pytest.MonkeyPatch, lost: list[float]) -> None:
    """Let each step have lost so many nats per token on the panel, beginning with step 0."""
    sum_losses = Trainer._sum_losses

    def measure(self: Trainer, batches: Any) -> tuple[float, float]:
        if batches is self.panel_batches:
            return 3.0 + lost[self.progress.step], 0.5
        return sum_losses(self, batches)

    monkeypatch.setattr(Trainer, "_sum_losses", measure)


def test_the_best_step_within_the_margin_is_kept(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    free = train(options(None), **STEPS)
    losses = series(free, "validation/loss")
    assert series(free, SERIES) == {}
    assert free.progress.best_step == 6
    forget(monkeypatch, [0.0, 0.05, 0.1, 0.2, 0.15, 0.31, 0.31])
    trainer = train(options(0.3), **STEPS)
    assert series(trainer, "validation/loss") == losses  # it is looked at, and nothing else changes
    assert series(trainer, SERIES)[3] == pytest.approx(-3.2)
    assert trainer.progress.best_step == 4
    result = trainer.folder.read_result()
    assert result is not None
    assert result.validation_loss == losses[4] > losses[6]
    messages = [event.message for event in trainer.folder.read_events()[0]]
    assert (
        "step 5 is not kept: the log-likelihood on the panel has fallen by 0.31 nats per token, and panel_margin is 0.3"
        in messages
    )
    assert sum("is not kept" in message for message in messages) == 1
    assert any("; 2 that had lost more on the panel than panel_margin were passed over" in text for text in messages)


def test_a_resumed_run_measures_against_the_model_before_the_first_step(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, [0.0, 0.05, 0.1, 0.2, 0.15, 0.31, 0.31])
    whole = train(options(0.3), **STEPS, checkpoint_every=3)
    folder, request = whole.folder, whole.request
    for number, path in folder.checkpoints().items():
        if number > 3:
            shutil.rmtree(path)
    (folder.path / "result.json").unlink()
    with StatusWriter(folder) as journal:
        resumed = Trainer(folder, request, journal, lambda: False)
        resumed.run(resume=True)
    assert (resumed.progress.base_panel, resumed.progress.over_margin) == (-3.0, 2)
    assert resumed.progress.best_step == whole.progress.best_step == 4


def test_where_every_step_forgets_too_much_the_model_is_what_it_was(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, [0.0, *[0.5] * 6])
    trainer = train(options(0.3), **STEPS)
    assert trainer.progress.best_step == 0
    matrices = [tensor for name, tensor in trainer.model.named_parameters() if "lora_B" in name]
    assert matrices
    assert not any(tensor.any() for tensor in matrices)
    assert any("the result is the model as it was" in event.message for event in trainer.folder.read_events()[0])


def test_the_figure_is_the_mean_over_the_tokens_of_the_reference_answers(train: Train, base_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = train(options(1.0), max_steps=1, eval_every=1, early_stopping_patience=1)
    base = AutoModelForCausalLM.from_pretrained(base_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    total, tokens = 0.0, 0
    for (row,) in trainer.panel.rows:
        ids = torch.from_numpy(row.ids.astype("int64"))
        with torch.no_grad():
            logits = base(input_ids=ids.unsqueeze(0)).logits[0, :-1].double()
        losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        mask = torch.from_numpy(row.completion[1:])
        total, tokens = total - float(losses[mask].sum()), tokens + int(mask.sum())
    assert series(trainer, SERIES)[0] == pytest.approx(total / tokens, rel=1e-5)
    read = {tokenizer.decode(row.ids[row.completion]) for (row,) in trainer.panel.rows}
    answers = [question.row.messages[-1].words for question in load_panel(True).questions[::10]]
    assert len(trainer.panel) > len(answers) / 2
    assert sum(any(answer in text for text in read) for answer in answers) > len(answers) / 3


NEEDS = [
    ({"method": "dpo"}, "panel_margin: it is for method sft, and the method is dpo"),
    ({"has_validation": False}, "there are no validation rows"),
    ({"patience": None}, "without early stopping that is the last one"),
]


@pytest.mark.parametrize(("changed", "sentence"), NEEDS)
def test_it_says_what_it_needs(changed: dict[str, Any], sentence: str) -> None:
    fitting: dict[str, Any] = {"method": "sft", "has_validation": True, "patience": 2}
    check_margin(0.1, **fitting)
    check_margin(None, **fitting | changed)
    with pytest.raises(InvalidJob, match=sentence):
        check_margin(0.1, **fitting | changed)


@pytest.mark.parametrize("provider", ["local", "hfjobs"])
def test_a_plan_says_that_it_will_be_refused(provider: str, rows_file: Callable[..., Path]) -> None:
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "team"}]}
        for text in [
            "the printer jams",
            "my card was charged twice",
            "where is the parcel",
            "how do I reset it",
            "close my account",
            "it arrived broken",
            "the invoice lacks a date",
            "which size fits",
            "can I pay later",
            "the app crashes",
        ]
    ]
    job = TuningJob.model_validate(
        {
            "name": "a",
            "dataset": str(rows_file(rows)),
            "model": "tiny",
            "hyperparameters": {"epochs": 1},
            "provider_options": {provider: {"panel_margin": 0.1}},
        }
    )
    warnings = plan(job, provider).warnings
    assert any("refused: panel_margin: it chooses the step that is kept" in note for note in warnings), warnings


def test_a_model_whose_figure_is_no_number_is_refused_before_it_is_trained(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, [math.nan])
    with pytest.raises(InvalidData, match="is no number before training begins"):
        train(options(0.3), **STEPS)
