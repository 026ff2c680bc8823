"""Rows with images are trained and answered as plain transformers does it, and learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("PIL")

import torch

from llmtune.data.example import ImagePart, Message, TextPart
from llmtune.data.formats.chat import CHAT
from llmtune.errors import InvalidJob
from llmtune.provider import GenerationRequest
from llmtune_local.inference.generator import LocalGenerator
from llmtune_local.models import loading
from llmtune_local.models.targets import select_targets
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import RunRequest
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training.trainer import Trainer
from tests.providers.llmtune_local.images import shapes


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trainer_of(folder: Path, family: str, rows: list[dict[str, Any]], **settings: Any) -> Trainer:
    if not (folder / "base").exists():
        shapes.build(family, folder / "base")
    recipe = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "lora_rank": 4}
    request = RunRequest.model_validate(
        {
            "model": str(folder / "base"),
            "files": {"train": str(shapes.write_rows(folder / "train.jsonl", rows))},
            "options": {"device": "cpu", "dtype": "float32", "num_threads": 1} | settings.pop("options", {}),
            "hyperparameters": recipe | settings.pop("hyperparameters", {}),
        }
        | settings
    )
    run = RunDir(folder / "run")
    run.write_request(request)
    return Trainer(run, request, StatusWriter(run), lambda: False)


def two_pictures(*colours: str) -> dict[str, Any]:
    """Return a row of two turns, with an image of another size in each."""
    turns = []
    for name, size in zip(colours, ((16, 16), (40, 24)), strict=True):
        turns += shapes.row(name, shapes.data_url(shapes.picture(shapes.COLOURS[name], size=size)))["messages"]
    return {"messages": turns}


def text_row(text: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}


MIXED = [two_pictures("red", "blue"), *shapes.squares(3), text_row("Hello", "Good day"), *shapes.squares(3, seed=2)]


def plain_model(trainer: Trainer) -> Any:
    """Load the base as transformers alone does."""
    return loading._read_weights(trainer.request.model, None, torch.float32, trainer.config).eval()


def plain_loss(trainer: Trainer, network: Any) -> torch.Tensor:
    """Return the loss that transformers' own model computes, each row by itself, on the answers alone."""
    losses, tokens = [], 0
    for (piece,) in trainer.train.rows:
        ids = torch.from_numpy(piece.ids).long().unsqueeze(0)
        labels = torch.where(torch.from_numpy(piece.completion), ids[0], -100).unsqueeze(0)
        inputs = trainer.images.inputs(ids, piece.images) if piece.images else {}  # type: ignore[attr-defined]
        count = int((labels[0, 1:] != -100).sum())
        losses.append(network(input_ids=ids, labels=labels, use_cache=False, **inputs).loss * count)
        tokens += count
    return torch.stack(losses).sum() / tokens


@pytest.mark.parametrize("family", shapes.SHAPES)
def test_loss_and_gradient_are_those_of_plain_transformers(family: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, family, MIXED, adapter="full", hyperparameters={"batch_size": 8, "max_grad_norm": 0})
    trainer.setup()
    assert "images" in trainer.features
    step, values = trainer._compute_gradient(0)
    assert len(step.batches) == 1  # rows with one image, with two and with none go through the model at once
    plain = plain_model(trainer)
    expected = plain_loss(trainer, plain)
    assert values["train/loss"] == pytest.approx(float(expected.detach()), rel=1e-5)
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
    compared = 0
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None and gradients[name] is not None:
            scale = float(parameter.grad.abs().max()) + 1e-6
            assert torch.allclose(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4 * scale), name
            compared += 1
    assert compared > 20
    tower = [name for name, gradient in gradients.items() if "vis" in name and gradient is not None and gradient.any()]
    assert tower  # with all weights, the tower is trained too


