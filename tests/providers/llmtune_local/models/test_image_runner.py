"""Rows with images are trained as plain transformers would, and learned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package

pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("PIL")

import shapes
import torch

from llmtune_local.models import loading
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import RunRequest
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training.trainer import Trainer


def request_of(folder: Path, family: str, rows: list[dict[str, Any]], **settings: Any) -> RunRequest:
    if not (folder / "base").exists():
        shapes.build(family, folder / "base")
    recipe = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "lora_rank": 4}
    return RunRequest.model_validate(
        {
            "model": str(folder / "base"),
            "files": {"train": str(shapes.write_rows(folder / "train.jsonl", rows))},
            "options": {"device": "cpu", "dtype": "float32", "num_threads": 1} | settings.pop("options", {}),
            "hyperparameters": recipe | settings.pop("hyperparameters", {}),
        }
        | settings
    )


def trainer_of(folder: Path, request: RunRequest) -> Trainer:
    run = RunDir(folder / "run")
    run.write_request(request)
    return Trainer(run, request, StatusWriter(run), lambda: False)


def two_pictures(colours: tuple[str, str]) -> dict[str, Any]:
    """Return a row of two turns, with an image of another size in each."""
    turns = []
    for name, size in zip(colours, ((16, 16), (40, 24)), strict=True):
        url = shapes.data_url(shapes.picture(shapes.COLOURS[name], size=size))
        turns += shapes.row(name, url)["messages"]
    return {"messages": turns}


def text_row(text: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}


def plain_loss(folder: Path, trainer: Trainer, rows: list[dict[str, Any]]) -> float:
    """Return the loss that transformers' own model computes, each row by itself, on the answers alone."""
    network = loading._read_weights(str(folder / "base"), None, torch.float32, trainer.config).eval()
    total, tokens = 0.0, 0
    for pieces in trainer.train.rows:
        (piece,) = pieces
        ids = torch.from_numpy(piece.ids).long().unsqueeze(0)
        labels = torch.where(torch.from_numpy(piece.completion), ids[0], -100).unsqueeze(0)
        inputs = trainer.images.inputs(ids, piece.images) if piece.images else {}
        with torch.no_grad():
            loss = network(input_ids=ids, labels=labels, use_cache=False, **inputs).loss
        count = int((labels[0, 1:] != -100).sum())
        total, tokens = total + float(loss) * count, tokens + count
    return total / tokens


@pytest.mark.parametrize("family", shapes.SHAPES)
def test_the_loss_is_that_of_plain_transformers(family: str, tmp_path: Path) -> None:
    rows = [
        two_pictures(("red", "blue")),
        *shapes.squares(3),
        text_row("Hello", "Good day"),
        *shapes.squares(3, seed=2),
    ]
    request = request_of(tmp_path, family, rows, hyperparameters={"batch_size": 8})
    trainer = trainer_of(tmp_path, request)
    trainer.setup()
    values, step = trainer.step(0)
    assert len(step.batches) == 1  # rows with one image, with two and with none go through the model at once
    assert values["train/loss"] == pytest.approx(plain_loss(tmp_path, trainer, rows), rel=1e-5)