@pytest.mark.parametrize("family", shapes.SHAPES)
def test_in_half_precision_the_loss_is_nearly_the_same(family: str, tmp_path: Path) -> None:
    losses = []
    for dtype in ("float32", "bfloat16"):
        trainer = trainer_of(tmp_path, family, MIXED, options={"dtype": dtype}, hyperparameters={"batch_size": 8})
        trainer.setup()
        losses.append(trainer._compute_gradient(0)[1]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
def test_micro_batches_of_any_size_give_one_gradient(family: str, tmp_path: Path) -> None:
    counts, losses = [], []
    for budget in (2048, 64):
        options, recipe = {"token_budget": budget}, {"batch_size": 8, "prompt_loss_weight": 0.1}
        trainer = trainer_of(tmp_path, family, MIXED, options=options, hyperparameters=recipe)
        trainer.setup()
        step, measured = trainer._compute_gradient(0)
        counts.append(len(step.batches))
        losses.append(measured["train/loss"])
    assert counts[0] < counts[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def question(url: str) -> GenerationRequest:
    parts = (TextPart("Is it red, green, blue or yellow?"), ImagePart(url))
    return GenerationRequest(messages=(Message("user", parts),), max_tokens=8, temperature=0)


@pytest.mark.parametrize("family", shapes.SHAPES)
def test_answers_and_likelihoods_are_those_of_plain_transformers(family: str, tmp_path: Path) -> None:
    base = shapes.build(family, tmp_path / "base")
    urls = [shapes.data_url(shapes.picture(shapes.COLOURS[name], size=(24, 16))) for name in ("red", "blue")]
    text = GenerationRequest(messages=(Message("user", "Hello"),), max_tokens=8, temperature=0)
    requests = [question(urls[0]), text, question(urls[1])]
    options = {"device": "cpu", "dtype": "float32", "num_threads": 1}
    with LocalGenerator(model=str(base), options=options) as generator:
        answers = generator.generate(requests)
        scores = generator.score_labels(requests, ["red", "yellow"])
        images: Any = generator._images
        network, renderer = generator._load()
        for request, answer, score in zip(requests, answers, scores, strict=True):
            prompt = renderer.prompt_ids(request.messages)
            ids = torch.tensor([prompt])
            shown = [image for message in request.messages for image in message.images]
            inputs = images.inputs(ids, images.place(shown, prompt)) if shown else {}
            with torch.no_grad(), network.unpacked():
                generated = network.causal.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=8,
                    do_sample=False,
                    eos_token_id=sorted(renderer.stop_ids),
                    **inputs,
                )[0, len(prompt) :]
                assert answer.text == renderer.tokenizer.decode(generated, skip_special_tokens=True).strip()
                tokens = renderer.tokenizer("red", add_special_tokens=False)["input_ids"]
                full = torch.tensor([[*prompt, *tokens]])
                types = {
                    name: torch.nn.functional.pad(value, (0, len(tokens)))
                    for name, value in inputs.items()
                    if "type" in name
                }
                logits = network.causal(input_ids=full, use_cache=False, **(inputs | types)).logits[0]
            likely = logits.log_softmax(-1)
            start = len(prompt) - 1
            own = sum(float(likely[start + index, token]) for index, token in enumerate(tokens))
            assert score[0] < own  # the end of the turn is part of the answer
        stats = generator.token_stats([CHAT.read(row, 1, []) for row in (MIXED[0], MIXED[4])])
        assert stats.tokens > 10


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(tmp_path: Path) -> None:
    base = shapes.build("llava", tmp_path / "base")
    urls = [shapes.data_url(shapes.picture(colour)) for colour in shapes.COLOURS.values()]
    options = {"device": "cpu", "dtype": "float32", "num_threads": 1}
    with LocalGenerator(model=str(base), options=options) as generator:
        together = generator.score_labels(list(map(question, urls)), ["red", "blue"])
        alone = [generator.score_labels([question(url)], ["red", "blue"])[0] for url in urls]
    assert torch.allclose(torch.tensor(together), torch.tensor(alone), atol=1e-5)
    assert len({round(score[0], 6) for score in together}) == len(urls)  # and each image is seen


def test_an_adapter_is_on_the_text_model_and_on_the_tower_where_it_is_named(tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path, "qwen3_vl", MIXED, hyperparameters={"lora_target_modules": ["all-linear", "visual"], "batch_size": 8}
    )
    trainer.setup()
    names = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert any(".visual.blocks.0.attn.qkv.lora_A" in name for name in names)
    assert any(".language_model.layers.0.self_attn.q_proj.lora_A" in name for name in names)
    trainer.fit()
    assert trainer.step(0)
    tower = [
        parameter for name, parameter in trainer.model.named_parameters() if ".visual." in name and "lora_B" in name
    ]
    assert any(parameter.any() for parameter in tower)  # it learns


def test_names_of_the_tower_are_refused_without_images_and_mean_the_text_model_first(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    network = AutoModelForImageTextToText.from_pretrained(shapes.build("llava", tmp_path))
    with pytest.raises(InvalidJob, match="which rows of text do not train"):
        select_targets(network, ["vision_tower"])
    both = select_targets(network, ["q_proj"], images=True)
    assert all("language_model" in name for name in both.modules)
    tower = select_targets(network, ["multi_modal_projector", "attention"], images=True)
    assert {name.split(".")[1] for name in tower.modules} == {"multi_modal_projector", "language_model"}
    assert "some of what is outside of the text model (vision_tower)" in tower.notes[0]


def test_a_run_writes_what_reads_its_images_beside_the_model_and_removes_their_copies(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "llava", shapes.squares(8), adapter="full")
    result = trainer.run()
    assert result is not None
    assert "preprocessor_config.json" in result.files
    assert list((trainer.folder.path / "images").iterdir())
    trainer.cleanup()
    assert not (trainer.folder.path / "images").exists()
